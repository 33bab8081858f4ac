"""Finished runs, from their folders or from a W&B project."""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob  # of whole paths, absolute ones too
from pathlib import Path
from typing import Any

from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import RunFolder, run_path, runs_in
from prompt_recovery.storage import MALFORMED


@dataclass(frozen=True)
class Run:
    """The results of a finished run.

    Attributes:
        name: Its folder, or its path in W&B.
        config: The resolved, nested configuration.
        metrics: Content of `metrics.json`.
        scores: SCS by id of the test example.
        categories: Category by id of the test example.
        curve: (optimiser step, val/scs) pairs, in order.
        data: Name and fingerprint of the dataset.
        metric: Encoder and exponent of the metric.
        prompts: Normalised true prompt by id of the test example. Examples that share one are not
            independent.
    """

    name: str
    config: Mapping[str, Any]
    metrics: Mapping[str, float]
    scores: Mapping[str, float]
    categories: Mapping[str, str]
    curve: Sequence[tuple[float, float]]
    data: tuple[str, str]
    metric: tuple[str, float]
    prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Seed of all random choices except the split."""
        return int(self.config.get("seed", 0))

    @property
    def tested_on(self) -> str:
        """A digest of the test examples' ids."""
        return hashlib.sha256("\0".join(sorted(self.scores)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Apart:
    """A run that is not compared with the others, and the reason."""

    name: str
    reason: str


def from_folders(patterns: Sequence[str]) -> tuple[list[Run], list[Apart]]:
    """Finds the runs in folders or glob patterns. Each is returned once, in order of its name.

    Raises:
        PromptRecoveryError: If a pattern matches nothing, or nothing that contains a run.
    """
    folders: dict[RunFolder, None] = {}
    for pattern in patterns:
        matched = sorted(glob(str(run_path(pattern))))  # noqa: PTH207
        found = [run for path in matched for run in runs_in(Path(path))]
        if not found:
            what = "no run is there" if matched else "no such folder"
            raise PromptRecoveryError(f"runs: {pattern}: {what}; give run folders or patterns")
        folders |= dict.fromkeys(found)
    runs: list[Run] = []
    apart: list[Apart] = []
    for folder in folders:
        one = _from_folder(folder)
        (runs if isinstance(one, Run) else apart).append(one)  # type: ignore[arg-type]
    return runs, apart


def _from_folder(run: RunFolder) -> Run | Apart:
    folder = run.path
    name = str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
    metrics = run.metrics()
    if metrics is None:
        return Apart(name, "is not finished (no metrics.json)")
    if diverged := _diverged(metrics):
        return Apart(name, diverged)
    if not run.is_evaluated:
        return Apart(name, "has not answered the test examples (no predictions.jsonl)")
    try:
        rows = run.predictions()
        config = run.config()
        int(config.get("seed", 0))  # raises an error here, and not in the report
        return Run(
            name=name,
            config=config,
            metrics=metrics,
            scores={str(row["id"]): float(row["scs"]) for row in rows},
            categories={str(row["id"]): str(row.get("category") or "(none)") for row in rows},
            curve=[(p["step"], p["val/scs"]) for p in run.curve()],
            prompts=_prompts(rows),
            **_compared_by(run.recoverer()),
        )
    except (OSError, *MALFORMED) as error:
        return Apart(name, f"cannot be read ({type(error).__name__}: {error})")


def _prompts(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The normalised true prompts, by the ids of the rows. Rows without one are on their own."""
    return {
        (name := str(row["id"])): normalise(str(row.get("rewrite_prompt") or name)) for row in rows
    }


def _diverged(metrics: Mapping[str, Any]) -> str | None:
    """Says that a run has diverged, or returns None."""
    lost = [k for k, v in metrics.items() if isinstance(v, float) and not math.isfinite(v)]
    return f"has diverged ({', '.join(lost)} is not a finite number)" if lost else None


def _compared_by(record: Mapping[str, Any]) -> dict[str, Any]:
    data, metric = record["data"], record["metric"]
    return {
        "data": (str(data["name"]), str(data["fingerprint"])),
        "metric": (str(metric["encoder"]), float(metric["exponent"])),
    }


def from_wandb(project: str) -> tuple[list[Run], list[Apart]]:
    """Reads the runs of a W&B project through its public API.

    Args:
        project: "entity/name".

    Raises:
        PromptRecoveryError: If W&B cannot be reached or does not know the project.
    """
    import wandb

    try:
        found = list(wandb.Api().runs(project))
    except Exception as error:  # W&B raises many types, some of them undocumented
        line = " ".join(str(error).split())
        raise PromptRecoveryError(
            f"project={project}: W&B says: {line}; check the name, and `wandb login`"
        ) from error
    runs: list[Run] = []
    apart: list[Apart] = []
    for one in found:
        name = "/".join(one.path)
        try:
            if one.state != "finished":
                apart.append(Apart(name, f"is not finished ({one.state})"))
                continue
            if diverged := _diverged(one.summary):
                apart.append(Apart(name, diverged))
                continue
            rows = _wandb_predictions(one)
            keys = ["trainer/global_step", "val/scs"]
            history = [(p[keys[0]], p[keys[1]]) for p in one.scan_history(keys=keys)]
            runs.append(
                Run(
                    name=name,
                    config=dict(one.config),
                    metrics={k: v for k, v in one.summary.items() if isinstance(v, int | float)},
                    scores={row["id"]: float(row["scs"]) for row in rows},
                    categories={row["id"]: row.get("category") or "(none)" for row in rows},
                    curve=history,
                    prompts=_prompts(rows),
                    **_compared_by(one.config["compared_by"]),
                )
            )
        except (KeyError, ValueError, TypeError, OSError) as error:
            apart.append(Apart(name, f"cannot be read ({type(error).__name__}: {error})"))
    return runs, apart


def _wandb_predictions(run: Any) -> list[dict[str, Any]]:
    """Downloads the table `test/predictions` and returns its rows."""
    path = run.summary["test/predictions"]["path"]
    with tempfile.TemporaryDirectory() as scratch:
        run.file(path).download(root=scratch, replace=True)
        table = json.loads((Path(scratch) / path).read_text("utf-8"))
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def comparable(runs: Sequence[Run]) -> tuple[list[Run], list[Apart]]:
    """Returns the largest set of runs with equal data, metric and test examples, and the rest."""
    keys = [(run.data[1], run.metric, run.tested_on) for run in runs]
    if not keys:
        return [], []
    main = max(keys, key=lambda key: (keys.count(key), -keys.index(key)))
    first = runs[keys.index(main)]
    chosen, apart = [], []
    for run, key in zip(runs, keys, strict=True):
        if key == main:
            chosen.append(run)
        elif key[0] != main[0]:
            reason = f"other data: {' '.join(run.data)}, not {' '.join(first.data)}"
            apart.append(Apart(run.name, reason))
        elif key[1] != main[1]:
            reason = f"other metric: {_metric(run)}, not {_metric(first)}"
            apart.append(Apart(run.name, reason))
        else:
            reason = f"other test examples: {len(run.scores)} of another split"
            apart.append(Apart(run.name, reason))
    return chosen, apart


def _metric(run: Run) -> str:
    encoder, exponent = run.metric
    return f"{encoder} with exponent {exponent:g}"


def mean_metric(runs: Sequence[Run], name: str) -> float:
    """Returns a metric's mean over runs, or NaN if it is missing in a run."""
    return sum(run.metrics.get(name, math.nan) for run in runs) / len(runs)
