"""The settings of a run's parts, made from its own: the first stage, the retriever, the rounds."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from prompt_recovery.settings.checking import check
from prompt_recovery.settings.declared import name_of
from prompt_recovery.settings.filling import fill
from prompt_recovery.training.job import TrainSettings


def first_stage_settings(run: dict[str, Any]) -> dict[str, Any]:
    """The run's settings with the changes in `first_stage`.

    Args:
        run: Checked values of `TrainSettings`, here and below.

    Raises:
        PromptRecoveryError: If a change is not a setting, or its value is not allowed; also below.
    """
    changes = run["first_stage"]
    # Another objective has other options.
    return _part(run, "first", changes, replaced={"objective"} & changes.keys())


def retriever_settings(run: dict[str, Any]) -> dict[str, Any]:
    """The run's settings with those in `retriever` in place of the run's own.

    Options of the trainer are merged, since devices are those of the run.
    """
    changes = {key: value for key, value in run["retriever"].items() if key != "run"}
    own: dict[str, Any] = {"start": None}
    if {**run["trainer"], **changes.get("trainer", {})}.get("strategy") == "fsdp":
        own["trainer"] = {"strategy": "ddp"}  # a sentence encoder fits into one GPU
    return _part(run, "retriever", changes, own, replaced=changes.keys() - {"trainer"})


def round_settings(run: dict[str, Any], number: int, earlier: Path | None) -> dict[str, Any]:
    """The run's settings for one round, which samples preferences.

    Args:
        run: Likewise.
        number: The number of the round, from 1.
        earlier: The preferences of the round before, to which the round adds its own.
    """
    preferences = {"path": None, "earlier": None if earlier is None else str(earlier.resolve())}
    own = {"rounds": 1, "start": None, "preferences": preferences}
    return _part(run, f"round{number}", own)


def _part(
    run: dict[str, Any],
    name: str,
    *changes: Mapping[str, Any],
    replaced: Collection[str] = (),
) -> dict[str, Any]:
    """Merges changes into a run's settings, fills in defaults, and checks what comes out.

    Args:
        run: Checked values of `TrainSettings`.
        name: What is added to the run's name.
        changes: The changes; later ones win.
        replaced: Settings of which nothing stays but what the changes say.
    """
    part: Any = OmegaConf.create(run)
    for key in replaced:
        part[key] = {}
    part.merge_with(
        *changes,
        {
            "first_stage": None,
            "retriever": None,
            "unlabelled": {"path": None},
            "name": f"{run['name']}_{name}",
        },
    )
    fill(part, f"# settings: {name_of(TrainSettings)}")
    return check(part, TrainSettings)
