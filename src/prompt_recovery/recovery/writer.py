"""The writer: a model that turns tokenised prompts into texts with log-probabilities."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from prompt_recovery.backbones.load import end_token_ids
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.tokens import completion_tokens, prompt_tokens
from prompt_recovery.recovery.cleaning import clean_prompt
from prompt_recovery.recovery.interface import Pair, is_usable
from prompt_recovery.recovery.posterior import Completion
from prompt_recovery.tables import counted
from prompt_recovery.templates import Template
from prompt_recovery.terminal import announced, counting
from prompt_recovery.trees import Sample, Tree, last_states, sample_completions
from prompt_recovery.trees.cached import cached_log_probabilities

T = TypeVar("T")


@dataclass
class Writer:
    """A causal LM, with or without an adapter, that reads two texts and writes the prompt.

    It only writes; a `Decoding` chooses among the answers.

    Attributes:
        model: A `transformers` causal LM, a `PeftModel` or a `SmallLlama`; None if only inputs are
            tokenised.
        tokenizer: The tokenizer of the model.
        template: The recovery template.
        max_prompt_tokens: The middle of the texts is cut out of longer inputs.
        adapter: Use the adapter of a `PeftModel`; without it, the backbone itself answers.
        name: Its name in tables.
        batch_tokens: The largest number of tokens in memory at a time, including those that are
            still to be written.
        shots: Solved examples that every input begins with.
        identity: A digest of the weights and their data type, by which
            `mean_log_probabilities` keeps what it has computed.
        whole: Loads the `PeftModel`, once, for what the `SmallLlama` in its place does not support:
            beam search, and answers without the adapter.
        read: Called with the tokenised prompts of each batch that answers are sampled for, and with
            what `last_states` returns for them.
    """

    model: Any
    tokenizer: Any
    template: Template
    max_prompt_tokens: int
    adapter: bool = True
    name: str = "recoverer"
    batch_tokens: int = 16384
    shots: Sequence[RewriteExample] = ()
    identity: str = ""
    whole: Callable[[], Any] | None = None
    read: Callable[[Sequence[Sequence[int]], NDArray[np.float32]], None] | None = None

    def __post_init__(self) -> None:
        if self.whole is not None and not self.adapter:
            self.model, self.whole = self.whole(), None

    def _with_whole_model(self) -> "Writer":
        assert self.whole is not None
        return replace(self, model=self.whole(), whole=None)

    def prompt_tokens(self, pair: Pair | RewriteExample) -> list[int]:
        """The model's input for a pair of usable texts.

        The solved examples come first, in the same format, each followed by its prompt.
        """
        ids: list[int] = []
        for shot in self.shots:
            ids += self._prompt(shot, first=not ids)
            ids += completion_tokens(shot.rewrite_prompt, self.tokenizer)
        return ids + self._prompt(pair, first=not ids)

    def share_read(self, pair: Pair | RewriteExample) -> float:
        """The share of a pair's characters that the model reads, in [0, 1]."""
        total = len(pair.original_text) + len(pair.rewritten_text)
        return 1 - min(self._tokens(pair)[1] / max(total, 1), 1)

    def _tokens(self, pair: Pair | RewriteExample) -> tuple[list[int], int]:
        return prompt_tokens(
            pair.original_text,
            pair.rewritten_text,
            self.template,
            self.tokenizer,
            self.max_prompt_tokens,
        )

    def _prompt(self, pair: Pair | RewriteExample, first: bool) -> list[int]:
        ids, _ = self._tokens(pair)
        begins = self.tokenizer.bos_token_id is not None and ids[0] == self.tokenizer.bos_token_id
        return ids if first or not begins else ids[1:]

    def in_batches(
        self,
        pairs: Sequence[Pair],
        new_tokens: int,
        answer: Callable[[Sequence[Sequence[int]], Sequence[str]], list[T]],
        progress: Callable[[int], None] = lambda _: None,
    ) -> dict[int, T]:
        """Calls a function with all usable pairs, in batches that fit into memory.

        A batch holds pairs of similar length.

        Args:
            pairs: The pairs; those with unusable texts are skipped.
            new_tokens: The largest number of tokens that are written for a pair, in all answers.
            answer: Takes the tokenised inputs and the ids of a batch, and returns one value each.
            progress: Called with the number of pairs just done.

        Returns:
            The value of each usable pair, by its index.
        """
        found: dict[int, T] = {}
        usable = [i for i, pair in enumerate(pairs) if is_usable(pair)]
        progress(len(pairs) - len(usable))
        prompts = {i: self.prompt_tokens(pairs[i]) for i in usable}
        lengths = {i: len(prompts[i]) + new_tokens for i in usable}
        for batch in batches(lengths, self.batch_tokens):
            rows = answer([prompts[i] for i in batch], [pairs[i].id for i in batch])
            found.update(zip(batch, rows, strict=True))
            progress(len(batch))
        return found

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        temperatures: Sequence[float],
        uniforms: NDArray[np.float64] | None,
        max_new_tokens: int,
        all_done: Callable[[bool], bool] = bool,
    ) -> list[list[Completion]]:
        """Writes N answers to each of R tokenised prompts; each prompt is read only once.

        Args:
            prompts: The token ids of R prompts, which are one batch.
            temperatures: The temperature of each of the N answers; 0 means greedy.
            uniforms: fp64 [R, N, max_new_tokens], random numbers in [0, 1); None if all answers
                are greedy.
            max_new_tokens: The largest number of tokens of an answer.
            all_done: As for `sample_completions`.

        Returns:
            The N answers to each prompt, which may be blank or repeated. Their log-probabilities
            are those at temperature 1.
        """
        rows = self.sample_tokens(prompts, temperatures, uniforms, max_new_tokens, all_done)
        return [
            [
                self._completion(
                    s.tokens,
                    s.log_probability,
                    s.log_probability / max(len(s.tokens) + s.finished, 1),
                )
                for s in row
            ]
            for row in rows
        ]

    def write_greedily(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        all_done: Callable[[bool], bool] = bool,
    ) -> list[Completion]:
        """The greedy answer to each tokenised prompt; takes the arguments of `write`."""
        rows = self.write(prompts, [0.0], None, max_new_tokens, all_done)
        return [row[0] for row in rows]

    def write_beams(
        self, prompts: Sequence[Sequence[int]], beams: int, max_new_tokens: int
    ) -> list[list[Completion]]:
        """The best answers to each tokenised prompt by beam search; they may be blank.

        Args:
            prompts: The token ids of the prompts, which are one batch.
            beams: The number of hypotheses that are kept, and of answers to each prompt.
            max_new_tokens: The largest number of tokens of an answer.
        """
        if beams == 1:  # `generate` would not say how likely the answer is
            return [[answer] for answer in self.write_greedily(prompts, max_new_tokens)]
        width = max(map(len, prompts))
        pad = int(self.tokenizer.pad_token_id)
        filled = [[pad] * (width - len(p)) + list(p) for p in prompts]
        seen = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
        if self.whole is not None:
            return self._with_whole_model().write_beams(prompts, beams, max_new_tokens)
        device = self.model.device
        what = f"{_writing(len(prompts), beams)} by beam search"
        with self.ready(), torch.inference_mode(), announced(what):
            found = self.model.generate(
                input_ids=torch.tensor(filled, device=device),
                attention_mask=torch.tensor(seen, device=device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=beams,
                num_return_sequences=beams,
                length_penalty=1.0,
                eos_token_id=(ends := end_token_ids(self.model, self.tokenizer)),
                pad_token_id=pad,
                output_scores=True,
                return_dict_in_generate=True,
            )
        scores = found.sequences_scores.tolist()
        answers = []
        for tokens, score in zip(found.sequences[:, width:].tolist(), scores, strict=True):
            length = next((n + 1 for n, t in enumerate(tokens) if t in ends), len(tokens))
            answers.append(self._completion(tokens[:length], score * length, score))
        return [answers[i : i + beams] for i in range(0, len(answers), beams)]

    def sample_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        temperatures: Sequence[float],
        uniforms: NDArray[np.float64] | None,
        max_new_tokens: int,
        all_done: Callable[[bool], bool] = bool,
    ) -> list[list[Sample]]:
        """The answers as tokens; takes the arguments of `write`."""
        what = _writing(len(prompts), len(temperatures))

        def read(states: torch.Tensor) -> None:
            if self.read is not None:
                self.read(prompts, _plain(states))

        with self.ready(), counting(what, max_new_tokens, "tokens at most") as advance:

            def counted_step(done: bool) -> bool:
                advance(1)
                return all_done(done)

            return sample_completions(
                self.model,
                prompts,
                temperatures,
                None if uniforms is None else torch.from_numpy(uniforms),
                max_new_tokens,
                end_token_ids(self.model, self.tokenizer),
                int(self.tokenizer.pad_token_id),
                counted_step,
                read,
            )

    def last_states(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The hidden states from which the first tokens of answers are predicted, fp32 [R, h].

        Args:
            prompts: The token ids of R ≥ 1 prompts, which are one batch.
        """
        with self.ready():
            return _plain(last_states(self.model, prompts, int(self.tokenizer.pad_token_id)))

    def mean_log_probabilities(self, pair: Pair, texts: Sequence[str]) -> list[float]:
        """log p(text | pair) per token of each of n ≥ 1 answers, with the end counted.

        The pair is read only once. If the writer has an `identity`, values are kept in the cache.
        """
        answers = [completion_tokens(text, self.tokenizer) for text in texts]
        [values] = self._scored([Tree(self.prompt_tokens(pair), answers)])
        return [value / len(answer) for value, answer in zip(values, answers, strict=True)]

    def log_probabilities_after(self, prompts: Sequence[Sequence[int]], text: str) -> list[float]:
        """log p(text | prompt) for each tokenised prompt, with the end of the answer counted.

        Where trees share rows, what prompts have in common from their beginning on is computed
        once. If the writer has an `identity`, values are kept in the cache.
        """
        answer = completion_tokens(text, self.tokenizer)
        return [value for [value] in self._scored([Tree(prompt, [answer]) for prompt in prompts])]

    def _scored(self, trees: Sequence[Tree]) -> list[list[float]]:
        pad = int(self.tokenizer.pad_token_id)
        with self.ready():
            return cached_log_probabilities(
                self.model, trees, self.identity, pad, self.batch_tokens
            )

    def decoded(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _completion(self, tokens: Sequence[int], total: float, mean: float) -> Completion:
        raw = self.decoded(tokens)
        return Completion(raw, clean_prompt(raw), total, mean)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Puts the model into evaluation mode, and switches its adapter off if it isn't used."""
        off = not self.adapter and hasattr(self.model, "disable_adapter")
        was_training = self.model.training
        self.model.eval()
        try:
            with self.model.disable_adapter() if off else nullcontext():
                yield
        finally:
            self.model.train(was_training)


def _plain(states: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(states.float().cpu().numpy())


def _writing(prompts: int, answers: int) -> str:
    """What a writer does, for a reader of the log."""
    if prompts == 1 or answers == 1:
        return f"writing {counted(prompts * answers, 'answer')}"
    return f"writing {counted(answers, 'answer')} for each of {counted(prompts, 'pair')}"


def batches(lengths: Mapping[int, int], limit: int) -> Iterator[list[int]]:
    """Groups keys of similar length, the longest first.

    Args:
        lengths: The number of tokens of each key.
        limit: The largest number of tokens of a group, padding included. A key that is longer
            than this is a group of its own.
    """
    batch: list[int] = []
    for key in sorted(lengths, key=lambda k: -lengths[k]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > limit:
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch
