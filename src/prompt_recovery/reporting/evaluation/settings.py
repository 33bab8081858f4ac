"""The settings of an evaluation, read before anything is loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.data.examples import Dataset
from prompt_recovery.data.files import is_data_file
from prompt_recovery.data.splits import SplitSettings
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines import FewShot
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.naming import NAMED, NamedShare
from prompt_recovery.recovery.recipe import Recipe, RunNames
from prompt_recovery.recovery.spans import Explain, method_of, require_method
from prompt_recovery.recovery.stated import SHARE, StatedShare
from prompt_recovery.runs.folder import named_runs
from prompt_recovery.settings import AtLeastOne, LocalPath, Positive, Precision
from prompt_recovery.settings.checking import checked_value
from prompt_recovery.templates import Template

Option = str | Mapping[str, Any]
"""An option's name, or `{name: {what: to change}}`."""
MakeOption = Callable[[str, Any], Any]
"""Makes an option of a group, given arguments such as `("decoding", "mbr")`."""
DEFAULT = "default"
"""The decoding and the retrieval that `recover` answers with unless it is told otherwise."""
_RECOVERERS = "recoverers"


@dataclass(kw_only=True, frozen=True)
class RecovererEntry:
    """An entry of `recoverers=`.

    Attributes:
        run: A run or an adapter folder, or several to use as an ensemble.
        decoding: An option of the group `decoding`. "default" answers as `prompt-recovery recover`
            does by default: by MBR and, where no run has a dense retriever or a probe, with
            neighbours. None uses the decoding of the run.
        weights: Weights of several runs.
        channel: An option of the group `channel`.
        retrieval: An option of the group `retrieval`. With the default decoding, None means
            neighbours.
        backbone_path: Folder of the backbone, if it is no longer where it was for training.
        bank: A file with prompts that a dense retriever or a probe can also answer with.
        bank_column: Its column with the prompts. None takes the first of rewrite_prompt, text and
            prompt that the file has.
        probe: Whether the probe of a language model answers with it.
        stated: The share of the votes that goes to prompts that the lead-in of a rewrite states.
        named: The share of its votes that a prompt for an unfamiliar pair gives to prompts that
            name the original text, such as "make this recipe rhyme".
        name: Name shown in tables. None makes a name from the runs and the decoding.
    """

    run: RunNames
    decoding: Option | None = DEFAULT
    weights: Sequence[Positive] | None = None
    channel: Option | None = None
    retrieval: Option | None = None
    backbone_path: LocalPath | None = None
    bank: LocalPath | None = None
    bank_column: str | None = None
    probe: bool = True
    stated: StatedShare = SHARE
    named: NamedShare = NAMED
    name: str | None = None

    def recipe(self, option: MakeOption, precision: Precision) -> Recipe:
        """Makes the recipe of the entry, whose runs can answer as it says.

        Raises:
            PromptRecoveryError: If they cannot, or there is no such option.
        """
        wanted = {group: getattr(self, group) for group in ("decoding", "channel", "retrieval")}
        if self.decoding == DEFAULT:  # what conf/recover.yaml chooses
            wanted["decoding"] = "mbr"
            wanted["retrieval"] = self.retrieval or "neighbours"
        recipe = Recipe(
            runs=named_runs(self.run, _RECOVERERS),
            weights=list(self.weights or []),
            precision=precision,
            backbone_path=self.backbone_path,
            bank=self.bank,
            bank_column=self.bank_column,
            probe=self.probe,
            stated=self.stated,
            named=self.named,
            **{group: option(group, name) for group, name in wanted.items()},
        )
        recipe.require_answers(_RECOVERERS)
        return recipe


