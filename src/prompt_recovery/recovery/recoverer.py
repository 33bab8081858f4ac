"""From pairs of texts to predicted prompts."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from prompt_recovery.data.examples import RewriteExample, problem_with_text
from prompt_recovery.data.tokens import prompt_tokens
from prompt_recovery.recovery.decoding import Decoding, end_token_ids, generate
from prompt_recovery.templates import Template
from prompt_recovery.trees import sample_completions


@dataclass(frozen=True, slots=True)
class Pair:
    """An original text and what a rewriter made of it."""

    id: str
    original_text: str
    rewritten_text: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted prompt; `fallback` if it is not the recoverer's own answer.

    `confidence` is the SCS that it expects of itself, where it knows.
    """

    id: str
    rewrite_prompt: str
    fallback: bool = False
    confidence: float | None = None


class Recoverer(Protocol):
    """Whatever answers for pairs; one prediction each, in order, never empty."""

    @property
    def name(self) -> str:
        """In tables."""
        ...

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = ...
    ) -> list[Prediction]:
        """Predicts the prompts; calls `progress` with the number of pairs just done."""
        ...


def pairs_of(examples: Sequence[RewriteExample]) -> list[Pair]:
    """What a recoverer may see of examples: everything but the truth."""
    return [Pair(e.id, e.original_text, e.rewritten_text) for e in examples]


@dataclass
class ConstantRecoverer:
    """Answers every pair with the same prompt."""

    prompt: str
    name: str = "mean prompt"

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """The constant, once for each pair."""
        progress(len(pairs))
        return [Prediction(pair.id, self.prompt) for pair in pairs]


@dataclass
class ModelRecoverer:
    """A causal LM, adapted or not, that writes the prompt after reading the two texts.

    Attributes:
        model: a `transformers` causal LM or a `PeftModel`.
        tokenizer: its tokenizer.
        template: the recovery template.
        decoding: how the answer is chosen.
        max_prompt_tokens: longer inputs have the middle of their texts cut out.
        fallback: the answer for a pair with a blank or unusable text, or when the model says
            nothing.
        adapter: use the adapter of a `PeftModel`; without it the answer is the backbone's own.
        name: in tables.
    """

    model: Any
    tokenizer: Any
    template: Template
    decoding: Decoding
    max_prompt_tokens: int
    fallback: str
    adapter: bool = True
    name: str = "recoverer"

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """One prediction for each pair, in order."""
        answers: dict[int, str] = {}
        usable = [
            i
            for i, p in enumerate(pairs)
            if not problem_with_text(p.original_text) and not problem_with_text(p.rewritten_text)
        ]
        progress(len(pairs) - len(usable))
        prompts = {i: self.prompt_tokens(pairs[i]) for i in usable}
        usable.sort(key=lambda i: -len(prompts[i]))
        for start in range(0, len(usable), self.decoding.batch_size):
            batch = usable[start : start + self.decoding.batch_size]
            texts = self.complete([prompts[i] for i in batch])
            answers.update(zip(batch, texts, strict=True))
            progress(len(batch))
        return [
            Prediction(p.id, answers.get(i) or self.fallback, fallback=not answers.get(i))
            for i, p in enumerate(pairs)
        ]

    def prompt_tokens(self, pair: Pair) -> list[int]:
        """The model's input for a pair of usable texts."""
        return prompt_tokens(
            pair.original_text,
            pair.rewritten_text,
            self.template,
            self.tokenizer,
            self.max_prompt_tokens,
        )[0]

    def complete(
        self, prompts: Sequence[Sequence[int]], all_done: Callable[[bool], bool] = bool
    ) -> list[str]:
        """The cleaned answers to tokenised prompts, decoded as one batch; "" for no answer."""
        with self._ready():
            tokens = generate(self.model, self.tokenizer, prompts, self.decoding, all_done)
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [clean_prompt(text) for text in texts]

    def sample(
        self,
        pairs: Sequence[Pair],
        temperatures: Sequence[float],
        draws: torch.Tensor,
        max_new_tokens: int,
    ) -> list[list[tuple[str, float]]]:
        """Samples answers to pairs of usable texts, as one batch; a pair's prompt is read once.

        Args:
            pairs: R of them.
            temperatures: N of them, one a sample.
            draws: fp64 [R, N, max_new_tokens], uniform in [0, 1).
            max_new_tokens: most tokens of an answer.

        Returns:
            For each pair its N raw answers with their log-probabilities at temperature 1.
        """
        with self._ready():
            rows = sample_completions(
                self.model,
                [self.prompt_tokens(pair) for pair in pairs],
                temperatures,
                draws,
                max_new_tokens,
                end_token_ids(self.model, self.tokenizer),
                int(self.tokenizer.pad_token_id),
            )
        return [
            [
                (self.tokenizer.decode(s.tokens, skip_special_tokens=True), s.log_probability)
                for s in row
            ]
            for row in rows
        ]

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """The model in evaluation mode, with or without its adapter."""
        off = not self.adapter and hasattr(self.model, "disable_adapter")
        was_training = self.model.training
        self.model.eval()
        try:
            with self.model.disable_adapter() if off else nullcontext():
                yield
        finally:
            self.model.train(was_training)


_LEAD = re.compile(
    r"^[^\n:]{0,80}\b(?:prompt|instruction|request)\b[^\n:]{0,40}:\s*",
    re.IGNORECASE,
)


def clean_prompt(text: str) -> str:
    """A model's answer without chatter: its first paragraph, no lead-in, no enclosing quotes."""
    text = _LEAD.sub("", text.strip(), count=1).strip()
    first = text.split("\n\n", 1)[0]
    first = re.sub(r"\s+", " ", first).strip()
    for left, right in ('""', "''", "“”", "``", ("**", "**")):
        if len(first) > len(left + right) and first.startswith(left) and first.endswith(right):
            first = first[len(left) : -len(right)].strip()
    return first
