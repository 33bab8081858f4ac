"""The folder of a training run: the only place that knows what lies where in it."""

import csv
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from prompt_recovery.data.examples import Dataset
from prompt_recovery.data.sources import recorded_dataset
from prompt_recovery.data.splits import Splits, split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.storage import (
    MALFORMED,
    atomic_write,
    locked,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)

_FIRST_STAGE = "first_stage"
_NO_RUNS = {".hydra", _FIRST_STAGE, "wandb", "files"}  # folders whose config.yaml is another's
_LATEST = "latest"


@dataclass(frozen=True)
class RunFolder:
    """A run's files. Each is written whole or not at all, `metrics.json` last.

    A run is *finished* when it has metrics, and *unfinished* when it was stopped and left a
    checkpoint to go on from.

    Attributes:
        path: the folder; it need not exist.
    """

    path: Path

    @classmethod
    def create(cls, parent: Path, name: str) -> "RunFolder":
        """Makes a new folder that no other run has: with `_2`, `_3`, … behind a name that is taken.

        Raises:
            PromptRecoveryError: the folder cannot be made.
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
        """The run that an adapter folder lies in, if it still does."""
        return cls(adapter.parent)

    @property
    def adapter(self) -> Path:
        """The folder of the best adapter so far."""
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        """The folder of `last.ckpt`."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, if one was written."""
        path = self.checkpoints / "last.ckpt"
        return path if path.is_file() else None

    @property
    def preferences(self) -> Path:
        """The folder of the preferences that the run has made for itself."""
        return self.path / "preferences"

    @property
    def chart(self) -> Path:
        """The picture of the results."""
        return self.path / "results.png"

    @property
    def output(self) -> Path:
        """What the process of a trial printed."""
        return self.path / "output.log"

    @property
    def first_stage(self) -> "RunFolder":
        """The stage before the main one, such as SFT before DPO: a run of its own, inside."""
        return RunFolder(self.path / _FIRST_STAGE)

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return self.metrics() is not None

    @property
    def is_unfinished(self) -> bool:
        """Whether the run was begun and, in one of its stages, left a checkpoint to go on from."""
        return any(run.last_checkpoint is not None for run in (self, self.first_stage))

    @property
    def is_evaluated(self) -> bool:
        """Whether the run has answered the test examples; a first stage has not."""
        return self._predictions.is_file()

    def metrics(self) -> dict[str, float] | None:
        """What the run measured; None if it is not finished."""
        metrics = read_json(self._metrics)
        return metrics if isinstance(metrics, dict) else None

    def curve(self) -> list[dict[str, float]]:
        """What each validation measured so far: `step` and the metrics, in order."""
        try:
            return [dict(point) for point in read_jsonl(self._curve)]
        except (OSError, *MALFORMED):
            return self._logged_curve()

    def _logged_curve(self) -> list[dict[str, float]]:
        """Of an older run that kept none of its own, from the files of `logger=csv`."""
        try:
            with (self.path / "csv" / "metrics.csv").open(encoding="utf-8", newline="") as file:
                rows = [
                    r for r in csv.DictReader(file) if r.get("val/scs") and not r.get("test/scs")
                ]
            return [{"step": float(r["step"]), "val/scs": float(r["val/scs"])} for r in rows]
        except (OSError, *MALFORMED):
            return []

    def config(self) -> dict[str, Any]:
        """The run's configuration, which is data: nothing in it may be imported or called.

        Raises:
            OSError, ValueError: there is none, or it is damaged.
        """
        return _yaml_mapping(self._config)

    def recoverer(self) -> dict[str, Any]:
        """What `recoverer.yaml` says of the run's adapter.

        Raises:
            OSError, ValueError: there is none, or it is damaged.
        """
        return _yaml_mapping(recoverer_file(self.adapter))

    def predictions(self) -> list[dict[str, Any]]:
        """The test examples and what the run answered to them.

        Raises:
            OSError, ValueError: there are none, or the file is damaged.
        """
        return read_jsonl(self._predictions)

    def splits(self, fingerprint: str | None) -> Splits:
        """What the run was trained, validated and tested on.

        Args:
            fingerprint: of the dataset, as the run's adapter has it on record.

        Raises:
            PromptRecoveryError: the configuration or the data cannot be had, or has changed.
        """
        try:
            config = self.config()
            shares = {k: v for k, v in config["split"].items() if k != "_target_"}
            dataset = recorded_dataset(config["data"])
            self._require(dataset, fingerprint)
            return split(dataset, **shares)
        except (OSError, *MALFORMED) as error:
            raise PromptRecoveryError(
                f"{self._config} does not say what the run was trained on "
                f"({type(error).__name__}); give the run folder as it was left"
            ) from error

    def _require(self, dataset: Dataset, fingerprint: str | None) -> None:
        if fingerprint != dataset.fingerprint():
            raise PromptRecoveryError(
                f"{dataset.name} is no longer what the run was trained on: examples it has not "
                "seen cannot be told from those that it has"
            )

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes the resolved configuration."""
        with atomic_write(self._config) as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))), "utf-8")

    def write_curve(self, points: Sequence[tuple[int, float]]) -> None:
        """Writes (step, val/scs) of each validation so far."""
        write_jsonl(self._curve, ({"step": step, "val/scs": value} for step, value in points))

    def write_predictions(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes the test examples with their predictions."""
        write_jsonl(self._predictions, rows)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Writes where the run took place."""
        with atomic_write(self.path / "environment.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(dict(environment), sort_keys=False), "utf-8")

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """Writes what the run measured, which makes it finished."""
        write_json(self._metrics, dict(metrics))

    def take_over(self, finished: "RunFolder") -> None:
        """Copies a finished run to this place: the other may go."""
        if finished == self:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.copytree(finished.adapter, self.adapter, dirs_exist_ok=True)
        for file in (finished._config, finished._curve, finished.path / "environment.yaml",
                     finished._metrics):  # fmt: skip
            if file.is_file():
                shutil.copy(file, self.path)

    def held(self, wait: bool = False) -> AbstractContextManager[None]:
        """Holds the folder for the process that trains in it.

        Args:
            wait: for another process that holds it, and is about to end.

        Raises:
            PromptRecoveryError: another process trains in it.
        """
        busy = (
            f"{self.path}: another process trains in this run folder; give hydra.run.dir=<another>"
        )
        return locked(self.path / ".run", None if wait else busy)

    def held_for_trial(self) -> AbstractContextManager[None]:
        """Holds the folder for the process that starts a trial in it; others wait for the trial."""
        return locked(self.path / "trial")

    def point_latest(self) -> None:
        """Makes `runs/latest` a link to this run, where links can be made."""
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


def runs_in(path: Path) -> Iterator[RunFolder]:
    """The run in a folder or, if it is none itself, those below it, in the order of their names."""
    if RunFolder(path)._config.is_file():
        yield RunFolder(path.resolve())
        return
    for config in sorted(path.rglob("config.yaml")):
        if not _NO_RUNS & set(config.relative_to(path).parts[:-1]):
            yield RunFolder(config.parent.resolve())


def adapter_folder(path: str | Path) -> Path:
    """The adapter folder that a path means: itself, or that of a run."""
    path = Path(path).expanduser()
    inside = RunFolder(path).adapter
    return inside if inside.is_dir() else path


def recoverer_folder(path: str | Path) -> Path:
    """The adapter folder of a trained recoverer that `run=<path>` means.

    Raises:
        PromptRecoveryError: no such folder, or no recoverer in it.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise PromptRecoveryError(
            f"run={path}: no such folder; give a run or an adapter folder, or train one first "
            "(prompt-recovery train)"
        )
    folder = adapter_folder(path)
    if not recoverer_file(folder).is_file():
        raise PromptRecoveryError(
            f"run={path}: holds no adapter/recoverer.yaml; the run may have been stopped before "
            "its first validation"
        )
    return folder


