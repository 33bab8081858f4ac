"""The settings of a recoverer: which runs it loads, and how it chooses an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.channel import ChannelSettings
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.naming import NAMED, NamedShare
from prompt_recovery.recovery.records import decoding_of
from prompt_recovery.recovery.sources import SourceSettings
from prompt_recovery.recovery.stated import SHARE, StatedShare
from prompt_recovery.runs.folder import is_retriever, probe_file, recoverer_folders
from prompt_recovery.settings import LocalPath, Precision

RunNames = LocalPath | Sequence[LocalPath]
"""What `run=` takes: a run, an adapter or a retriever folder, or several that choose together."""


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """How recoverers answer.

    Attributes:
        channel: Rescores the candidates with a rewriter model.
        confidence: Whether answers have a confidence, which is their expected SCS. Its calibration
            is fitted on the validation split of the first run and kept beside its adapter.
        precision: auto, bf16, fp32 or int8.
        backbone_path: Where the backbone is now, if it isn't where the run found it.
        trust_remote_code: Run Python code that comes with a backbone.
        retrieval: A source of prompts that are added to the samples of the runs under MBR, such as
            the prompts of similar training examples of the first run. Runs with a dense retriever
            or a probe don't need it.
        bank: A file with prompts that a dense retriever or a probe can also answer with, besides
            those of its training: one on each line (.txt), or a column of a CSV, JSONL or Parquet
            file.
        probe: Whether the probe of a language model answers with it, if it has one and the decoding
            uses the metric.
        stated: The share of the votes on a pair that goes to the prompts that the lead-in of its
            rewrite states, such as "Sure, here is the text as a limerick:", in [0, 1). It is for
            decodings that use the metric.
        named: The share of its votes that a prompt for an unfamiliar pair gives to the same request
            in words that name the original text by its kind, such as "make this recipe rhyme", in
            [0, 1). It is for decodings that use the metric, and for runs with a dense retriever or
            a probe, which know the pairs that they were trained on.
        bank_column: The column. None takes the first of rewrite_prompt, text and prompt that the
            file has.
    """

    channel: ChannelSettings | None = None
    confidence: bool = True
    precision: Precision = "auto"
    backbone_path: LocalPath | None = None
    trust_remote_code: bool = False
    retrieval: SourceSettings | None = None
    bank: LocalPath | None = None
    bank_column: str | None = None
    probe: bool = True
    stated: StatedShare = SHARE
    named: NamedShare = NAMED


@dataclass(frozen=True)
class Recipe(RecipeOptions):
    """Describes a recoverer.

    Attributes:
        runs: Run, adapter or retriever folders; several of them are an ensemble.
        decoding: How answers are chosen; None means as in the run.
        weights: The weight of each run in an ensemble, > 0; empty means equal weights.
    """

    runs: Sequence[Path]
    decoding: Decoding | None = None
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not self.runs:
            raise PromptRecoveryError("run=[]: give at least one run")
        if self.weights and len(self.weights) != len(self.runs):
            raise PromptRecoveryError(
                f"weights={list(self.weights)}: give one for each of the {len(self.runs)} runs"
            )
        if self.weights and min(self.weights) <= 0:
            raise PromptRecoveryError(f"weights={list(self.weights)}: each must be > 0")
        if len(self.runs) > 1 and not (self.decoding and self.decoding.uses_metric):
            raise PromptRecoveryError(
                "several runs choose together by a decoding that uses the metric, "
                "such as decoding=mbr"
            )
        if len(self.runs) > 1 and self.backbone_path is not None:
            raise PromptRecoveryError("backbone_path= is for one run")

    def require_answers(self, setting: str = "run") -> None:
        """Checks that the runs can answer in this way, without loading them.

        Args:
            setting: The name of the setting that gives the runs, for errors.

        Raises:
            PromptRecoveryError: If a run is not there or holds no recoverer, or its parts cannot
                answer with the decoding, the channel or the bank.
        """
        folders = [folder for run in self.runs for folder in recoverer_folders(run, setting)]
        decoding = self.decoding or decoding_of(folders)
        if len(folders) > 1 and not decoding.uses_metric:
            raise PromptRecoveryError(
                f"{setting}={self.runs[0]}: its {' and '.join(f.name for f in folders)} choose "
                f"together, which decoding={decoding.name} cannot: take decoding=mbr or "
                f"decoding=choice, or one of them alone, such as {setting}={folders[0]}"
            )
        if self.channel is not None and not decoding.uses_metric:
            raise PromptRecoveryError(
                f"a channel weighs candidates by their SCS, which decoding={decoding.name} does "
                "not know: take decoding=mbr, or leave the channel out"
            )
        probed = self.probe and decoding.uses_metric
        if self.bank is not None and not any(
            is_retriever(folder) or (probed and probe_file(folder).is_file()) for folder in folders
        ):
            raise PromptRecoveryError(
                f"bank={self.bank}: is for a dense retriever, and the runs have none; train one "
                "with model=minilm objective=contrastive"
            )
