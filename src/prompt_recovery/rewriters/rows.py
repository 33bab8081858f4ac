"""Batched decoding in which a finished row makes room for the next prompt."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from prompt_recovery.kernels.attention import additive
from prompt_recovery.kernels.linear import activation_dtype
from prompt_recovery.kernels.vocabulary import vocabulary_logits
from prompt_recovery.trees.masks import windows
from prompt_recovery.trees.sample import choose

_BLOCK = 64  # rows are lengthened by so many columns


@dataclass(frozen=True, slots=True)
class Prompt:
    """All that an answer depends on.

    Attributes:
        key: A key that is returned with the answer.
        tokens: The token ids, at least one.
        uniforms: fp64 [most tokens of an answer], uniform in [0, 1).
    """

    key: int
    tokens: Sequence[int]
    uniforms: Tensor


@dataclass(slots=True)
class Written:
    """A finished or unfinished answer.

    Attributes:
        prompt: The prompt that it answers.
        tokens: The token ids, without the token that ends the answer.
        finished: Whether the answer ended with such a token.
    """

    prompt: Prompt
    tokens: list[int] = field(default_factory=list)
    finished: bool = False


@torch.inference_mode()
def decode(
    causal_lm: Any,
    prompts: Sequence[Prompt],
    rows: int,
    temperature: float,
    max_new_tokens: int,
    end_token_ids: Sequence[int],
    pad_token_id: int,
) -> Iterator[Written]:
    """Samples an answer to each prompt, the longest prompts first, and yields each when complete.

    An answer depends on nothing but its prompt and its uniform numbers, to the last bit as far as
    the kernels allow: a prompt is read by itself, a step is always one of `rows` rows (idle ones
    are filled with padding), and a row's keys stand from column 0 on, whoever its neighbours are.

    Args:
        causal_lm: A `transformers` causal LM in evaluation mode.
        prompts: Any number of prompts.
        rows: The number of answers that are decoded at a time.
        temperature: The temperature; 0 takes the most likely token.
        max_new_tokens: The largest number of tokens in an answer.
        end_token_ids: The tokens that end an answer.
        pad_token_id: The token that fills idle rows.
    """
    device = causal_lm.device
    waiting = deque(sorted(prompts, key=lambda p: (-len(p.tokens), p.key)))
    if not waiting:
        return
    cache = _RowCache(causal_lm, rows)
    hidden = torch.zeros(
        rows, 1, causal_lm.get_output_embeddings().weight.shape[1],
        dtype=activation_dtype(causal_lm), device=device,
    )  # fmt: skip
    temperatures = torch.tensor([temperature], device=device)
    ends = frozenset(end_token_ids)
    writing: list[Written | None] = [None] * rows
    while True:
        for row in range(rows):
            if writing[row] is None and waiting:
                writing[row] = Written(waiting.popleft())
                hidden[row, 0] = cache.read(row, writing[row].prompt.tokens)  # type: ignore[union-attr]
        if not any(writing):
            return
        drawn = [w.prompt.uniforms[len(w.tokens)] if w else 0.0 for w in writing]
        uniform = torch.tensor(drawn, dtype=torch.float64, device=device)[:, None]
        logits = vocabulary_logits(causal_lm, hidden)
        chosen = choose(logits, temperatures, uniform).squeeze(1).tolist()
        for row, token in enumerate(chosen):
            written = writing[row]
            if written is None:
                chosen[row] = pad_token_id
                continue
            written.finished = token in ends
            if not written.finished:
                written.tokens.append(token)
            if written.finished or len(written.tokens) == max_new_tokens:
                writing[row], chosen[row] = None, pad_token_id
                cache.free(row)
                yield written
        if any(writing):
            hidden = cache.step(chosen)


class _RowCache:
    """The keys and values of rows of different lengths, and the forward passes that fill them."""

    def __init__(self, causal_lm: Any, rows: int) -> None:
        self._causal_lm = causal_lm
        self._device = causal_lm.device
        # The column that each row writes next; an idle row writes into its first column.
        self._next = torch.zeros(rows, dtype=torch.int64)
        count = causal_lm.config.get_text_config().num_hidden_layers
        self._layers = [_RowLayer(rows) for _ in range(count)]
        self._cache = Cache(layers=self._layers)

    def read(self, row: int, tokens: Sequence[int]) -> Tensor:
        """Reads a prompt into a row, and returns the hidden state [d] of its last token."""
        cache = DynamicCache()
        hidden: Tensor = self._causal_lm.get_decoder()(
            input_ids=torch.tensor([list(tokens)], device=self._device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[0, -1]
        self._next[row] = len(tokens)
        width = self._width()
        for layer, own in zip(self._layers, cache.layers, strict=True):
            layer.widen(width, own.keys, own.values)
            layer.keys[row, :, : len(tokens)] = own.keys[0]
            layer.values[row, :, : len(tokens)] = own.values[0]
        return hidden

    def free(self, row: int) -> None:
        """Makes a row idle."""
        self._next[row] = 0

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Adds a token to every row, and returns their hidden states [R, 1, d]."""
        place, width = self._next.to(self._device), self._width()
        for layer in self._layers:
            layer.widen(width, layer.keys, layer.values)
            layer.place = place
        hidden: Tensor = self._causal_lm.get_decoder()(
            input_ids=torch.tensor(tokens, device=self._device)[:, None],
            position_ids=place[:, None],
            attention_mask=self._mask(place, width),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._next += (self._next > 0).long()
        return hidden

    def _width(self) -> int:
        """The number of columns, in whole blocks, for all rows and their next tokens."""
        return (int(self._next.max()) // _BLOCK + 1) * _BLOCK

    def _mask(self, place: Tensor, width: int) -> Any:
        """The additive mask [R, 1, 1, width]; a dict with one for each kind of layer if two."""
        age = place[:, None] - torch.arange(width, device=self._device)

        def mask(window: int | None) -> Tensor:
            seen = age >= 0 if window is None else (age >= 0) & (age < window)
            return additive(seen[:, None], activation_dtype(self._causal_lm))

        window, kinds = windows(self._causal_lm)
        if window is None or kinds == {"sliding_attention"}:
            return mask(window)
        return {"full_attention": mask(None), "sliding_attention": mask(window)}


class _RowLayer(DynamicLayer):
    """One layer's keys and values [R, K, width, D], complete even with a sliding window.

    They are as narrow as possible instead of being sliced, since products with slices copy them.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.all_rows = torch.arange(rows)
        self.place: Tensor

    def widen(self, width: int, keys: Tensor, values: Tensor) -> None:
        """Changes the width; `keys` and `values` [·, K, ·, D] give the shape and dtype at first."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            self.all_rows = self.all_rows.to(keys.device)
            self.keys, self.values = keys[:0], values[:0]
        elif self.keys.shape[2] == width:
            return
        self.keys, self.values = (self._copied(x, width) for x in (self.keys, self.values))

    def _copied(self, old: Tensor, width: int) -> Tensor:
        # Zeros, because masked values are still multiplied by 0.
        new = old.new_zeros(len(self.all_rows), old.shape[1], width, old.shape[3])
        kept = min(width, old.shape[2])
        new[: len(old), :, :kept] = old[:, :, :kept]
        return new

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.keys[self.all_rows, :, self.place] = key_states[:, :, 0]
        self.values[self.all_rows, :, self.place] = value_states[:, :, 0]
        return self.keys, self.values

    def get_seq_length(self, *_args: Any) -> int:
        return self.keys.shape[2] if self.is_initialized else 0
