"""The card of a shipped recoverer: its data, recipe, numbers, limits and licence."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.records import read_record
from prompt_recovery.runs.folder import RunFolder, bank_file, is_retriever, training_file
from prompt_recovery.runs.shipped import Manifest
from prompt_recovery.storage import MALFORMED
from prompt_recovery.tables import Table, to_markdown

CARD = "README.md"
_STARTER = "prompt_recovery.data.sources.starter"
_TITLES = ("dataset", "rows", "SCS", "95 % interval", "error of the expected SCS")


def card(name: str, folder: Path, reports: Sequence[str]) -> str:
    """The card as Markdown.

    Args:
        name: The name of the recoverer.
        folder: Its folder.
        reports: Files `report.json` of evaluations of it.

    Raises:
        PromptRecoveryError: If a report cannot be read, or doesn't have this recoverer.
    """
    run = RunFolder(folder)
    parts = run.recoverers
    records = [read_record(part) for part in parts]
    names = dict.fromkeys(record["data"]["name"] for record in records)
    data = f"dataset{'s' if len(names) > 1 else ''} {' and '.join(f'`{name}`' for name in names)}"
    backbones = " and ".join(
        f"{record['backbone']['name']} ({'retriever' if is_retriever(part) else 'language model'})"
        for part, record in zip(parts, records, strict=True)
    )
    prompts = len(bank_file(folder / "retriever").read_text("utf-8").splitlines())
    origin, licence = _origin([run.config_of(part) for part in parts])
    comes = f"A recoverer that comes with the package: {backbones}."
    introduction = textwrap.fill(
        f"{comes} It was trained on the {data}{origin} and on nothing else.", 100
    )
    rows = list(_results(name, folder, reports))
    numbers = to_markdown(Table(_TITLES, rows)) if rows else "It has not been evaluated yet."
    recipe = to_markdown(Table(("setting", "value"), list(_recipe(folder))))
    return f"""\
# {name}

{introduction}

    prompt-recovery recover run={name} original="It rained." rewritten="Arr, the sky be weepin'!"

## How it answers

{_answering(prompts, alone=len(parts) == 1)}{_shared(folder)}

## Recipe

{recipe}

To make it again, train the runs with these settings, and then:

    python -m prompt_recovery.shipping runs=[<run of the model>,<run of the retriever>] \\
      output=src/prompt_recovery/shipped/{name}

## Results

Sharpened cosine similarity (SCS) with all-MiniLM-L6-v2.

{numbers}

## Limits

It reads English. It knows the requests of its training examples, and how they are worded. Longer
texts are cut in the middle. On pairs unlike its training examples, it is right less often, and its
expected SCS is lower. The expected SCS was fitted on examples like those of its training, and is no
guarantee for others. Many different prompts lead to the same rewrite: an answer is a guess, and not
evidence of what somebody wrote.

## Licence

{licence} The backbones come in separate packages, with their own licences.
"""


def _answering(prompts: int, alone: bool) -> str:
    """How it answers, of a retriever alone or with a language model."""
    if alone:
        return f"""\
The retriever knows {prompts:,} prompts, those of its training examples. It finds the nearest ones,
and MBR chooses among them. The expected SCS was fitted on the validation split. The trained weights
are stored as the difference from the original encoder, in 8 bits."""
    return f"""\
The language model writes samples, and its probe finds prompts of its training examples. The
retriever knows {prompts:,} prompts, those of its own training examples, and finds the nearest ones.
MBR chooses among all of them. The weights of the three and the expected SCS were fitted on the
validation split. The trained weights are stored in bf16 for the adapter and, for the retriever, as
the difference from the original encoder, in 8 bits."""


def _shared(folder: Path) -> str:
    """Which recoverers hold weights that are not in this folder."""
    others = dict.fromkeys(Manifest.read(folder).shared.values())
    named = " and ".join(f"`{other}`" for other in others)
    return f"\nThe weights that it has in common with {named} are stored there." if others else ""


def _origin(configs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Where the data is from, and the licence; nothing is claimed of other data than our own."""
    if any(config["data"].get("_target_") != _STARTER for config in configs):
        return "", "The trained weights and the prompts have the licence of their data."
    return (
        " of this package, whose texts are in the public domain (CC0),",
        "The trained weights have the licence of this package (Apache-2.0), and the prompts and "
        "the data are\nin the public domain (CC0).",
    )


