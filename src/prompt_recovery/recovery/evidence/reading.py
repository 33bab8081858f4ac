"""What a model reads of two texts, and what it says about a prompt when words are left out.

Words that a model doesn't read have no weight: the texts are cut to what it reads before anything
is left out, since otherwise other words would come into view in their place.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from prompt_recovery.data.tokens import CUT, completion_tokens, fitted, kept_ranges
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.bert import SmallBert
from prompt_recovery.metrics.encoder import Encoder
from prompt_recovery.recovery.evidence.pieces import Piece, Ranges, without
from prompt_recovery.recovery.evidence.places import TokenPlace, template_places
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.retriever import PairEncoder, pair_texts, unit
from prompt_recovery.recovery.spans import Quantity, TextName
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.templates import text_tokens
from prompt_recovery.trees import Tree, causal_lm_of, pack, score_completions

_ROWS = 4096  # tokens of the inputs whose gradients are computed at a time
# What stands for a word without content in place of each word of a language model's input. With its
# end-of-text token, which the model treats in a special way, the gradients along the path differ so
# much that sixteen points don't approximate their integral.
_NEUTRAL = " …"


class Reading(Protocol):
    """A model that reads a pair of texts, and a prompt to explain."""

    @property
    def quantity(self) -> Quantity:
        """What the model says about the prompt."""
        ...

    @property
    def ranges(self) -> dict[TextName, Ranges]:
        """The parts of each text that the model reads."""
        ...

    def values(self, variants: Sequence[Collection[Piece]]) -> list[float]:
        """The quantity for each of V variants of the texts, in which some pieces are left out.

        Args:
            variants: The pieces that each variant leaves out; they are within `ranges`.
        """
        ...

    def inputs(self) -> "EmbeddedInput":
        """The pair with all words, as input embeddings."""
        ...


class EmbeddedInput(Protocol):
    """The input of a model as embeddings, of which the quantity is a differentiable function.

    Attributes:
        embeddings: The embeddings of the L input tokens, fp32 [1, L, d].
        neutral: The same, with the embedding of a neutral token in place of those of the words.
        places: Where the L tokens come from; None for tokens of templates and the prompt.
        rows: The largest number of inputs that `__call__` takes at a time.
    """

    embeddings: Tensor
    neutral: Tensor
    places: Sequence[TokenPlace | None]
    rows: int

    def context(self) -> AbstractContextManager[Any]:
        """Prepares the model for calls."""
        ...

    def __call__(self, embeddings: Tensor) -> Tensor:
        """The quantity of R inputs [R, L, d], fp32 [R]."""
        ...


class WriterReading:
    """A language model; the quantity is log p(prompt | texts), that of the end included.

    Args:
        writer: The language model.
        pair: A pair of usable texts.
        prompt: The prompt to explain.
    """

    quantity: Quantity = "log_probability"

    def __init__(self, writer: Writer, pair: Pair, prompt: str) -> None:
        # What is left of the texts always fits; it must not be cut once more.
        self._writer = replace(writer, max_prompt_tokens=2 * writer.max_prompt_tokens)
        self._pair, self._prompt = pair, prompt
        _, before, after = fitted(
            pair.original_text,
            pair.rewritten_text,
            writer.template,
            writer.tokenizer,
            writer.max_prompt_tokens,
        )
        self._texts: dict[TextName, str] = {
            "original": pair.original_text,
            "rewritten": pair.rewritten_text,
        }
        self._read: dict[TextName, str] = {"original": before, "rewritten": after}

    @cached_property
    def ranges(self) -> dict[TextName, Ranges]:
        """The parts of each text that the prompt of the model holds."""
        return {name: kept_ranges(self._texts[name], read) for name, read in self._read.items()}

    def _with(self, original_text: str, rewritten_text: str) -> Pair:
        return replace(self._pair, original_text=original_text, rewritten_text=rewritten_text)

    def values(self, variants: Sequence[Collection[Piece]]) -> list[float]:
        """log p(prompt | texts) for each variant; all are one batch of completion trees."""
        prompts = []
        for left_out in variants:
            texts = {
                name: without(text, self.ranges[name], _of(name, left_out), CUT)
                for name, text in self._texts.items()
            }
            prompts.append(self._writer.prompt_tokens(self._with(**_pair_fields(texts))))
        return self._writer.log_probabilities_after(prompts, self._prompt)

    def inputs(self) -> "WriterInput":
        """The whole prompt and the completion, as input embeddings.

        Raises:
            PromptRecoveryError: If the template shows the texts in another form, so that its tokens
                aren't those of words.
        """
        ids, places = template_places(
            self._writer.template, self._writer.tokenizer, self._read, self._texts
        )
        if ids != self._writer.prompt_tokens(self._with(**_pair_fields(self._read))):
            raise PromptRecoveryError(
                "explain=integrated_gradients: is for recoverers without solved examples in their "
                "input; use explain=occlusion"
            )
        return WriterInput(self._writer, ids, self._prompt, places)


class WriterInput:
    """The input embeddings of a language model; see `EmbeddedInput`."""

    def __init__(
        self, writer: Writer, ids: list[int], prompt: str, places: Sequence[TokenPlace | None]
    ) -> None:
        self._writer = writer
        self._causal_lm = causal_lm_of(writer.model)
        self._tree = Tree(ids, [completion_tokens(prompt, writer.tokenizer)])
        whole = [*ids, *self._tree.completions[0]]
        answer = [None] * len(self._tree.completions[0])
        self.places: Sequence[TokenPlace | None] = [*places, *answer]
        neutral = text_tokens(_NEUTRAL, writer.tokenizer)[0]
        table = self._causal_lm.get_input_embeddings()
        self.embeddings = _embedded(table, whole)
        self.neutral = _embedded(table, _neutralised(whole, self.places, neutral))
        self.rows = max(_ROWS // len(whole), 1)

    def context(self) -> AbstractContextManager[Any]:
        """Puts the model into evaluation mode."""
        return self._writer.ready()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """log p(prompt | texts) of R inputs [R, L, d], fp32 [R]."""
        trees = [self._tree] * len(embeddings)
        batch = pack(trees, int(self._writer.tokenizer.pad_token_id)).to(embeddings.device)
        with given_embeddings(self._causal_lm.get_input_embeddings(), embeddings):
            return score_completions(self._writer.model, batch).log_probability


class RetrieverReading:
    """A dense retriever; the quantity is the cosine of its prediction and the prompt's embedding.

    Args:
        encoder: Predicts the embedding of a pair.
        metric: The encoder of the metric, which embeds the prompt.
        pair: A pair of usable texts.
        prompt: The prompt to explain.
    """

    quantity: Quantity = "cosine"

    def __init__(self, encoder: PairEncoder, metric: Encoder, pair: Pair, prompt: str) -> None:
        self._encoder, self._pair = encoder, pair
        self._target = metric.embed([prompt])[0]
        self._input = _pair_input(encoder.model, pair)

    @cached_property
    def ranges(self) -> dict[TextName, Ranges]:
        """The beginnings of the texts, as far as the model reads them."""
        ends = {"original": 0, "rewritten": 0}
        for place in self._input.places:
            if place is not None:
                ends[place.text] = max(ends[place.text], place.end)
        return {"original": [(0, ends["original"])], "rewritten": [(0, ends["rewritten"])]}

    def values(self, variants: Sequence[Collection[Piece]]) -> list[float]:
        """The cosine for each variant."""
        texts: dict[TextName, str] = {
            "original": self._pair.original_text,
            "rewritten": self._pair.rewritten_text,
        }
        pairs = [
            replace(
                self._pair,
                **_pair_fields(
                    {
                        name: without(text, self.ranges[name], _of(name, left_out), "")
                        for name, text in texts.items()
                    }
                ),
            )
            for left_out in variants
        ]
        return [float(value) for value in self._encoder.embed(pairs) @ self._target]

    def inputs(self) -> "RetrieverInput":
        """The pair as input embeddings."""
        return RetrieverInput(self._input, torch.from_numpy(self._target))


class RetrieverInput:
    """The input embeddings of a sentence encoder; see `EmbeddedInput`."""

    def __init__(self, pair: "_PairInput", target: Tensor) -> None:
        self._pair = pair
        self.places = pair.places
        with torch.no_grad():
            self.embeddings = pair.embedded(pair.ids).float()
            neutral = _neutralised(pair.ids, pair.places, pair.pad)
            self.neutral = pair.embedded(neutral).float()
        self._target = target.to(self.embeddings.device)
        self.rows = max(_ROWS // len(pair.ids), 1)

    def context(self) -> AbstractContextManager[Any]:
        """The model is always in evaluation mode."""
        return nullcontext()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """The cosine of R inputs [R, L, d], fp32 [R]."""
        return unit(self._pair.predicted(embeddings).float()) @ self._target


class _PairInput(Protocol):
    """A pair as a sentence encoder reads it.

    Attributes:
        ids: The token ids.
        places: Where each of them comes from; None for special tokens.
        pad: The id of the padding token.
    """

    ids: list[int]
    places: Sequence[TokenPlace | None]
    pad: int

    def embedded(self, ids: Sequence[int]) -> Tensor:
        """The input embeddings of L token ids, [1, L, d]."""
        ...

    def predicted(self, embeddings: Tensor) -> Tensor:
        """The predicted embeddings of R inputs [R, L, d], which differ in these only; [R, d]."""
        ...


def _pair_input(model: Any, pair: Pair) -> _PairInput:
    texts = pair_texts(pair)
    return _SmallBertPair(model, texts) if isinstance(model, SmallBert) else _Pair(model, texts)


_NAMES: dict[int | None, TextName] = {0: "rewritten", 1: "original"}  # as models read pairs


def _places(read: Any, parts: Sequence[int | None]) -> list[TokenPlace | None]:
    return [
        TokenPlace(_NAMES[part], *place) if part is not None and place[0] < place[1] else None
        for part, place in zip(parts, read, strict=True)
    ]


class _SmallBertPair:
    """A pair as this package's own BERT reads it."""

    def __init__(self, model: SmallBert, texts: tuple[str, str]) -> None:
        self._model = model
        read = model.read(texts)
        self.ids: list[int] = list(read.ids)
        self.places: Sequence[TokenPlace | None] = _places(read.offsets, read.sequence_ids)
        self.pad = model.pad_token_id
        self._types = torch.tensor([read.type_ids], device=model.device)

    def embedded(self, ids: Sequence[int]) -> Tensor:
        return self._model.word_embeddings(torch.tensor([ids], device=self._model.device))

    def predicted(self, embeddings: Tensor) -> Tensor:
        types = self._types.expand(len(embeddings), -1)
        return self._model.of_word_embeddings(embeddings, types)