@dataclass(kw_only=True, frozen=True)
class PredictionsEntry:
    """An entry of `predictions=`: a file, or a column of the dataset.

    Attributes:
        path: A file. None reads a column of the dataset.
        column: Column with the predictions. None uses `prediction` or, if there is no such column,
            `rewrite_prompt`.
        id: The file's column with the ids.
        name: Name shown in tables. None uses the name of the file or the column.
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
    """The settings in `conf/evaluate.yaml`, which also chooses its groups.

    Attributes:
        data: The dataset to evaluate on.
        training: The dataset that baselines are fitted to if all of `data` is evaluated.
        metric: The metric by which recoverers are compared.
        second_metric: A metric with another encoder, to detect metric hacking. None skips it.
        model: Backbone of the zero-shot and few-shot baselines.
        template: Recovery template of the zero-shot and few-shot baselines.
        decoding: Decoding of the zero-shot and few-shot baselines.
        name: Name of the report's folder: by default the option of `data`, such as starter, or
            what is evaluated, such as pairs.csv.
        output: Folder of the report. Finished predictions in it are used again.
        quick: A first look: at most 40 rows, the mean prompt as the only baseline, no
            second encoder and no evidence. `rows`, `baselines` and `explain` can be given with it.
        rows: Evaluate on at most this many rows, which are chosen at random by their ids: the same
            in every evaluation. None evaluates on all.
        part: Whether to evaluate on the test split or on all of `data`. auto uses the test split if
            `data` and `training` are the same dataset, and all of it otherwise.
        recoverers: Run or adapter folders, which answer as `prompt-recovery recover` does by
            default, or entries such as {run: runs/a/adapter, decoding: greedy}. The settings of an
            entry are those of `RecovererEntry`.
        baselines: Options of the group `baseline`, or {option: {setting: value}}.
        predictions: Columns of the dataset, files, or entries such as
            {path: a.csv, column: answer}, whose settings are those of `PredictionsEntry`.
        precision: auto, bf16, fp32 or int8.
        max_prompt_tokens: Limit of the zero-shot and few-shot baselines, for each example.
        split: How the datasets are split.
        explain: Whether the report shows which words of the texts support the best and the worst
            answers, if a trained recoverer is the best. true or occlusion measures how much an
            answer loses when the words are left out; integrated_gradients, with Captum (extra
            `explain`), measures the share of each word. This takes several seconds per answer.
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
    quick: bool = False
    rows: AtLeastOne | None = None
    part: Literal["auto", "test", "all"] = "auto"
    recoverers: LocalPath | Sequence[LocalPath | RecovererEntry] = ()
    baselines: Sequence[Option]
    predictions: LocalPath | Sequence[LocalPath | PredictionsEntry] = ()
    precision: Precision = "auto"
    max_prompt_tokens: AtLeastOne = FewShot.max_prompt_tokens
    split: SplitSettings = field(default_factory=SplitSettings)
    explain: Explain = True

    def __post_init__(self) -> None:
        require_method(method_of(self.explain))

    def recoverer_entries(self) -> list[RecovererEntry]:
        """Returns `recoverers` as entries."""
        return [
            RecovererEntry(run=e) if isinstance(e, str) else e for e in _listed(self.recoverers)
        ]

    def prediction_entries(self) -> list[PredictionsEntry]:
        """Returns `predictions` as entries. A name with the ending of a data file is a file."""
        return prediction_entries(self.predictions)


def prediction_entries(given: Any) -> list[PredictionsEntry]:
    """Converts the setting `predictions` to entries."""
    entries = [_entry(e, f"predictions[{n}]") for n, e in enumerate(_listed(given))]
    return [
        e
        if e.path is None or is_data_file(e.path)
        else PredictionsEntry(column=e.column or e.path, name=e.name)
        for e in entries
    ]


def _entry(given: Any, key: str) -> PredictionsEntry:
    if isinstance(given, dict):
        return PredictionsEntry(**checked_value(given, PredictionsEntry, key))
    return given if isinstance(given, PredictionsEntry) else PredictionsEntry(path=given)


def _listed(given: Any) -> list[Any]:
    return [given] if isinstance(given, str) else list(given)
