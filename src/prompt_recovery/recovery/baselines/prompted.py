"""Baselines that prompt an untrained backbone, with or without examples."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from prompt_recovery.backbones.locate import Backbone, locate
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import normalise
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines.mean_prompt import mean_prompt
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.settings import AtLeastOne, Count, Precision, checked
from prompt_recovery.templates import Template, for_tokenizer


@checked("baseline")
@dataclass(frozen=True)
class ZeroShot:
    """The untrained backbone reads the template and answers.

    Attributes:
        backbone: The pretrained causal LM.
        template: The recovery template.
        decoding: How the answer is chosen.
        max_prompt_tokens: Maximum number of tokens of an input. The texts in longer ones are
            shortened in the middle.
        precision: fp32, bf16 or auto.
    """

    backbone: Backbone
    template: Template
    decoding: Decoding
    max_prompt_tokens: AtLeastOne = 512
    precision: Precision = "auto"

    @property
    def name(self) -> str:
        """Name shown in tables."""
        return f"{self.backbone.name} zero-shot"

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> PosteriorRecoverer:
        """Loads the backbone. Only the fallback is learned from the examples."""
        return FewShot(
            self.backbone, self.template, self.decoding, self.max_prompt_tokens, self.precision, 0
        ).fit(examples, scs)


@checked("baseline")
@dataclass(frozen=True)
class FewShot:
    """The untrained backbone reads some training examples with their answers, then the pair.

    Attributes:
        backbone: The pretrained causal LM.
        template: The recovery template.
        decoding: How the answer is chosen.
        max_prompt_tokens: Limit for each example and for the pair. The texts in longer ones are
            shortened in the middle.
        precision: fp32, bf16 or auto.
        shots: Number of examples, ≥ 0. Their prompts are distinct.
        seed: Seed of the choice of examples.
    """

    backbone: Backbone
    template: Template
    decoding: Decoding
    max_prompt_tokens: AtLeastOne = 512
    precision: Precision = "auto"
    shots: Count = 4
    seed: int = 0

    @property
    def name(self) -> str:
        """Name shown in tables."""
        return f"{self.backbone.name} {f'{self.shots}-shot' if self.shots else 'zero-shot'}"

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> PosteriorRecoverer:
        """Chooses the examples and loads the backbone."""
        # Imported here because they load torch and transformers, which the settings do not need.
        import torch

        from prompt_recovery.backbones.load import load_model, load_tokenizer
        from prompt_recovery.backbones.precision import choose_precision
        from prompt_recovery.recovery.writer import Writer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        location = locate(self.backbone)
        chosen = choose_precision(self.precision, device)
        model = load_model(self.backbone, location, chosen.dtype, eight_bit=chosen.eight_bit)
        tokenizer = load_tokenizer(self.backbone, location)
        writer = Writer(
            model=model.to(device),
            tokenizer=tokenizer,
            template=for_tokenizer(self.template, tokenizer),
            max_prompt_tokens=self.max_prompt_tokens,
            name=self.name,
            shots=choose_shots(examples, self.shots, self.seed),
        )
        fallback = mean_prompt(scs, [e.rewrite_prompt for e in examples])
        return PosteriorRecoverer.of_writer(writer, self.decoding, fallback, scs)


def choose_shots(examples: Sequence[RewriteExample], count: int, seed: int) -> list[RewriteExample]:
    """Chooses examples with distinct prompts and, as far as possible, different categories.

    Args:
        examples: The examples to choose from. Their order does not matter.
        count: Number of examples. Fewer are returned if there are not enough distinct prompts.
        seed: Seed of the choice.
    """
    shuffled = sorted(examples, key=lambda e: e.id)
    random.Random(seed).shuffle(shuffled)
    chosen: dict[str, RewriteExample] = {}
    for new_categories in (True, False):
        for example in shuffled:
            seen = {e.category for e in chosen.values()}
            if len(chosen) < count and (example.category not in seen or not new_categories):
                chosen.setdefault(normalise(example.rewrite_prompt), example)
    return list(chosen.values())
