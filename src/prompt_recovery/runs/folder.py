"""The folder of a training run and its files.

| file | who writes it | when |
|---|---|---|
| `.hydra/`, `train.log` | Hydra; from Python, `api.train` writes the log | from the start |
| `.run.lock` | `RunFolder.held` | while a process trains |
| `trial.lock` | `RunFolder.held_for_trial` | while a multirun has this trial run |
| `output.log` | `runs.trials.Trial` | while a trial runs: what its process prints |
| `config.yaml` | `training.stages` | when training begins |
| `wandb/` or `csv/` | the logger of `training.tracking` | during training; rounds share `wandb/` |
| `preferences/` | `preferences.build` | before training, where preferences are sampled |
| `curve.jsonl` | `training.run` | after each validation |
| `adapter/` with `recoverer.yaml` | `training.language_model` | after each best validation |
| `retriever/` with `recoverer.yaml` | `training.retriever` | after each best validation |
| `checkpoints/last.ckpt` | `training.checkpoints` | every few minutes and after validations |
| `predictions.jsonl`, `results.png` | `training.results` | after the test, if there is one |
| `environment.yaml`, then `metrics.json` | `training.results` | at the end |
| `calibration.json` in either folder | `recovery.confidence` | when a decoding is first used |
| `rounds/1`, … | all of these | runs inside, for the rounds of `rounds=…` |
| `rounds.json`, `rounds.png` | `training.rounds` | at the end, where there are rounds |
| `first_stage/` | all of these | a run inside, for the stage before the main one |
| `retriever_stage/` | all of these | a run inside, for the retriever of `retriever=contrastive` |
"""

import csv
import difflib
import hashlib
import inspect
import logging
import math
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from prompt_recovery.data.examples import Dataset
from prompt_recovery.data.sources import recorded_dataset
from prompt_recovery.data.splits import Splits, split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.shipped import DEFAULT, shipped_names, shipped_run
from prompt_recovery.settings.secrets import as_written, redacted
from prompt_recovery.storage import (
    MALFORMED,
    atomic_write,
    locked,
    read_json,
    read_jsonl,
    read_yaml,
    write_json,
    write_jsonl,
)

log = logging.getLogger(__name__)

