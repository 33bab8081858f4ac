"""Trains the stages of a run.

A run may train a dense retriever, which answers with the language model, then a first stage, such
as SFT before DPO, and then its main stage.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.preferences import proposing_retriever
from prompt_recovery.runs.folder import (
    RunFolder,
    dense_retriever,
    recorded_config,
    run_path,
    shown_path,
)
from prompt_recovery.runs.processes import is_first, wait_for_first
from prompt_recovery.runs.resuming import checkpoint_file, resumed_run
from prompt_recovery.runs.trials import is_trial, trial_id
from prompt_recovery.settings.paths import with_absolute_paths
from prompt_recovery.storage import MALFORMED, require_writable
from prompt_recovery.terminal import IMPORTING, announced
from prompt_recovery.training.job import PartOfRun, TrainingJob, TrainSettings, job_of
from prompt_recovery.training.rounds import record_rounds, require_rounds, train_rounds
from prompt_recovery.training.stage_settings import first_stage_settings, retriever_settings

log = logging.getLogger(__name__)


@dataclass
class _Elapsed:
    """How long a run has taken so far, with what earlier processes did for it.

    Attributes:
        earlier: The seconds that earlier processes trained for it.
    """

    earlier: float = 0.0
    _begun: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """The seconds so far."""
        return time.perf_counter() - self._begun + self.earlier


def train_stages(given: dict[str, Any], run: RunFolder) -> float:
    """Trains all stages of a run that are not finished yet, and returns its `val/scs`.

    It is NaN if there is no validation.

    Args:
        given: Checked values of `TrainSettings`.
        run: The folder of the run, which its first process has locked.

    Raises:
        PromptRecoveryError: If a setting or a file is wrong.
    """
    elapsed = _Elapsed()
    given = _independent(given)
    stage = None if given["first_stage"] is None else first_stage_settings(given)
    stopped = resumed_run(given["ckpt_path"], run, given)
    if stopped is not None and is_first():
        log.info("ckpt_path=last: continuing the run in %s", shown_path(stopped.path))
    continues = None if stopped is None else stopped.path
    start = None if given["start"] is None else Path(given["start"]).expanduser()
    # What can fail because of the main stage fails here, before others are trained.
    job = job_of(given, run, ckpt_path=checkpoint_file(given["ckpt_path"], stopped))
    if job.trains_retriever and given["retriever"] is not None:
        raise PromptRecoveryError(
            "objective=contrastive trains a retriever itself: give retriever=none"
        )
    if given["rounds"] > 1:
        require_rounds(job, given["rounds"])
    _require_retriever(job, given)
    if not job.trains_retriever and (stage, given["retriever"]) != (None, None):
        _require_usable(replace(job, start=start))
    if is_first():
        require_writable(run.path)
        run.write_config(given)
    tell_next = _stage_lines(given)
    retriever = _retriever(given, job, run, stopped, elapsed, tell_next)
    if retriever is not None:
        # What the run's retriever finds may become candidates, in each of its stages and rounds.
        if job.preferences.retriever is None:
            job = replace(job, preferences=replace(job.preferences, retriever=str(retriever)))
        given = _asking(given, retriever)
    if stage is not None:
        stage = stage if retriever is None else _asking(stage, retriever)
        own, theirs = run.first_stage, stopped and stopped.first_stage
        tell_next()
        start = _stage(stage, run, own, theirs, elapsed, start=start)
    trained = None
    tell_next()
    if given["rounds"] > 1:
        steps = 0

        def train_round(
            stage: dict[str, Any], number: int, start: Path | None, reference: Any
        ) -> RunFolder:
            own, theirs = run.round(number), stopped and stopped.round(number)
            nonlocal steps
            part = PartOfRun(number, run, given, steps)
            fields = {"start": start, "reference": reference, "part": part, "continues": continues}
            folder = RunFolder(_stage(stage, run, own, theirs, elapsed, **fields))
            steps += int((folder.metrics() or {}).get("train/steps", 0))
            return folder

        best, rounds = train_rounds(given, start, train_round)
        if is_first():
            record_rounds(rounds, run)
        trained = best.adapter
    train = _imported()
    job = replace(
        job,
        start=start,
        seconds_before=elapsed.seconds,
        retriever=retriever,
        trained=trained,
        continues=continues,
    )
    return _train(job, run, train).get("val/scs", math.nan)


def _stage_lines(given: dict[str, Any]) -> Callable[[], None]:
    """Returns what to call when each stage of a run begins. It logs the stage and its number, as in
    "stage 1 of 2: the dense retriever", unless the run has only one."""
    retriever, first = given["retriever"], given["first_stage"]
    names = []
    if retriever is not None and retriever.get("run") is None:
        names.append("the dense retriever")
    if first is not None:
        names.append("the first stage of the language model")
    main = "the language model" if first is None else "its main stage"
    names.append(main if given["rounds"] == 1 else f"{main}, in up to {given['rounds']} rounds")
    lines = iter([f"stage {n} of {len(names)}: {name}" for n, name in enumerate(names, 1)])

    def tell_next() -> None:
        line = next(lines)
        if len(names) > 1 and is_first():
            log.info(line)

    return tell_next


def _independent(given: dict[str, Any]) -> dict[str, Any]:
    """Returns settings that mean the same in every folder and tomorrow: paths are absolute, and
    runs to start from are those that links such as `runs/latest` point to now."""
    ckpt_path = given["ckpt_path"]
    if given["start"] is not None:
        given = {**given, "start": str(run_path(given["start"]).resolve())}
    for group, name in (("retriever", "run"), ("preferences", "retriever")):
        settings = given[group]
        if settings is not None and settings.get(name) is not None:
            found = str(run_path(settings[name]).resolve())
            given = {**given, group: {**settings, name: found}}
    given = with_absolute_paths({**given, "ckpt_path": None}, TrainSettings)
    return {**given, "ckpt_path": ckpt_path}


def _retriever(
    given: dict[str, Any],
    job: TrainingJob,
    run: RunFolder,
    stopped: RunFolder | None,
    elapsed: _Elapsed,
    tell_next: Callable[[], None],
) -> Path | None:
    """Trains the retriever or takes a finished one. Returns its folder in the run."""
    if given["retriever"] is None:
        return None
    found = given["retriever"].get("run")
    if found is not None:
        trained = dense_retriever(found, "retriever.run")
        _refuse_seen(job, trained, "retriever.run")
    else:
        tell_next()
        stage, theirs = retriever_settings(given), stopped and stopped.retriever_stage
        folder = _stage(stage, run, run.retriever_stage, theirs, elapsed)
        trained = RunFolder(folder).retriever
    if is_first():
        run.take_retriever(trained)
    wait_for_first("RETRIEVER")  # all processes may read it: rewards and candidates come from it
    return run.retriever


def _asking(settings: dict[str, Any], retriever: Path) -> dict[str, Any]:
    """The settings of a stage, with this retriever for `preferences.mix.retrieved` if it is used
    and no other one is given."""
    preferences = settings["preferences"]
    if not preferences["mix"]["retrieved"] or preferences["retriever"] is not None:
        return settings
    return {**settings, "preferences": {**preferences, "retriever": str(retriever)}}


def _require_retriever(job: TrainingJob, given: dict[str, Any]) -> None:
    """Refuses a run without the dense retriever that other settings need, or with one that has seen
    what the run is judged by."""
    if job.preferences.mix.retrieved and job.preferences.retriever is not None:
        _refuse_seen(job, proposing_retriever(job.preferences), "preferences.retriever")
    if given["retriever"] is not None:
        return
    if job.unlabelled.path is not None:
        raise PromptRecoveryError(
            f"unlabelled.path={job.unlabelled.path}: needs a dense retriever, whose expected SCS "
            "is the reward: give retriever=contrastive, or retriever.run=<run>"
        )
    if job.preferences.mix.retrieved and job.preferences.retriever is None:
        raise PromptRecoveryError(
            f"preferences.mix.retrieved={job.preferences.mix.retrieved}: needs a dense retriever: "
            "give retriever=contrastive, or preferences.retriever=<run>"
        )


def _refuse_seen(job: TrainingJob, retriever: Path, setting: str) -> None:
    """Refuses a finished retriever that has seen validation or test examples of this run."""
    theirs = RunFolder.of_adapter(retriever)
    try:
        seen = {e.id for e in theirs.splits(theirs.recoverer()["data"]["fingerprint"]).train}
    except (OSError, *MALFORMED, PromptRecoveryError) as error:
        log.warning("it cannot be checked what %s was trained on: %s", setting, error)
        return
    own = [e.id for e in (*job.splits.val, *job.splits.test) if e.id in seen]
    if own:
        raise PromptRecoveryError(
            f"{setting}={retriever}: was trained on {len(own)} validation or test examples of "
            "this run; give one that was trained with the same data and split"
        )


def _stage(
    stage: dict[str, Any],
    run: RunFolder,
    own: RunFolder,
    stopped: RunFolder | None,
    elapsed: _Elapsed,
    **job: Any,
) -> Path:
    """Trains a stage of a run unless it is finished. Returns its folder.

    Args:
        stage: Configuration of the stage.
        run: The run that needs the stage.
        own: The stage's folder inside the run.
        stopped: The same stage of the run that is being resumed, if any.
        elapsed: What counts the seconds of the run; those that earlier processes trained the stage
            are added.
        job: Further fields of its job.
    """
    finished = finished_stage(stage, run, stopped)
    if finished is not None:
        if is_first():
            own.take_over(finished)
        elapsed.earlier += (finished.metrics() or {}).get("train/seconds", 0.0)
        return finished.path
    resume = checkpoint_file("last", stopped)
    job = {"continues": stopped and stopped.path, **job}
    train = _imported()
    begun = time.perf_counter()
    metrics = _train(job_of(stage, own, ckpt_path=resume, evaluate=False, **job), run, train)
    here = time.perf_counter() - begun
    elapsed.earlier += max(metrics.get("seconds", 0.0) - here, 0.0)
    return own.path


def _require_usable(job: TrainingJob) -> None:
    with announced(IMPORTING):
        from prompt_recovery.training.language_model import require_usable

    require_usable(job)


_Train = Callable[[TrainingJob], dict[str, float]]


def _imported() -> _Train:
    """Returns `training.run.train`, which takes seconds to import."""
    with announced(IMPORTING):
        from prompt_recovery.training.run import train

    return train


def _train(job: TrainingJob, run: RunFolder, train: _Train) -> dict[str, float]:
    """Trains one stage of a run, whose own folder is the run's or one inside it."""
    if is_first():
        for folder in {run, job.run}:  # a stage that is under way does not count as finished
            folder.discard_metrics()
        job.run.write_config(job.config)
        if not is_trial():
            run.point_latest()
    return train(job)


