"""W&B sweep files on a machine without an account, with W&B's own engine (package `sweeps`).

The same engine that W&B's server runs chooses the settings of trials and stops trials early with
Hyperband, and functions of W&B's agent build the command of a trial. A sweep file therefore works
here as it does with `wandb sweep` and `wandb agent`.
"""

import logging
import math
import os
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.runs.tables import best_of, show_outcomes
from prompt_recovery.runs.trials import (
    Outcome,
    State,
    Trial,
    threads_each,
)
from prompt_recovery.settings.arguments import override_value, quoted
from prompt_recovery.settings.extras import require_extra
from prompt_recovery.settings.secrets import redacted
from prompt_recovery.storage import Journal, atomic_write, fingerprint, locked
from prompt_recovery.tables import counted

log = logging.getLogger(__name__)
_POLL_S = 0.5


@dataclass
class _Known:
    """A trial in the record of a sweep.

    Attributes:
        number: Number of the trial from 0, in the order in which the engine chose them.
        parameters: Values by parameter name.
        folder: Folder of its run.
        outcome: The outcome, or None if the trial has not ended.
        process: The trial's process, while it is running.
    """

    number: int
    parameters: Mapping[str, Any]
    folder: Path
    outcome: Outcome | None = None
    process: Trial | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        values = _flat(self.parameters)
        return " ".join(f"{name}={_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else override_value(value)


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Parameters with those of W&B's nested ones under names such as `optim.learning_rate`."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read_sweep(path: Path) -> dict[str, Any]:
    """Reads a sweep file and checks it against W&B's schema.

    Raises:
        PromptRecoveryError: If the file does not exist or is not a valid sweep, or the extra
            `[sweeps]` is not installed.
    """
    try:
        config = _load_yaml(path)
    except FileNotFoundError as error:
        raise PromptRecoveryError(f"file={path}: no such file") from error
    except OSError as error:
        raise PromptRecoveryError(f"file={path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise PromptRecoveryError(f"file={path}: is not valid YAML ({line})") from error
    if not isinstance(config, dict):
        raise PromptRecoveryError(f"file={path}: is not a sweep; see sweeps/ for examples")
    engine = _engine()
    violations = engine.config.schema_violations_from_proposed_config(config)
    if violations:
        raise PromptRecoveryError(f"file={path}: {violations[0]} (W&B's schema of sweeps)")
    return config


class _Loader(yaml.SafeLoader):
    """Reads `1e-5` as a number, as YAML 1.2 does; PyYAML would read a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _load_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a safe loader


def _engine() -> Any:
    import warnings

    require_extra("sweeps", "W&B's sweep engine")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic warns about names of settings
        import sweeps.config

        import sweeps
    return sweeps


class Sweep:
    """A resumable sweep, with a record of its trials in a folder.

    Args:
        config: The result of `read_sweep`.
        folder: Folder for `sweep.yaml`, `trials.jsonl` (synced after every line) and the run
            folder of each trial.
        seed: Seed of the engine's choices.

    Raises:
        PromptRecoveryError: If the folder contains another sweep.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, seed: int = 0) -> None:
        self.config = dict(config)
        self.folder = folder
        self.seed = seed
        metric = self.config.get("metric", {})
        self.metric = metric.get("name", "val/scs")
        self.goal = metric.get("goal", "maximize" if "metric" not in self.config else "minimize")
        copy = folder / "sweep.yaml"
        text = redacted(yaml.safe_dump(self.config, sort_keys=False))
        wanted = yaml.load(text, _Loader)  # a safe loader
        try:
            before = _load_yaml(copy) if copy.is_file() else wanted
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            raise PromptRecoveryError(
                f"{copy}: is damaged, so that it cannot be known whether the folder's trials are "
                "of this sweep; remove the file if they are, or give folder=<another>"
            ) from error
        if before != wanted:
            raise PromptRecoveryError(
                f"{folder} holds a sweep of another file; give folder=<another>, or remove it"
            )
        if not copy.is_file():  # it may be the very file that was given
            with atomic_write(copy) as temporary:
                temporary.write_text(text, encoding="utf-8")
        self.trials: list[_Known] = []
        self._record = Journal(folder / "trials.jsonl", self._replay, in_order=True)
        for trial in self.trials:  # a trial may have finished after the sweep was killed
            if trial.outcome is None and RunFolder(trial.folder).is_finished:
                self._over(trial, self._outcome(trial, "finished", ""))

    def run(self, count: int | None, parallel: int) -> list[Outcome]:
        """Runs trials until `count` have ended or the engine proposes no more.

        Trials that a killed sweep left unfinished are resumed first, from their checkpoints.

        Returns:
            The outcomes, in the order in which the trials were chosen.
        """
        for known in self.trials:
            self._require_metric(known)
        waiting = [t for t in self.trials if t.outcome is None]
        running: list[_Known] = []
        try:
            while True:
                while len(running) < parallel:
                    trial = waiting.pop(0) if waiting else self._next(count)
                    if trial is None:
                        break
                    trial.process = Trial(
                        trial.label, trial.folder, self._command(trial), threads_each(parallel)
                    )
                    running.append(trial)
                    log.info("trial %d started: %s", trial.number, trial.label)
                if not running:
                    break
                time.sleep(_POLL_S)
                self._collect(running)
        except BaseException:
            for trial in running:
                assert trial.process is not None
                trial.process.stop()
            raise
        return [t.outcome for t in self.trials if t.outcome is not None]

    def _collect(self, running: list[_Known]) -> None:
        """Records the trials that have ended, and stops those that Hyperband gives up."""
        for trial in [t for t in running if t.process and not t.process.running()]:
            assert trial.process is not None
            self._over(trial, trial.process.outcome())
            running.remove(trial)
            self._require_metric(trial)
        given_up = {run.name for run in self._given_up()} if running else set()
        for trial in [t for t in running if str(t.number) in given_up]:
            assert trial.process is not None
            trial.process.stop()
            # The trial may have finished just before it was stopped.
            done = trial.process.outcome()
            given = self._outcome(trial, "stopped", "")
            self._over(trial, done if done.state == "finished" else given)
            running.remove(trial)

    def _require_metric(self, trial: _Known) -> None:
        """Raises an error if a finished trial has not measured the metric: no other one will."""
        outcome = trial.outcome
        if (
            outcome is not None
            and outcome.state == "finished"
            and self.metric not in outcome.metrics
        ):
            measured = ", ".join(sorted(outcome.metrics)) or "nothing"
            raise PromptRecoveryError(
                f"metric.name={self.metric}: trial {trial.number} has not measured it; it has "
                f"measured {measured}"
            )

    def _over(self, trial: _Known, outcome: Outcome) -> None:
        trial.outcome = outcome
        self._note({"trial": trial.number, "state": outcome.state, "reason": outcome.reason})
        value = outcome.metric(self.metric)
        reached = f", {self.metric} {value:.4f}" if math.isfinite(value) else ""
        reason = f": {outcome.reason}" if outcome.reason else ""
        log.info("trial %d %s%s%s", trial.number, outcome.state, reached, reason)

    def _next(self, count: int | None) -> _Known | None:
        """Asks the engine for the next trial and records it. Returns None if there is none."""
        number = len(self.trials)
        if count is not None and number >= count:
            return None
        import numpy as np

        # The engine draws from these global generators. A resumed sweep must draw the same.
        seed = int(fingerprint(self.seed, number), 16) % 2**32
        np.random.seed(seed)
        random.seed(seed)
        try:
            chosen = _engine().next_run(self.config, self._runs())
        except ValueError as error:
            raise PromptRecoveryError(f"{self.folder.name}: {error}") from error
        if chosen is None:
            return None
        parameters = {name: _plain(p["value"]) for name, p in chosen.config.items()}
        self._note({"trial": number, "parameters": parameters})
        trial = _Known(number, parameters, self._trial_folder(number, parameters))
        self.trials.append(trial)
        return trial

    def _given_up(self) -> Sequence[Any]:
        if "early_terminate" not in self.config:
            return []
        return _engine().stop_runs(self.config, self._runs())

    def _runs(self) -> list[Any]:
        """Converts the trials to the engine's format."""
        engine = _engine()
        states = {"finished": "finished", "stopped": "killed", "failed": "failed", None: "running"}
        return [
            engine.SweepRun(
                name=str(t.number),
                config={name: {"value": value} for name, value in t.parameters.items()},
                state=engine.RunState(states[t.outcome.state if t.outcome else None]),
                history=[p for p in RunFolder(t.folder).curve() if self.metric in p],
                summaryMetrics=dict(t.outcome.metrics) if t.outcome else {},
            )
            for t in self.trials
        ]

    def _command(self, trial: _Known) -> list[str]:
        """Builds the command as W&B's agent does, and adds the folder of the trial's run."""
        from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

        made = create_sweep_command_args(
            {"args": {name: {"value": value} for name, value in trial.parameters.items()}}
        )
        # Settings in the forms that Hydra reads mean what the values mean in the sweep file.
        settings = [f"{n}={override_value(v)}" for n, v in _flat(trial.parameters).items()]
        for form, sign in (("no_hyphens", ""), ("append_hydra", "+"), ("override_hydra", "++")):
            made[f"args_{form}"] = [f"{sign}{setting}" for setting in settings]
        made |= {
            "env": ["/usr/bin/env"] if os.name == "posix" else [],
            "interpreter": ["python"],
            "program": [self.config.get("program", "train.py")],
        }
        template = self.config.get("command")
        command: list[str] = []
        for part in map(str, create_sweep_command(list(template) if template else None)):
            is_macro = part.startswith("${") and part.endswith("}")
            command += made.get(part[2:-1]) or [] if is_macro else [part]
        command.append(f"hydra.run.dir={quoted(str(trial.folder.resolve()))}")
        if not any(part.startswith("group=") for part in command):
            command.append(f"group={override_value(self.folder.resolve().name)}")
        if RunFolder(trial.folder).has_checkpoint:
            command.append("ckpt_path=last")
        return command

    def _trial_folder(self, number: int, parameters: Mapping[str, Any]) -> Path:
        return self.folder / f"{number:03d}_{fingerprint(dict(parameters))[:8]}"

    def _note(self, event: Mapping[str, Any]) -> None:
        self._record.append(dict(event))

    def _replay(self, event: Mapping[str, Any]) -> None:
        """Applies an event of the record to the state of the sweep."""
        number = event["trial"]
        if type(number) is not int or number < 0:
            raise TypeError("a trial has a number")
        if "parameters" in event:
            if number != len(self.trials):
                raise ValueError(f"trial {number} is out of order")
            parameters = dict(event["parameters"])
            folder = self._trial_folder(number, parameters)
            self.trials.append(_Known(number, parameters, folder))
        else:
            trial, state, reason = self.trials[number], event["state"], event["reason"]
            if state not in get_args(State) or not isinstance(reason, str):
                raise ValueError("a trial ends in one of three ways, for a reason")
            trial.outcome = self._outcome(trial, state, reason)

    def _outcome(self, trial: _Known, state: Any, reason: str) -> Outcome:
        run = RunFolder(trial.folder)
        metrics = run.metrics()
        if metrics is None:
            values = [p[self.metric] for p in run.curve() if self.metric in p]
            best = max if self.goal == "maximize" else min
            metrics = {self.metric: best(values)} if values else {}
        return Outcome(trial.label, trial.folder, state, metrics, reason)


def _plain(value: Any) -> Any:
    """Converts a NumPy scalar to a Python value."""
    return value.item() if hasattr(value, "item") else value


def sweep(file: Path, count: int | None, parallel: int, folder: Path, seed: int) -> list[Outcome]:
    """Runs or resumes a sweep, and prints a table of its trials and the best trial.

    Args:
        file: A W&B sweep file.
        count: Total number of trials, including those of earlier calls; not more than the file's
            `run_cap`. None runs a grid until it is exhausted.
        parallel: Number of trials to run at a time, each in its own process.
        folder: Folder of the sweep.
        seed: Seed of the engine's choices.

    Raises:
        PromptRecoveryError: If the sweep file or a setting is invalid, or no trial has finished.
    """
    config = read_sweep(file)
    cap = config.get("run_cap")
    if cap is not None:
        count = cap if count is None else min(count, cap)
    if count is None and config["method"] != "grid":
        raise PromptRecoveryError(
            f"method {config['method']} never ends: give count=<trials>, or a run_cap"
        )
    if parallel < 1:
        raise PromptRecoveryError(f"parallel={parallel}: must be ≥ 1")
    with locked(folder / "sweep"), _quiet_engine():
        one = Sweep(config, folder, seed)
        if one.trials:
            log.info("%d earlier trials are in %s", len(one.trials), folder)
        outcomes = one.run(count, parallel)
    title = f"{file.name}: {counted(len(outcomes), 'trial')}"
    show_outcomes(outcomes, folder, one.metric, one.goal, title)
    best = best_of(outcomes, one.metric, one.goal)
    if best is None:
        last = next((o.reason for o in reversed(outcomes) if o.reason), "")
        raise PromptRecoveryError(f"no trial of {file} has finished; the last one: {last}")
    log.info(
        "best trial: %s %.4f with %s, in %s",
        one.metric,
        outcomes[best].metric(one.metric),
        outcomes[best].label,
        outcomes[best].folder,
    )
    return outcomes


@contextmanager
def _quiet_engine() -> Iterator[None]:
    """Silences the warnings of the engine's Gaussian process, which a user cannot act on."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn")
        yield