_FIRST_STAGE = "first_stage"
_RETRIEVER_STAGE = "retriever_stage"
_ROUNDS = "rounds"
_NO_RUNS = {
    ".hydra",
    _FIRST_STAGE,
    _RETRIEVER_STAGE,
    _ROUNDS,
    "wandb",
    "files",
}  # folders whose config.yaml is not a run's
_LATEST = "latest"


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. Each file is written atomically; training writes `metrics.json` last.

    A run is *finished* if it has metrics. A finished run keeps its last checkpoint.

    Attributes:
        path: The folder, which need not exist.
    """

    path: Path

    @classmethod
    def create(cls, parent: Path, name: str) -> "RunFolder":
        """Creates a new folder. If the name is taken, `_2`, `_3`, … is appended to it.

        Raises:
            PromptRecoveryError: If the folder cannot be created.
        """
        number = 1
        while True:
            path = parent / (name if number == 1 else f"{name}_{number}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir()
                return cls(path)
            except FileExistsError as error:
                if not path.is_dir():
                    raise _unwritable(path, error) from error
                number += 1
            except OSError as error:
                raise _unwritable(path, error) from error

    @classmethod
    def of_adapter(cls, adapter: Path) -> "RunFolder":
        """Returns the run that an adapter folder belongs to, unless the adapter was moved."""
        return cls(adapter.parent)

    @property
    def adapter(self) -> Path:
        """The folder of the best adapter so far."""
        return self.path / "adapter"

    @property
    def retriever(self) -> Path:
        """The folder of the best dense retriever so far, a sentence-transformers model."""
        return self.path / "retriever"

    @property
    def recoverers(self) -> list[Path]:
        """The folders of the recoverers that the run has trained: the adapter and the retriever."""
        folders = (self.adapter, self.retriever)
        return [folder for folder in folders if recoverer_file(folder).is_file()]

    @property
    def checkpoint(self) -> Path:
        """The file of the last checkpoint."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to resume from, or None if none was written."""
        return self.checkpoint if self.checkpoint.is_file() else None

    @property
    def csv(self) -> Path:
        """The folder of `logger=csv`."""
        return self.path / "csv"

    @property
    def preferences(self) -> Path:
        """The folder of the preferences that the run made."""
        return self.path / "preferences"

    @property
    def environment(self) -> Path:
        """The file that describes the environment in which the run took place."""
        return self.path / "environment.yaml"

    @property
    def chart(self) -> Path:
        """The chart of the results."""
        return self.path / "results.png"

    @property
    def log(self) -> Path:
        """The log of the training."""
        return self.path / "train.log"

    @property
    def output(self) -> Path:
        """The output of the trial's process."""
        return self.path / "output.log"

    @property
    def first_stage(self) -> "RunFolder":
        """The stage before the main one, such as SFT before DPO, which is a run inside this one."""
        return RunFolder(self.path / _FIRST_STAGE)

    @property
    def retriever_stage(self) -> "RunFolder":
        """The training of the retriever that answers with the language model, a run inside."""
        return RunFolder(self.path / _RETRIEVER_STAGE)

    def round(self, number: int) -> "RunFolder":
        """A round of preference optimisation, from 1, which is a run inside this one."""
        return RunFolder(self.path / _ROUNDS / str(number))

    @property
    def rounds(self) -> "list[RunFolder]":
        """The rounds that have begun, in order."""
        folders = (self.path / _ROUNDS).glob("[0-9]*")
        return [self.round(n) for n in sorted(int(f.name) for f in folders if f.name.isdigit())]

    @property
    def rounds_record(self) -> Path:
        """The file that says what each round did."""
        return self.path / "rounds.json"

    @property
    def rounds_chart(self) -> Path:
        """The chart of the rounds."""
        return self.path / "rounds.png"

    @property
    def is_finished(self) -> bool:
        """Whether the run has finished."""
        return self.metrics() is not None

    @property
    def has_config(self) -> bool:
        """Whether the settings of the run are recorded, which is the first thing that it does."""
        return self._config.is_file()

    @property
    def has_checkpoint(self) -> bool:
        """Whether one of the stages has a checkpoint to resume from, which finished ones keep."""
        return self.checkpoint_time is not None

    @property
    def checkpoint_time(self) -> float | None:
        """When the newest checkpoint of the run's stages was written, in seconds since 1970."""
        stages = (self, self.first_stage, self.retriever_stage, *self.rounds)
        files = [run.last_checkpoint for run in stages]
        return max((file.stat().st_mtime for file in files if file is not None), default=None)

    @property
    def is_evaluated(self) -> bool:
        """Whether the run has predictions for the test examples. A first stage has none."""
        return self._predictions.is_file()

    def metrics(self) -> dict[str, float] | None:
        """Returns the run's metrics, or None if it is not finished."""
        metrics = read_json(self._metrics)
        whole = isinstance(metrics, dict) and all(
            isinstance(v, int | float) for v in metrics.values()
        )
        return metrics if whole else None

    def given(self) -> list[str] | None:
        """Returns the settings of the command that began the run, or None if none is recorded."""
        try:
            given = yaml.safe_load((self.path / ".hydra" / "overrides.yaml").read_text("utf-8"))
            return [redacted(str(s)) for s in given if not str(s).startswith("ckpt_path=")]
        except (OSError, *MALFORMED):
            return None

    def how_it_goes_on(
        self,
        begun: Sequence[str] = ("prompt-recovery", "train"),
        given: Sequence[str] | None = None,
    ) -> str:
        """Says which command goes on with the run, or begins it again if it has no checkpoint.

        Args:
            begun: The words that the command begins with.
            given: The settings of the run; by default those that are recorded.
        """
        given = self.given() if given is None else given
        last = ["ckpt_path=last"] if self.has_checkpoint else []
        said = shlex.join([*begun, *(given or []), *last])
        if given is None:  # it is unknown what the words stand for, so they are not quoted
            said = " ".join([*begun, "<the same settings>", *last])
        if last:
            return f"continue with: {said}"
        return f"begin again, because it has no checkpoint yet: {said}"

    def curve(self) -> list[dict[str, float]]:
        """Returns the results of each validation so far (`step` and the metrics), in order."""
        try:
            points = [dict(point) for point in read_jsonl(self._curve)]
            return [{str(k): float(v) for k, v in point.items()} for point in points]
        except (OSError, *MALFORMED):
            return self._logged_curve()

    def _logged_curve(self) -> list[dict[str, float]]:
        """Reads the curve from the files of `logger=csv`, for older runs without `curve.jsonl`."""
        try:
            with (self.csv / "metrics.csv").open(encoding="utf-8", newline="") as file:
                rows = [
                    r for r in csv.DictReader(file) if r.get("val/scs") and not r.get("test/scs")
                ]
            return [{"step": float(r["step"]), "val/scs": float(r["val/scs"])} for r in rows]
        except (OSError, *MALFORMED):
            return []

    def config(self) -> dict[str, Any]:
        """Reads the run's configuration, which is untrusted: nothing in it may be imported.

        Raises:
            OSError, ValueError: If the file does not exist or is damaged.
        """
        return read_yaml(self._config)

    def recoverer(self) -> dict[str, Any]:
        """Reads `recoverer.yaml`, the record of the run's adapter or else of its retriever.

        What the record lacks is not checked.

        Raises:
            OSError, ValueError: If the file does not exist or is damaged.
        """
        return read_yaml(recoverer_file(next(iter(self.recoverers), self.adapter)))

    def predictions(self) -> list[dict[str, Any]]:
        """Reads the test examples with the run's predictions.

        Raises:
            OSError, ValueError: If the file does not exist or is damaged.
        """
        return read_jsonl(self._predictions)

    def config_of(self, part: Path) -> dict[str, Any]:
        """Reads the configuration that a part of the run, its adapter or retriever, was trained by.

        This is the run's, unless the part comes from another run, whose configuration is then in
        the part's folder.

        Raises:
            OSError, ValueError: If the file does not exist or is damaged.
        """
        own = training_file(part)
        return read_yaml(own) if own.is_file() else self.config()

    def splits(self, fingerprint: str | None, part: Path | None = None) -> Splits:
        """Returns the data that the run was trained, validated and tested on, without lead-ins.

        `data` and `split` in `config.yaml` say where the data is. It must have the fingerprint that
        `recoverer.yaml` records.

        Args:
            fingerprint: Fingerprint of the dataset in the record of the adapter, or of the part.
            part: The run's adapter or retriever folder, which another run may have trained.

        Raises:
            PromptRecoveryError: If the configuration or the data cannot be read, or the data has
                changed.
        """
        try:
            config = self.config() if part is None else self.config_of(part)
            shares = {k: v for k, v in config["split"].items() if k != "_target_"}
            newer = [str(k) for k in shares if k not in inspect.signature(split).parameters]
            if newer:
                raise PromptRecoveryError(
                    f"{self._config}: the run was split by settings that this version does not "
                    f"know ({', '.join(newer)}); update prompt-recovery"
                )
            dataset = self._dataset(config["data"])
            self._require(dataset, fingerprint)
            return split(dataset, **shares)
        except (OSError, *MALFORMED) as error:
            raise PromptRecoveryError(
                f"{self._config} does not say what the run was trained on "
                f"({type(error).__name__}); give the run folder as it was left"
            ) from error

    def _dataset(self, record: Mapping[str, Any]) -> Dataset:
        try:
            return recorded_dataset(record)
        except PromptRecoveryError as error:
            reason = str(error).partition(";")[0]  # what follows is for a user who gives the data
            raise PromptRecoveryError(
                f"what the run was trained on cannot be read ({reason}); put it back there, or "
                f"correct `data` in {self._config}"
            ) from error

    def _require(self, dataset: Dataset, fingerprint: str | None) -> None:
        if fingerprint != dataset.fingerprint():
            raise PromptRecoveryError(
                f"{dataset.name} is no longer what the run was trained on: examples it has not "
                "seen cannot be told from those that it has"
            )

    def discard_metrics(self) -> None:
        """Removes the metrics of an earlier run in this folder: it isn't finished any more."""
        self._metrics.unlink(missing_ok=True)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes the resolved configuration as `recorded_config` gives it."""
        text = OmegaConf.to_yaml(OmegaConf.create(recorded_config(config)))
        with atomic_write(self._config) as temporary:
            temporary.write_text(text, "utf-8")

    def write_curve(self, points: Iterable[Mapping[str, float]]) -> None:
        """Writes the results of all validations so far: `step`, `val/scs` and further metrics."""
        write_jsonl(self._curve, points)

    def write_predictions(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes the test examples with their predictions."""
        write_jsonl(self._predictions, rows)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Writes the versions and the hardware that the run used."""
        with atomic_write(self.environment) as temporary:
            temporary.write_text(yaml.safe_dump(dict(environment), sort_keys=False), "utf-8")

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """Writes the run's metrics, which marks it as finished. NaN and infinity are left out."""
        write_json(self._metrics, {k: v for k, v in metrics.items() if math.isfinite(v)})

    def take_over(self, finished: "RunFolder") -> None:
        """Copies a finished run into this folder, so that the other one may be deleted."""
        if finished == self:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for theirs, ours in ((finished.adapter, self.adapter),
                             (finished.retriever, self.retriever),
                             (finished.preferences, self.preferences)):  # fmt: skip
            if theirs.is_dir():
                shutil.copytree(theirs, ours, dirs_exist_ok=True)
        for file in (finished._config, finished._curve, finished.environment,
                     finished._metrics):  # fmt: skip
            if file.is_file():
                shutil.copy(file, self.path)

    def take_retriever(self, folder: Path) -> None:
        """Copies a trained retriever into this run, which then answers with it."""
        if folder.resolve() != self.retriever.resolve():
            shutil.copytree(folder, self.retriever, dirs_exist_ok=True)

    def held(self, wait: bool = False) -> AbstractContextManager[None]:
        """Locks the folder, with `.run.lock`, for the process that trains in it.

        Args:
            wait: Wait for another process that holds the lock instead of raising an error.

        Raises:
            PromptRecoveryError: If another process trains in this folder.
        """
        busy = (
            f"{self.path}: another process trains in this run folder; give hydra.run.dir=<another>"
        )
        return locked(self.path / ".run", None if wait else busy)

    @contextmanager
    def begun(self, wait: bool = False) -> Iterator[None]:
        """Does the same as `held`, and removes the folder if no training began in it.

        It does so even if the user interrupts the run. docs/howto/runs.md describes what is left of
        a run that is killed later.

        Raises:
            PromptRecoveryError: If another process trains in this folder.
        """
        with self.held(wait):
            try:
                yield
            except (Exception, KeyboardInterrupt):
                if {p.name for p in self.path.glob("*")} <= {".run.lock", ".hydra", "train.log"}:
                    shutil.rmtree(self.path, ignore_errors=True)
                raise

    def held_for_trial(self) -> AbstractContextManager[None]:
        """Locks the folder, with `trial.lock`, for the process that starts a trial in it.

        Other processes that would start the same trial wait until it has ended.
        """
        return locked(self.path / "trial")

    def point_latest(self) -> None:
        """Makes `runs/latest` a link to this run, if the file system supports links.

        Training calls this when a run begins, unless it is a trial. So `latest` is the run that was
        started last, and it may be unfinished.
        """
        runs = next((p for p in self.path.parents if p.name == "runs"), None)
        if runs is None:
            return
        link, fresh = runs / _LATEST, runs / f".{_LATEST}.{os.getpid()}"
        try:
            fresh.symlink_to(self.path.resolve(), target_is_directory=True)
            fresh.replace(link)
        except OSError:
            fresh.unlink(missing_ok=True)

    @property
    def _config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def _curve(self) -> Path:
        return self.path / "curve.jsonl"

    @property
    def _predictions(self) -> Path:
        return self.path / "predictions.jsonl"


