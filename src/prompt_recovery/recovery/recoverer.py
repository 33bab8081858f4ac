"""From pairs of texts to predicted prompts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from prompt_recovery.backbones.load import end_token_ids
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.tokens import completion_tokens, prompt_tokens
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.cleaning import clean_prompt
from prompt_recovery.recovery.confidence import Calibration
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction, is_usable
from prompt_recovery.templates import Template
from prompt_recovery.trees import Sample, sample_completions

T = TypeVar("T")


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
        scs: the metric that MBR needs.
        batch_tokens: most tokens that are in memory at a time, those still to be written included.
        shots: solved examples that every input begins with.
        calibrations: from a score to the expected SCS, by the decoding that gave the score.
    """

    model: Any
    tokenizer: Any
    template: Template
    decoding: Decoding
    max_prompt_tokens: int
    fallback: str
    adapter: bool = True
    name: str = "recoverer"
    scs: SCS | None = None
    batch_tokens: int = 16384
    shots: Sequence[RewriteExample] = ()
    calibrations: dict[Decoding, Calibration] = field(default_factory=dict)

    def recover(
        self,
        pairs: Sequence[Pair],
        progress: Callable[[int], None] = lambda _: None,
        decoding: Decoding | None = None,
    ) -> list[Prediction]:
        """One prediction for each pair, in order.

        Args:
            pairs: with distinct ids, which determine samples together with the decoding's seed.
            progress: called with the number of pairs just done.
            decoding: another than the recoverer's own.
        """
        decoding = decoding or self.decoding
        found = self.ask(pairs, decoding, partial(decoding.candidates, self), progress)
        return [
            predicted(pair.id, found.get(i, []), self.fallback, self.calibrations.get(decoding))
            for i, pair in enumerate(pairs)
        ]

    def ask(
        self,
        pairs: Sequence[Pair],
        decoding: Decoding,
        answer: Callable[[Sequence[Sequence[int]], Sequence[str]], list[T]],
        progress: Callable[[int], None] = lambda _: None,
    ) -> dict[int, T]:
        """Asks about all usable pairs, in batches of similar length that fit into memory.

        Args:
            pairs: unusable ones have no answer.
            decoding: says how many tokens will be written.
            answer: gets the tokenised prompts and the ids of a batch.
            progress: called with the number of pairs just done.

        Returns:
            Index of a pair → its answer.
        """
        found: dict[int, T] = {}
        usable = [i for i, pair in enumerate(pairs) if is_usable(pair)]
        progress(len(pairs) - len(usable))
        prompts = {i: self.prompt_tokens(pairs[i]) for i in usable}
        written = decoding.branches * decoding.max_new_tokens
        for batch in batches({i: len(prompts[i]) + written for i in usable}, self.batch_tokens):
            rows = answer([prompts[i] for i in batch], [pairs[i].id for i in batch])
            found.update(zip(batch, rows, strict=True))
            progress(len(batch))
        return found

    def prompt_tokens(self, pair: Pair | RewriteExample) -> list[int]:
        """The model's input for a pair of usable texts.

        The solved examples come first, each as the model would meet and answer it.
        """
        ids: list[int] = []
        for shot in self.shots:
            ids += self._prompt(shot, first=not ids)
            ids += completion_tokens(shot.rewrite_prompt, self.tokenizer)
        return ids + self._prompt(pair, first=not ids)

    def _prompt(self, pair: Pair | RewriteExample, first: bool) -> list[int]:
        ids, _ = prompt_tokens(
            pair.original_text,
            pair.rewritten_text,
            self.template,
            self.tokenizer,
            self.max_prompt_tokens,
        )
        begins = self.tokenizer.bos_token_id is not None and ids[0] == self.tokenizer.bos_token_id
        return ids if first or not begins else ids[1:]

    def metric(self) -> SCS:
        """The metric that MBR needs.

        Raises:
            PromptRecoveryError: there is none.
        """
        if self.scs is None:
            raise PromptRecoveryError(f"{self.name}: MBR needs a metric; give the recoverer an scs")
        return self.scs

    def complete(
        self, prompts: Sequence[Sequence[int]], all_done: Callable[[bool], bool] = bool
    ) -> list[str]:
        """The greedy answers to tokenised prompts, as one batch; "" for no answer.

        Args:
            prompts: token ids.
            all_done: as for `sample_completions`.
        """
        rows = self.write(prompts, [0.0], None, self.decoding.max_new_tokens, all_done)
        return [row[0].text for row in rows]

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        temperatures: Sequence[float],
        uniforms: NDArray[np.float64] | None,
        max_new_tokens: int,
        all_done: Callable[[bool], bool] = bool,
    ) -> list[list[Candidate]]:
        """Writes N cleaned answers to each of R tokenised prompts; a prompt is read once.

        Args:
            prompts: token ids, as one batch.
            temperatures: N of them, one an answer; 0 is greedy.
            uniforms: fp64 [R, N, max_new_tokens], uniform in [0, 1); None where all are greedy.
            max_new_tokens: most tokens of an answer.
            all_done: as for `sample_completions`.

        Returns:
            The answers as they come: they may be blank or repeat. Log-probabilities are those at
            temperature 1, scores are log-probabilities per token.
        """
        rows = self._completions(prompts, temperatures, uniforms, max_new_tokens, all_done)
        return [
            [
                Candidate(
                    clean_prompt(self._text(s.tokens)),
                    s.log_probability,
                    s.log_probability / max(len(s.tokens) + s.finished, 1),
                )
                for s in row
            ]
            for row in rows
        ]

    def search(
        self, prompts: Sequence[Sequence[int]], beams: int, max_new_tokens: int
    ) -> list[list[Candidate]]:
        """The best answers to tokenised prompts by beam search, cleaned; they may be blank.

        Args:
            prompts: token ids, as one batch.
            beams: hypotheses kept, and answers to each prompt.
            max_new_tokens: most tokens of an answer.
        """
        width = max(map(len, prompts))
        pad = int(self.tokenizer.pad_token_id)
        filled = [[pad] * (width - len(p)) + list(p) for p in prompts]
        seen = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
        device = self.model.device
        with self._ready(), torch.inference_mode():
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
        scores = found.sequences_scores.tolist() if beams > 1 else [0.0] * len(prompts)
        answers = []
        for tokens, score in zip(found.sequences[:, width:].tolist(), scores, strict=True):
            length = next((n + 1 for n, t in enumerate(tokens) if t in ends), len(tokens))
            answers.append(
                Candidate(clean_prompt(self._text(tokens[:length])), score * length, score)
            )
        return [answers[i : i + beams] for i in range(0, len(answers), beams)]

    def sample(
        self,
        pairs: Sequence[Pair],
        temperatures: Sequence[float],
        uniforms: NDArray[np.float64],
        max_new_tokens: int,
    ) -> list[list[tuple[str, float]]]:
        """Samples answers to pairs of usable texts, as one batch; a pair's prompt is read once.

        Args:
            pairs: R of them.
            temperatures: N of them, one a sample.
            uniforms: fp64 [R, N, max_new_tokens], uniform in [0, 1).
            max_new_tokens: most tokens of an answer.

        Returns:
            For each pair its N raw answers with their log-probabilities at temperature 1.
        """
        prompts = [self.prompt_tokens(pair) for pair in pairs]
        rows = self._completions(prompts, temperatures, uniforms, max_new_tokens)
        return [[(self._text(s.tokens), s.log_probability) for s in row] for row in rows]

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _completions(
        self,
        prompts: Sequence[Sequence[int]],
        temperatures: Sequence[float],
        uniforms: NDArray[np.float64] | None,
        max_new_tokens: int,
        all_done: Callable[[bool], bool] = bool,
    ) -> list[list[Sample]]:
        with self._ready():
            return sample_completions(
                self.model,
                prompts,
                temperatures,
                None if uniforms is None else torch.from_numpy(uniforms),
                max_new_tokens,
                end_token_ids(self.model, self.tokenizer),
                int(self.tokenizer.pad_token_id),
                all_done,
            )

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


def predicted(
    id_: str, candidates: Sequence[Candidate], fallback: str, calibration: Calibration | None
) -> Prediction:
    """The best of a pair's candidates, or the fallback if there are none."""
    if not candidates:
        return Prediction(id_, fallback, fallback=True)
    best = candidates[0]
    confidence = None if calibration is None else calibration(best.score)
    return Prediction(id_, best.text, False, tuple(candidates), confidence)


def batches(lengths: Mapping[int, int], limit: int) -> Iterator[list[int]]:
    """Keys in groups of similar length, the longest first.

    Args:
        lengths: key → tokens.
        limit: most tokens of a group, padding included; a longer member is alone in its group.
    """
    batch: list[int] = []
    for key in sorted(lengths, key=lambda k: -lengths[k]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > limit:
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch
