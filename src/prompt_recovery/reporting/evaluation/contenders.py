"""Contenders of an evaluation: trained recoverers, baselines, and predictions from elsewhere."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from prompt_recovery.backbones.locate import locate
from prompt_recovery.data.examples import Dataset, id_of_cell, optional_cell, require_columns
from prompt_recovery.data.files import SUFFIXES, read_rows
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.assemble import assemble, require_backbones
from prompt_recovery.recovery.bank import read_prompts
from prompt_recovery.recovery.baselines import FewShot, ZeroShot
from prompt_recovery.recovery.baselines.base import Baseline
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.interface import Pair, Prediction, Recoverer
from prompt_recovery.recovery.job import steps
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.records import decoding_of, read_record, recorded_name
from prompt_recovery.recovery.rewriter import with_rewriter
from prompt_recovery.runs.folder import (
    RunFolder,
    is_retriever,
    probe_digest,
    recoverer_file,
    recoverer_folders,
    run_name,
    weights_digest,
)
from prompt_recovery.storage import fingerprint
from prompt_recovery.terminal import progress_bar

Kind = Literal["recoverer", "baseline", "predictions"]


@dataclass(frozen=True)
class Contender:
    """A recoverer that is not loaded yet.

    Attributes:
        name: Name shown in tables.
        kind: Where its answers come from.
        identity: Fingerprint of everything that determines its answers, except the pairs.
        make: Loads or fits the recoverer.
        check: Raises a `PromptRecoveryError` at once if a model that it needs is missing.
        about: What it is and how it answers, for the report. May be empty.
    """

    name: str
    kind: Kind
    identity: str
    make: Callable[[], Recoverer]
    check: Callable[[], object] = lambda: None
    about: str = ""


@dataclass(frozen=True)
class ReadyMade:
    """A recoverer whose answers are already known.

    Attributes:
        answers: Prompts by id. A blank prompt is a prediction, too, and is marked as a fallback.
        name: Name shown in tables.
    """

    answers: Mapping[str, str]
    name: str

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Returns the answer for each pair, in order.

        Raises:
            PromptRecoveryError: If the answer for a pair is missing.
        """
        missing = [p.id for p in pairs if p.id not in self.answers]
        if missing:
            raise PromptRecoveryError(
                f"{self.name}: has no prediction for {len(missing)} of {len(pairs)} rows, the "
                f"first with id '{missing[0]}'; add them, or check that the ids are the dataset's"
            )
        progress(len(pairs))
        texts = [self.answers[p.id] for p in pairs]
        return [
            Prediction(p.id, t, fallback=not t.strip()) for p, t in zip(pairs, texts, strict=True)
        ]


def from_recipe(recipe: Recipe, name: str | None = None) -> Contender:
    """Makes a contender from a trained recoverer or an ensemble, with its decoding.

    Args:
        recipe: Describes the recoverers and how they answer.
        name: Name shown in tables. None makes a name from the runs and the decoding.

    Raises:
        PromptRecoveryError: If a folder does not exist or contains no recoverer.
    """
    folders = [folder for run in recipe.runs for folder in recoverer_folders(run)]
    recipe = with_rewriter(recipe)
    decoding = recipe.decoding or decoding_of(folders)
    probed = recipe.probe and decoding.uses_metric
    probes = [digest for folder in folders if probed and (digest := probe_digest(folder))]
    if not decoding.uses_metric or probes or any(map(is_retriever, folders)):
        recipe = replace(recipe, retrieval=None)  # `assemble` has no use for it
    if name is None:
        name = " + ".join(_answering_name(run) for run in recipe.runs)
        name += f", {recipe.decoding.name}" if recipe.decoding else ""
        name += f", {recipe.retrieval.name}" if recipe.retrieval else ""
        name += ", bank" if recipe.bank else ""
        name += ", channel" if recipe.channel else ""
    weights = [(weights_digest(f), recoverer_file(f).read_text("utf-8")) for f in folders]
    settings = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name != "runs"}
    for added in ("retrieval", "bank", "bank_column"):  # keep the identities of older evaluations
        if settings[added] is None:
            del settings[added]
    if not probes:
        del settings["probe"]
    if recipe.bank is not None:
        settings["bank"] = fingerprint(read_prompts(recipe.bank, recipe.bank_column))
    return Contender(
        name,
        "recoverer",
        fingerprint(weights, repr(settings), *probes),
        lambda: _assembled(recipe),
        lambda: require_backbones(recipe),
        about=_how_it_answers(recipe, decoding),
    )