def recorded_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration as it is recorded.

    It holds no secrets: no password and no query of a URL, and the names of environment variables
    in place of their values. `data.path`, if there is one, is an absolute path. In `data` and
    `split`, the values of variables stay, since they must say what the run was trained on.
    """
    written = {
        name: _redacted(value) if name in ("data", "split") else as_written(value)
        for name, value in config.items()
    }
    data = config.get("data")
    if isinstance(data, Mapping) and data.get("path"):
        written["data"]["path"] = str(Path(data["path"]).expanduser().absolute())
    return written


def _redacted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _redacted(inside) for key, inside in value.items()}
    return redacted(value) if isinstance(value, str) else value


def run_path(run: str | Path) -> Path:
    """Returns the folder that `run` refers to: a path, or the name of a recoverer in this package.

    Raises:
        PromptRecoveryError: If the recoverer of this name cannot be unpacked.
    """
    return shipped_run(str(run)) if str(run) in shipped_names() else Path(run).expanduser()


def run_name(folder: str | Path) -> str:
    """Returns the name of a run's folder, also for the adapter or the retriever in it.

    A link such as `runs/latest` has the name of the run that it points to.
    """
    folder = Path(folder).expanduser().resolve()
    run = RunFolder.of_adapter(folder)
    return (run.path if folder in (run.adapter, run.retriever) else folder).name


def runs_in(path: Path) -> Iterator[RunFolder]:
    """Yields the run in a folder or, if the folder is not a run, all runs below it by name."""
    if RunFolder(path)._config.is_file():
        yield RunFolder(path.resolve())
        return
    for config in sorted(path.rglob("config.yaml")):
        if not _NO_RUNS & set(config.relative_to(path).parts[:-1]):
            yield RunFolder(config.parent.resolve())


def adapter_folder(path: str | Path) -> Path:
    """Returns the adapter folder inside a run folder, or the path itself if there is none."""
    path = run_path(path)
    inside = RunFolder(path).adapter
    return inside if inside.is_dir() else path


def retriever_folder(path: str | Path) -> Path:
    """Returns the retriever folder inside a run folder, or the path itself if there is none."""
    path = run_path(path)
    inside = RunFolder(path).retriever
    return inside if inside.is_dir() else path


def is_retriever(folder: Path) -> bool:
    """Returns whether the folder of a recoverer holds a dense retriever, and not an adapter."""
    return (folder / "modules.json").is_file()


def recoverer_folders(path: str | Path, setting: str = "run") -> list[Path]:
    """Returns the folders of the trained recoverers that `run=<path>` refers to.

    These are the adapter and the retriever of a run, as far as it has them, or the path itself if
    it is such a folder.

    Args:
        path: The path.
        setting: The name of the setting that gives it, for errors.

    Raises:
        PromptRecoveryError: If the folder does not exist or contains no recoverer.
    """
    path = run_path(path)
    if not path.is_dir():
        raise PromptRecoveryError(
            f"{setting}={path}: no such folder; {_meant(path, setting)}give a run or an adapter "
            f"folder{_or_shipped(setting)}, or train one first (prompt-recovery train)"
        )
    if recoverer_file(path).is_file():
        return [path]
    folders = RunFolder(path).recoverers
    if not folders:
        raise PromptRecoveryError(_without_recoverer(path, setting))
    return folders


def _meant(path: Path, setting: str) -> str:
    """Asks whether a name or a folder like that of a missing run was meant."""
    beside = [p.name for p in path.parent.glob("*") if p.is_dir()] if path.parent.is_dir() else []
    words = [*shipped_names(), _LATEST] if len(path.parts) == 1 else []
    near = difflib.get_close_matches(path.name, [*words, *beside], 1, 0.6)
    if not near:
        return ""
    name = near[0] if near[0] in words else path.with_name(near[0])
    return f"did you mean {setting}={name}? "


def _without_recoverer(path: Path, setting: str) -> str:
    """Says that a folder has no recoverer, and what to do if it is an unfinished run's."""
    missing = "holds no adapter/recoverer.yaml or retriever/recoverer.yaml"
    run = RunFolder(path.resolve())
    if run.is_finished or not run.has_config:
        return f"{setting}={path}: {missing}; give the folder of a run, an adapter or a retriever"
    named = f" (which is {shown_path(run.path)})" if path.is_symlink() else ""
    finished = newest_finished(run.path.parent)
    advice = ""
    if finished is not None:
        advice = f"use {setting}={shown_path(finished.path)}, the newest finished run, or, "
    return (
        f"{setting}={path}{named}: is unfinished and {missing}, because it has not been validated "
        f"yet; {advice}unless it is under way, {run.how_it_goes_on()}"
    )