def recoverer_file(adapter: Path) -> Path:
    """What an adapter folder says of the recoverer it belongs to."""
    return adapter / "recoverer.yaml"


def weights_digest(adapter: Path) -> str:
    """Changes when the weights of an adapter change; empty where there are none."""
    weights = adapter / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else ""


def run_folders(runs: str | Iterable[str]) -> list[Path]:
    """What `run=` means: one run, or a list of them; `latest` is the newest."""
    return [_run_folder(run) for run in ([runs] if isinstance(runs, str) else runs)]


def _run_folder(run: str) -> Path:
    if run != _LATEST:
        return Path(run).expanduser()
    folder = Path("runs") / _LATEST
    if not folder.is_dir():
        raise PromptRecoveryError(
            "run=latest: there is no runs/latest here; give run=<run or adapter folder>, or train "
            "a recoverer first (prompt-recovery train)"
        )
    return folder


def resumed_run(ckpt_path: str | None, run: RunFolder) -> RunFolder | None:
    """The run that `ckpt_path=last` goes on with: itself, or the newest that left a checkpoint.

    Raises:
        PromptRecoveryError: there is none.
    """
    if ckpt_path != "last":
        return None
    if run.is_unfinished:
        return run
    parent = run.path.parent
    found = [f for f in map(RunFolder, sorted(parent.glob("*"))) if f.is_unfinished]
    if not found:
        raise PromptRecoveryError(
            f"ckpt_path=last: no run in {parent} has left a checkpoint; start without it"
        )
    return found[-1]


def checkpoint(ckpt_path: str | None, run: RunFolder | None) -> str | None:
    """The checkpoint file to resume from.

    Args:
        ckpt_path: as it was given.
        run: what `resumed_run` found; its stage to go on with may have none yet.

    Raises:
        PromptRecoveryError: no such file.
    """
    if ckpt_path is None or ckpt_path == "last":
        found = None if run is None else run.last_checkpoint
        return None if found is None else str(found)
    path = Path(ckpt_path).expanduser()
    if not path.is_file():
        raise PromptRecoveryError(f"ckpt_path={ckpt_path}: no such file")
    return str(path)


def _yaml_mapping(path: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (TypeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: is no YAML mapping") from error


def _unwritable(path: Path, error: OSError) -> PromptRecoveryError:
    return PromptRecoveryError(
        f"cannot make the run folder {path} ({error.strerror}): choose another with "
        "hydra.run.dir=<folder>"
    )