class _Pair:
    """A pair as a sentence-transformers model reads it."""

    def __init__(self, model: Any, texts: tuple[str, str]) -> None:
        self._model = model
        self._table = model[0].auto_model.get_input_embeddings()
        device = self._table.weight.device
        self._features = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in model.preprocess([texts]).items()
        }
        self.ids: list[int] = self._features["input_ids"][0].tolist()
        # sentence-transformers gives the features only, and not where in the texts they come from.
        found = model.tokenizer(
            *texts,
            truncation="longest_first",
            max_length=model.max_seq_length,
            return_offsets_mapping=True,
        )
        if found["input_ids"] != self.ids:
            raise PromptRecoveryError(
                "explain: this retriever changes texts before it reads them, so that its tokens "
                "cannot be found in them"
            )
        self.places: Sequence[TokenPlace | None] = _places(
            found["offset_mapping"], found.sequence_ids(0)
        )
        self.pad = int(model.tokenizer.pad_token_id)

    def embedded(self, ids: Sequence[int]) -> Tensor:
        return _embedded(self._table, ids)

    def predicted(self, embeddings: Tensor) -> Tensor:
        repeated = {
            name: value.expand(len(embeddings), *value.shape[1:])
            if isinstance(value, Tensor) and value.shape[:1] == (1,)
            else value
            for name, value in self._features.items()
        }
        with given_embeddings(self._table, embeddings):
            predicted: Tensor = self._model(repeated)["sentence_embedding"]
        return predicted


def given_embeddings(table: Any, embeddings: Tensor) -> AbstractContextManager[Any]:
    """Lets a model compute with these input embeddings, whatever its token ids are.

    Args:
        table: The layer that embeds the tokens.
        embeddings: The embeddings [R, L, d].
    """
    hook: AbstractContextManager[Any] = table.register_forward_hook(
        lambda _table, _inputs, output: embeddings.to(output.dtype)
    )
    return hook


def _embedded(table: Any, ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = table(torch.tensor([ids], device=table.weight.device)).float()
    return found


def _neutralised(
    ids: Sequence[int], places: Sequence[TokenPlace | None], neutral: int
) -> list[int]:
    return [i if place is None else neutral for i, place in zip(ids, places, strict=True)]


def _of(name: str, left_out: Collection[Piece]) -> list[Piece]:
    return [piece for piece in left_out if piece.text == name]


def _pair_fields(texts: Any) -> dict[str, str]:
    return {f"{name}_text": text for name, text in texts.items()}
