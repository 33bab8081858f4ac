"""What answers, as settings: which runs, and how they choose."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.channel import ChannelSettings
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.sources import SourceSettings


@dataclass(frozen=True)
class Recipe:
    """What answers.

    Attributes:
        runs: run or adapter folders; several are an ensemble.
        decoding: how answers are chosen; None is as the run did.
        weights: how much each run's samples count in an ensemble, > 0; empty is alike.
        channel: rescore candidates by a rewriter model.
        retrieval: under MBR, what joins the runs' samples: the prompts of similar training examples
            of the first run.
        confidence: say what SCS to expect; fitted on the first run's validation split and kept
            beside its adapter.
        precision: auto, bf16 or fp32.
        backbone_path: where the backbone is now, if not where the run found it.
        trust_remote_code: run Python code that comes with a backbone.
    """

    runs: Sequence[Path]
    decoding: Decoding | None = None
    weights: Sequence[float] = ()
    channel: ChannelSettings | None = None
    confidence: bool = True
    precision: str = "auto"
    backbone_path: str | None = None
    trust_remote_code: bool = False
    retrieval: SourceSettings | None = None

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
            raise PromptRecoveryError("several runs choose together by decoding=mbr only")
        if len(self.runs) > 1 and self.backbone_path is not None:
            raise PromptRecoveryError("backbone_path= is for one run")
