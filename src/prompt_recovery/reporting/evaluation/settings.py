"""The settings of an evaluation, read before anything is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.data.examples import Dataset
from prompt_recovery.data.sources import SUFFIXES
from prompt_recovery.data.splits import SplitSettings
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines import FewShot
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.recipe import RunNames
from prompt_recovery.settings import AtLeastOne, LocalPath, Positive, Precision
from prompt_recovery.templates import Template

Option = str | Mapping[str, Any]
"""An option's name, or `{name: {what: to change}}`."""


@dataclass(kw_only=True, frozen=True)
class RecovererEntry:
    """An entry of `recoverers=`.

    Attributes:
        run: a run or an adapter folder, or several that choose together.
        decoding: None is as the run did.
        weights: how much each of several runs counts.
        channel: of the group `channel`.
        retrieval: of the group `retrieval`.
        name: in tables; None is made of the runs and the decoding.
    """

    run: RunNames
    decoding: Option | None = None
    weights: Sequence[Positive] | None = None
    channel: Option | None = None
    retrieval: Option | None = None
    name: str | None = None


@dataclass(kw_only=True, frozen=True)
class PredictionsEntry:
    """An entry of `predictions=`: a file, or a column of the dataset.

    Attributes:
        path: a file; None is a column of the dataset.
        column: with the predictions; None is `prediction` or else `rewrite_prompt`.
        id: the file's column with the ids.
        name: in tables; None is the file's or the column's.
    """

    path: LocalPath | None = None
    column: str | None = None
    id: str = "id"
    name: str | None = None

    def __post_init__(self) -> None:
        if self.path is None and self.column is None:
            raise PromptRecoveryError("predictions: give path=<file> or column=<of the dataset>")


@dataclass(kw_only=True, frozen=True)
class EvaluateSettings:
    """The settings of `conf/evaluate.yaml`; its groups are chosen there.

    Attributes:
        data: the dataset.
        training: what baselines learn from, if all of `data` is evaluated.
        metric: decides.
        second_metric: the check for metric hacking, by another encoder; None leaves it out.
        model: of zero-shot and few-shot.
        template: likewise.
        decoding: likewise.
        name: of the evaluation.
        output: the report; started again, finished predictions are kept.
        part: test or all of the dataset; auto is the test split of one that is also training's.
        recoverers: run or adapter folders, or `RecovererEntry`s.
        baselines: options of the group `baseline`, or {option: {what: to change}}.
        predictions: columns of the data, files, or `PredictionsEntry`s.
        precision: auto, bf16 or fp32.
        max_prompt_tokens: of zero-shot and few-shot, each example.
        split: how the datasets are split.
    """

    data: Dataset
    training: Dataset
    metric: SCS
    second_metric: SCS | None = None
    model: Backbone
    template: Template
    decoding: Decoding
    name: str
    output: LocalPath
    part: Literal["auto", "test", "all"] = "auto"
    recoverers: LocalPath | Sequence[LocalPath | RecovererEntry] = ()
    baselines: Sequence[Option]
    predictions: LocalPath | Sequence[LocalPath | PredictionsEntry] = ()
    precision: Precision = "auto"
    max_prompt_tokens: AtLeastOne = FewShot.max_prompt_tokens
    split: SplitSettings = field(default_factory=SplitSettings)

    def recoverer_entries(self) -> list[RecovererEntry]:
        """`recoverers`, each with all it can say."""
        return [
            RecovererEntry(run=e) if isinstance(e, str) else e for e in _listed(self.recoverers)
        ]

    def prediction_entries(self) -> list[PredictionsEntry]:
        """`predictions`, each with all it can say: a name that ends like a file is one."""
        return prediction_entries(self.predictions)


def prediction_entries(given: Any) -> list[PredictionsEntry]:
    """What `predictions=` means."""
    entries = [PredictionsEntry(path=e) if isinstance(e, str)
               else PredictionsEntry(**e) if isinstance(e, dict) else e
               for e in _listed(given)]  # fmt: skip
    return [
        e
        if e.path is None or e.path.endswith(SUFFIXES)
        else PredictionsEntry(column=e.column or e.path, name=e.name)
        for e in entries
    ]


def _listed(given: Any) -> list[Any]:
    return [given] if isinstance(given, str) else list(given)
