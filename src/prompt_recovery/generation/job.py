"""Inputs and settings of a `generate` run."""

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
    """Settings of the instructions to choose from.

    Attributes:
        bank: File of instructions. None uses the bank shipped with this package.
        starter: Also use the prompts of the starter dataset's training examples (both editions).
        composed: Number of additional instructions composed of parts.
        variations: Number of rewordings of each instruction to ask the rewriter for.
        near_duplicate_scs: Leave out an instruction whose SCS with an earlier one is higher than
            this. None keeps all.
    """

    bank: LocalPath | None = None
    starter: bool = False
    composed: Count = 0
    variations: Count = 0
    near_duplicate_scs: Cosine | None = None


class Preparation(Protocol):
    """Makes candidates, their scores and preferences."""

    def settings(self) -> dict[str, Any]:
        """Returns everything that determines the result, as JSON values."""
        ...

    def __call__(self, splits: Splits, folder: Path) -> None:
        """Makes preferences for the training split and writes them to `folder`, with a card."""
        ...


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Settings shared by the configuration of `generate` and its job.

    Attributes:
        instructions: Which instructions there are to choose from.
        filters: Which rewrites are kept.
        split: How rows are split.
        rows: Number of rows of the dataset, including rejected ones. None makes one row per
            original.
        seed: Seed of all choices and of the rewriter's answers.
        keep_remarks: Keep what answers say to the user, such as "Sure, here is …", instead of
            removing it. The filters judge rewrites without it.
        overwrite: Replace a dataset that was made with other settings. Finished requests are kept.
        push_to_hub: Repository `user/name` to upload the dataset to, using the token in $HF_TOKEN.
            A new repository is private. None uploads nothing.
    """

    instructions: InstructionSettings = field(default_factory=InstructionSettings)
    filters: Filters = field(default_factory=Filters)
    split: SplitSettings = field(default_factory=SplitSettings)
    rows: AtLeastOne | None = None
    seed: Count = 0
    keep_remarks: bool = False
    overwrite: bool = False
    push_to_hub: str | None = None


@dataclass(frozen=True)
class Guessing:
    """The model whose guesses at the prompts become candidates.

    Attributes:
        backbone: The pretrained model.
        template: The recovery template.
        start: An adapter folder, or a run folder that contains one. None uses the backbone alone.
        max_prompt_tokens: Maximum number of tokens of an input. The texts in longer ones are
            shortened in the middle.
        precision: fp32, bf16 or auto, which takes the faster one on the device.
    """

    backbone: Backbone
    template: Template
    start: LocalPath | None = None
    max_prompt_tokens: AtLeastOne = 512
    precision: Precision = "fp32"


@checked("")
@dataclass(frozen=True)
class GenerationJob(GenerationOptions):
    """Everything that a `generate` run needs.

    Attributes:
        originals: The texts, or how to create them.
        rewriter: The rewriter that answers the requests.
        template: The rewrite template.
        output: Output folder, created if necessary.
        chunk: Number of requests that the rewriter gets, and that are in memory, at a time.
        scs: Makes the metric when it is needed.
        preferences: Makes candidates, scores and pairs. None makes none.
    """

    originals: Originals | CreatedOriginals
    rewriter: Rewriter
    template: Template
    output: Path
    chunk: AtLeastOne = Local.chunk
    scs: Callable[[], SCS] | None = None
    preferences: Preparation | None = None

    def __post_init__(self) -> None:
        if not self.template.chat or self.template.prefill:
            raise PromptRecoveryError(
                f"template '{self.template.name}' is not for a rewriter, which answers chats: use "
                "template=gemma_rewrite, or set template.chat=true and template.prefill=''"
            )

    def settings(self, bank: Sequence[Instruction]) -> dict[str, Any]:
        """Returns everything that determines the dataset's content, as JSON values.

        Args:
            bank: The instructions in `instructions.bank`.
        """
        settings = {
            "rows": self.rows,
            "seed": self.seed,
            "originals": _of_originals(self.originals),
            "instructions": {
                **_without_defaults(asdict(self.instructions), "starter"),
                "bank": fingerprint([(i.text, i.family) for i in bank]),
            },
            "rewriter": {"name": self.rewriter.name, "identity": self.rewriter.identity},
            "template": asdict(self.template),
            "filters": _without_defaults(asdict(self.filters), "ignored"),
            "split": asdict(self.split),
            "preferences": self.preferences and self.preferences.settings(),
        }
        if self.keep_remarks:
            settings["keep_remarks"] = True
        wants_scs = (self.instructions.near_duplicate_scs, self.filters.duplicate_scs)
        if self.scs and wants_scs != (None, None):
            scs = self.scs()
            settings["metric"] = {"encoder": scs.encoder.identity, "exponent": scs.exponent}
        return dict(json.loads(json.dumps(settings, default=str)))


def _without_defaults(settings: dict[str, Any], *newer: str) -> dict[str, Any]:
    """Leaves out what older versions did not know, so that their datasets can be continued."""
    return {name: value for name, value in settings.items() if value or name not in newer}


def _of_originals(originals: Originals | CreatedOriginals) -> dict[str, Any]:
    if isinstance(originals, CreatedOriginals):
        first = [asdict(request) for request in islice(originals.requests(), originals.count)]
        return {"name": "created", "count": originals.count, "requests": fingerprint(first)}
    texts = sorted((o.id, o.text, o.category, o.source, o.licence) for o in originals.originals)
    return {"name": originals.name, "count": len(texts), "texts": fingerprint(texts)}