def newest_finished(folder: Path) -> RunFolder | None:
    """Returns the run in a folder that finished last and has a recoverer, or None."""
    found = [run for run in map(RunFolder, folder.glob("*"))
             if not run.path.is_symlink() and run.is_finished and run.recoverers]  # fmt: skip
    return max(found, key=lambda run: run._metrics.stat().st_mtime, default=None)


def shown_path(path: Path) -> Path:
    """Returns a path as it is printed: as seen from here, if it is inside this folder."""
    here, whole = Path.cwd(), path.absolute()
    return whole.relative_to(here) if whole.is_relative_to(here) else whole


def require_adapter_folder(path: str | Path) -> Path:
    """Returns the adapter folder of the language model that `run=<path>` refers to.

    Raises:
        PromptRecoveryError: If the folder does not exist or contains no adapter.
    """
    adapters = [folder for folder in recoverer_folders(path) if not is_retriever(folder)]
    if not adapters:
        raise PromptRecoveryError(
            f"run={path}: holds a dense retriever, but a language model's adapter is needed here"
        )
    return adapters[0]


def dense_retriever(run: str | Path, setting: str) -> Path:
    """Returns the folder of the dense retriever that a run has, or that a folder is.

    Args:
        run: The run or folder.
        setting: The name of the setting that gives it, for the error.

    Raises:
        PromptRecoveryError: If it has none.
    """
    found = [folder for folder in recoverer_folders(run, setting) if is_retriever(folder)]
    if not found:
        raise PromptRecoveryError(
            f"{setting}={run}: holds no dense retriever; give a run of objective=contrastive, or "
            "its retriever folder"
        )
    return found[0]