def _how_it_answers(recipe: Recipe, decoding: Decoding) -> str:
    """The runs of a recipe and its decoding, with their settings."""
    said = [" + ".join(map(str, recipe.runs))]
    for group, settings in (("decoding", decoding), ("retrieval", recipe.retrieval)):
        if settings is not None:
            values = ", ".join(f"{name} {value}" for name, value in vars(settings).items())
            said.append(f"{group} {settings.name} ({values})")
    if recipe.channel is not None and recipe.channel.backbone is not None:
        said.append(f"channel {recipe.channel.backbone.name}")
    if recipe.weights:
        said.append(f"weights {list(recipe.weights)}")
    if recipe.bank is not None:
        said.append(f"bank {recipe.bank}")
    return "; ".join(said)


def _assembled(recipe: Recipe) -> Recoverer:
    with progress_bar() as progress:
        return assemble(recipe, steps(progress), keeps_samples=True).recoverer


def _answering_name(run: Path) -> str:
    """Returns the name that a recoverer has in the table at the end of its training, such as
    "smollm2 sft + minilm contrastive".

    The name of the run comes first, if it says more than what was trained.
    """
    folders = recoverer_folders(run)
    own = RunFolder.of_adapter(folders[0].resolve()).recoverers
    answers = " + ".join(recorded_name(read_record(folder)) for folder in folders)
    name = _undated_name(run)
    words = " ".join(re.findall(r"[^\W_]+", name.lower()))
    trained = [recorded_name(read_record(folder)).lower() for folder in own]
    known = [" ".join(re.findall(r"[^\W_]+", one)) for one in trained]
    return answers if words in known else f"{name}: {answers}"


def _undated_name(folder: Path) -> str:
    """Returns a run's name without its date, also for an adapter or a retriever in its folder."""
    name = run_name(folder)
    return re.sub(r"^\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_", "", name) or name


def from_baseline(
    baseline: Baseline, training: Dataset, scs: SCS, name: str | None = None
) -> Contender:
    """Makes a contender from a baseline that is fitted to a training dataset."""
    return Contender(
        name or baseline.name,
        "baseline",
        fingerprint(repr(baseline), training.fingerprint(), scs.encoder.identity, scs.exponent),
        lambda: baseline.fit(training.examples, scs),
        lambda: locate(baseline.backbone) if isinstance(baseline, ZeroShot | FewShot) else None,
    )


def from_column(dataset: Dataset, column: str, name: str | None) -> Contender:
    """Makes a contender from predictions in an additional column of the dataset.

    Args:
        dataset: The dataset, read with `also=[column]`.
        column: Name of the column.
        name: Name shown in tables. None uses the column's name.

    Raises:
        PromptRecoveryError: If the column is missing or blank in every row.
    """
    answers = dataset.also.get(column, {})
    if not any(answers.values()):
        raise PromptRecoveryError(
            f"predictions: {dataset.name} has no column '{column}', or it is blank in every row; "
            f"give the name of one with predictions, or a file ({', '.join(SUFFIXES)})"
        )
    return _ready(answers, name or column)


def from_file(
    path: str | Path, column: str | None = None, id_column: str = "id", name: str | None = None
) -> Contender:
    """Makes a contender from predictions in a CSV, JSONL or Parquet file, matched by id.

    Args:
        path: The file. Rows that are not in the dataset are ignored.
        column: Column with the predictions. None uses `prediction` or, if there is no such column,
            `rewrite_prompt`.
        id_column: Column with the ids.
        name: Name shown in tables. None uses the file's name.

    Raises:
        PromptRecoveryError: If the file does not exist, lacks a column, or has an id twice.
    """
    path = Path(path).expanduser()
    answers: dict[str, str] = {}
    for row in read_rows(path, "predictions"):
        wanted = column or ("prediction" if "prediction" in row.values else "rewrite_prompt")
        advice = "name your columns with predictions=[{path: …, column: …, id: …}]"
        require_columns(row, (id_column, wanted), advice)
        id_ = id_of_cell(row, id_column, "name its column with predictions=[{path: …, id: …}]")
        if id_ in answers:
            raise PromptRecoveryError(f"{row.place}: id '{id_}' comes twice; remove one")
        answers[id_] = optional_cell(row, wanted)
    return _ready(answers, name or path.stem)


def _ready(answers: Mapping[str, str], name: str) -> Contender:
    return Contender(
        name, "predictions", fingerprint(sorted(answers.items())), lambda: ReadyMade(answers, name)
    )
