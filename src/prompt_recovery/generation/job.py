"""What a run of `generate` is given."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.data.splits import Splits, SplitSettings
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.cluster import Local
from prompt_recovery.generation.filters import Filters
from prompt_recovery.generation.instructions import Instruction
from prompt_recovery.generation.originals import CreatedOriginals, Originals
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.rewriters.base import Rewriter
from prompt_recovery.settings import AtLeastOne, Cosine, Count, LocalPath, Precision, checked
from prompt_recovery.storage import fingerprint
from prompt_recovery.templates import Template


@checked("instructions")
@dataclass(frozen=True)
class InstructionSettings:
    """Which instructions there are to choose from.

    Attributes:
        bank: a file of them; None is the shipped bank.
        composed: how many more are composed of parts, ≥ 0.
        variations: how many rewordings of each the rewriter is asked for, ≥ 0.
        near_duplicate_scs: one with a higher SCS than this to one before it is left out, in
            [-1, 1]; None keeps all.
    """

    bank: LocalPath | None = None
    composed: Count = 0
    variations: Count = 0
    near_duplicate_scs: Cosine | None = None


class Preparation(Protocol):
    """Whatever makes candidates, their scores and preferences."""

    def settings(self) -> dict[str, Any]:
        """All that decides what it makes, as JSON."""
        ...

    def __call__(self, splits: Splits, folder: Path) -> None:
        """Makes them for the training split, and writes them with card and plot to a folder."""
        ...


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """What the configuration of `generate` and its job share.

    Attributes:
        instructions: which there are.
        filters: which rewrites stay.
        split: how rows are split.
        rows: of the dataset, rejected ones included; None is one an original.
        seed: of choices and of the rewriter's answers.
        overwrite: replace a dataset that was made with other settings; finished requests stay.
        push_to_hub: a repository `user/name` to upload the dataset to, private, with the token in
            $HF_TOKEN; None uploads nothing.
    """

    instructions: InstructionSettings = field(default_factory=InstructionSettings)
    filters: Filters = field(default_factory=Filters)
    split: SplitSettings = field(default_factory=SplitSettings)
    rows: AtLeastOne | None = None
    seed: Count = 0
    overwrite: bool = False
    push_to_hub: str | None = None


@dataclass(frozen=True)
class Guessing:
    """The model whose guesses at the prompts become candidates.

    Attributes:
        backbone: which model.
        template: the recovery template.
        start: an adapter folder, or a run that has one; None is the backbone alone.
        max_prompt_tokens: longer inputs have the middle of their texts cut out.
        precision: fp32, bf16 or auto (what is faster where it runs).
    """

    backbone: Backbone
    template: Template
    start: LocalPath | None = None
    max_prompt_tokens: AtLeastOne = 512
    precision: Precision = "fp32"


@checked("")
@dataclass(frozen=True)
class GenerationJob(GenerationOptions):
    """Everything a run needs.

    Attributes:
        originals: texts, or how to have them created.
        rewriter: answers the requests.
        template: the rewrite template.
        output: the folder; made if needed.
        chunk: how many requests the rewriter gets at one time, ≥ 1; only these are in memory.
        scs: the metric, made when it is needed.
        preferences: makes candidates, scores and pairs, where they are wanted.
    """

    originals: Originals | CreatedOriginals
    rewriter: Rewriter
    template: Template
    output: Path
    chunk: int = Local.chunk
    scs: Callable[[], SCS] | None = None
    preferences: Preparation | None = None

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise PromptRecoveryError(f"cluster.chunk={self.chunk}: must be ≥ 1")
        if not self.template.chat or self.template.prefill:
            raise PromptRecoveryError(
                f"template '{self.template.name}' is none for a rewriter, which answers chats: use "
                "template=gemma_rewrite, or set template.chat=true and template.prefill=''"
            )

    def settings(self, bank: Sequence[Instruction]) -> dict[str, Any]:
        """All that decides what the dataset is, as JSON; not where and how fast it is made.

        Args:
            bank: the instructions in `instructions.bank`.
        """
        settings = {
            "rows": self.rows,
            "seed": self.seed,
            "originals": _of_originals(self.originals),
            "instructions": {
                **asdict(self.instructions),
                "bank": fingerprint([(i.text, i.family) for i in bank]),
            },
            "rewriter": {"name": self.rewriter.name, "identity": self.rewriter.identity},
            "template": asdict(self.template),
            "filters": asdict(self.filters),
            "split": asdict(self.split),
            "preferences": self.preferences and self.preferences.settings(),
        }
        wants_scs = (self.instructions.near_duplicate_scs, self.filters.duplicate_scs)
        if self.scs and wants_scs != (None, None):
            scs = self.scs()
            settings["metric"] = {"encoder": scs.encoder.identity, "exponent": scs.exponent}
        return dict(json.loads(json.dumps(settings, default=str)))


def _of_originals(originals: Originals | CreatedOriginals) -> dict[str, Any]:
    if isinstance(originals, CreatedOriginals):
        first = [asdict(request) for request in islice(originals.requests(), originals.count)]
        return {"name": "created", "count": originals.count, "requests": fingerprint(first)}
    texts = sorted((o.id, o.text, o.category, o.source, o.licence) for o in originals.originals)
    return {"name": originals.name, "count": len(texts), "texts": fingerprint(texts)}