def bank_file(folder: Path) -> Path:
    """Returns the path of the prompts that a retriever or a probe finds: those of its training."""
    return folder / "bank.jsonl"


def bank_vectors_file(folder: Path) -> Path:
    """Returns the path of the embeddings of a shipped retriever's prompts; others have none."""
    return folder / "bank.npy"


def familiarity_file(folder: Path) -> Path:
    """Returns the path of the word counts from which a retriever tells how familiar a pair is."""
    return folder / "familiarity.npz"


def form_file(folder: Path) -> Path:
    """Returns the path of the measures of a retriever's training pairs, if it uses them."""
    return folder / "form.npz"


def probe_file(folder: Path) -> Path:
    """Returns the path of the weights of a language model's probe, if it has one."""
    return folder / "probe.safetensors"


def write_bank(folder: Path, prompts: Iterable[str]) -> None:
    """Writes the prompts that a retriever can answer with."""
    write_jsonl(bank_file(folder), ({"rewrite_prompt": prompt} for prompt in prompts))


def recoverer_file(folder: Path) -> Path:
    """Returns the path of the record of the recoverer in an adapter or a retriever folder.

    `training.language_model` and `training.retriever` make the records and
    `training.checkpoints.write_record` writes them; `recovery.records.read_record` reads them, and
    so does `RunFolder.recoverer` for comparisons of runs.
    """
    return folder / "recoverer.yaml"


