"""A backbone as it is, told what to do: with examples or without."""

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
        backbone: which causal LM.
        template: the recovery template.
        decoding: how the answer is chosen.
        max_prompt_tokens: longer inputs have the middle of their texts cut out.
        precision: fp32, bf16 or auto.
    """

    backbone: Backbone
    template: Template
    decoding: Decoding
    max_prompt_tokens: AtLeastOne = 512
    precision: Precision = "auto"

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.backbone.name} zero-shot"

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> PosteriorRecoverer:
        """Loads the backbone; learns the fallback only."""
        return FewShot(
            self.backbone, self.template, self.decoding, self.max_prompt_tokens, self.precision, 0
        ).fit(examples, scs)


@checked("baseline")
@dataclass(frozen=True)
class FewShot:
    """The untrained backbone reads some training examples with their answers, then the pair.

    Attributes:
        backbone: which causal LM.
        template: the recovery template.
        decoding: how the answer is chosen.
        max_prompt_tokens: of each example and of the pair; longer ones are cut.
        precision: fp32, bf16 or auto.
        shots: examples with distinct prompts, ≥ 0.
        seed: of their choice.
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
        """In tables."""
        return f"{self.backbone.name} {f'{self.shots}-shot' if self.shots else 'zero-shot'}"

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> PosteriorRecoverer:
        """Chooses the examples and loads the backbone."""
        # These load torch and transformers, which the settings do without.
        import torch

        from prompt_recovery.backbones.load import load_model, load_tokenizer
        from prompt_recovery.backbones.precision import choose_precision
        from prompt_recovery.recovery.writer import Writer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        location = locate(self.backbone)
        dtype = choose_precision(self.precision, device).dtype
        tokenizer = load_tokenizer(self.backbone, location)
        writer = Writer(
            model=load_model(self.backbone, location, dtype).to(device),
            tokenizer=tokenizer,
            template=for_tokenizer(self.template, tokenizer),
            max_prompt_tokens=self.max_prompt_tokens,
            name=self.name,
            shots=choose_shots(examples, self.shots, self.seed),
        )
        fallback = mean_prompt(scs, [e.rewrite_prompt for e in examples])
        return PosteriorRecoverer.of_writer(writer, self.decoding, fallback, scs)


def choose_shots(examples: Sequence[RewriteExample], count: int, seed: int) -> list[RewriteExample]:
    """Examples with distinct prompts, of different categories as long as there are some.

    Args:
        examples: to choose from; their order doesn't matter.
        count: how many; fewer if there are no more distinct prompts.
        seed: another seed, other examples.
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