def finished_stage(
    stage: dict[str, Any], run: RunFolder, stopped: RunFolder | None
) -> RunFolder | None:
    """Finds a run that has finished this stage: the resumed run, or another trial of a multirun.

    Trials of a multirun with the same first stage train it only once. A trial that consists of
    this stage alone is found, too.

    Args:
        stage: Configuration of the stage.
        run: The run that needs the stage.
        stopped: The same stage of the run that is being resumed, if any.

    Returns:
        The finished stage, or None.
    """
    if stopped is not None and stopped.is_finished:
        if is_first():
            log.info("%s is already trained: %s", stage["name"], shown_path(stopped.path))
        return stopped
    if not is_trial():
        return None
    wanted = trial_id(recorded_config(stage))
    for other in _trained_beside(run):
        if wanted == trial_id(recorded_config(_config_of(other))):
            log.info("%s was already trained in %s", stage["name"], other.path)
            return other
    return None


def _trained_beside(run: RunFolder) -> Iterator[RunFolder]:
    beside = sorted(f for f in run.path.parent.iterdir() if f.is_dir() and f != run.path)
    for trial in map(RunFolder, beside):
        stages = (trial, trial.first_stage, trial.retriever_stage)
        yield from (folder for folder in stages if folder.is_finished)


def _config_of(run: RunFolder) -> dict[str, Any]:
    try:
        return run.config()
    except (OSError, ValueError):
        return {}