def training_file(part: Path) -> Path:
    """Returns the configuration of the run that trained a part, if that was another run."""
    return part / "training.yaml"


def calibration_file(adapter: Path) -> Path:
    """The calibrations of a recoverer's scores, which `recovery.confidence` fits and keeps."""
    return adapter / "calibration.json"


def weights_digest(folder: Path) -> str:
    """Returns the SHA-256 digest of the weights of an adapter or a retriever, or "" without any."""
    weights = folder / "adapter_model.safetensors"
    files = [weights] if weights.is_file() else sorted(folder.rglob("*.safetensors"))
    changes = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _digest(*changes) if files else ""


def probe_digest(folder: Path) -> str:
    """Returns the SHA-256 digest of the probe in an adapter folder, or "" without any."""
    file = probe_file(folder)
    return _digest((file, file.stat().st_size, file.stat().st_mtime_ns)) if file.is_file() else ""


@lru_cache(maxsize=64)
def _digest(*files: tuple[Path, int, int]) -> str:
    """The digest of files, each with its size and the time of its last change."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def named_runs(runs: str | Iterable[str] | None, setting: str = "run") -> list[Path]:
    """Returns the folders that `run=` refers to: one or a list.

    `latest` is `runs/latest`: the run that was started last, apart from trials. It may be
    unfinished. None is `latest`, too, or the recoverer in this package if there is no such run.

    Args:
        runs: The names or folders.
        setting: The name of the setting that gives them, for errors.
    """
    if runs is None:
        if (Path("runs") / _LATEST).is_dir() or DEFAULT not in shipped_names():
            runs = _LATEST
        else:
            log.warning("no run in runs/latest: run=%s answers, which comes with the package",
                        DEFAULT)  # fmt: skip
            runs = DEFAULT
    return [_named_run(run, setting) for run in ([runs] if isinstance(runs, str) else runs)]


def _named_run(run: str, setting: str) -> Path:
    if run != _LATEST:
        return run_path(run)
    folder = Path("runs") / _LATEST
    if not folder.is_dir():
        raise PromptRecoveryError(
            f"{setting}=latest: there is no runs/latest here; give {setting}=<run or adapter "
            f"folder>{_or_shipped(setting)}, or train a recoverer first (prompt-recovery train)"
        )
    latest = RunFolder(folder.resolve())
    if latest.recoverers and latest.has_config and not latest.is_finished:
        log.warning("runs/latest is %s, which is unfinished: its best weights so far answer",
                    shown_path(latest.path))  # fmt: skip
    return folder


def _or_shipped(setting: str) -> str:
    given = " or ".join(f"{setting}={name}" for name in shipped_names())
    return f" or one that comes with the package ({given})" if given else ""


def _unwritable(path: Path, error: OSError) -> PromptRecoveryError:
    return PromptRecoveryError(
        f"cannot make the run folder {path} ({error.strerror}): choose another with "
        "hydra.run.dir=<folder>"
    )