def _recipe(folder: Path) -> Iterator[tuple[str, str]]:
    """The settings that matter, of each part."""
    run = RunFolder(folder)
    configs = {
        "retriever" if is_retriever(part) else "language model": run.config_of(part)
        for part in run.recoverers
    }
    theirs = configs["retriever"]
    own = configs.get("language model", theirs)
    for group in ("data", "split"):
        if own[group] == theirs[group]:
            yield group, _in_words(own[group])
        else:
            for part, config in configs.items():
                yield f"{part}: {group}", _in_words(config[group])
    if "language model" in configs:
        yield from _settings("language model", own)
    if not training_file(run.retriever).is_file():
        theirs = {**theirs, **(theirs.get("retriever") or {})}
    yield from _settings("retriever", theirs)


def _in_words(settings: Mapping[str, Any]) -> str:
    """A group of settings in one line: the name of its target, and its values."""
    target = [str(settings["_target_"]).rpartition(".")[2]] if "_target_" in settings else []
    values = [f"{key}={value}" for key, value in settings.items() if key != "_target_"]
    return ", ".join([*target, *values])


def _settings(part: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    wanted = (
        ("model", "name"), ("adapter", "name"), ("adapter", "rank"), ("adapter", "layers"),
        ("objective", "_target_"), ("trainer", "max_epochs"), ("optim", "learning_rate"),
        ("batching", "batch_size"), ("batching", "max_prompt_tokens"),
    )  # fmt: skip
    if config.get("first_stage"):
        yield from _settings(f"{part}: first stage", config["first_stage"])
    for group, name in wanted:
        value = (config.get(group) or {}).get(name)
        if value is not None:
            key = group if name == "_target_" else f"{group}.{name}"
            yield (
                f"{part}: {key}",
                str(value).rpartition(".")[2] if name == "_target_" else str(value),
            )
    for name in ("lead_ins", "seed"):
        if config.get(name) is not None:
            yield f"{part}: {name}", str(config[name])


def _results(name: str, folder: Path, reports: Sequence[str]) -> Iterator[tuple[str, ...]]:
    metrics = RunFolder(folder).metrics() or {}
    if metrics:
        low, high = metrics["test/scs_ci_low"], metrics["test/scs_ci_high"]
        yield (
            "test split of the training data", f"{metrics['test/examples']:,.0f}",
            f"{metrics['test/scs']:.3f}", f"{low:.3f} … {high:.3f}",
            _error(metrics.get("test/calibration_error")),
        )  # fmt: skip
        for part in ("model", "probe", "retriever"):
            if f"test/{part}_scs" in metrics:
                yield f"the {part} alone", "", f"{metrics[f'test/{part}_scs']:.3f}", "", ""
        yield "the mean prompt", "", f"{metrics['baseline/mean_prompt_scs']:.3f}", "", ""
    for path in reports:
        try:
            report = json.loads(Path(path).expanduser().read_text("utf-8"))
            own = [r for r in report["recoverers"] if re.split("[,:]", r["name"])[0] == name]
            for one in own:
                low, high = one["scs_ci_low"], one["scs_ci_high"]
                yield (
                    str(report["dataset"]), f"{report['examples']:,}",
                    f"{one['scs']:.3f}", f"{low:.3f} … {high:.3f}",
                    _error((one.get("calibration") or {}).get("error")),
                )  # fmt: skip
        except (OSError, *MALFORMED) as error:
            raise PromptRecoveryError(
                f"reports: {path}: is not the report.json of an evaluation ({type(error).__name__})"
            ) from error
        if not own:
            raise PromptRecoveryError(
                f"reports: {path}: has no recoverer '{name}'; evaluate recoverers=[{name}]"
            )


def _error(of_expected: float | None) -> str:
    return "" if of_expected is None else f"{of_expected:.3f}"
