"""Samples several completions of a prompt, whose keys and values are computed once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.cache_utils import Cache, DynamicLayer

from prompt_recovery.kernels.attention import additive
from prompt_recovery.kernels.linear import activation_dtype
from prompt_recovery.kernels.vocabulary import vocabulary_logits
from prompt_recovery.trees.forward import causal_lm_of
from prompt_recovery.trees.masks import windows

F = TypeVar("F", bound=Callable[..., Any])
_BLOCK = 256  # tokens of the vocabulary


@dataclass(frozen=True, slots=True)
class Sample:
    """A completion: its token ids without the end-of-text token, and log p at temperature 1.

    The log-probability includes that of the end-of-text token if the completion is finished.
    """

    tokens: list[int]
    log_probability: float
    finished: bool


def _without_gradients(function: F) -> F:
    """Computes a function of a model without gradients."""

    @wraps(function)
    def computed(model: Any, *args: Any, **options: Any) -> Any:
        # Shards that are gathered in inference mode cannot be used in training afterwards.
        sharded = any(isinstance(p, DTensor) for p in model.parameters())
        with torch.no_grad() if sharded else torch.inference_mode():
            return function(model, *args, **options)

    return cast(F, computed)


@_without_gradients
def sample_completions(
    model: Any,
    prompts: Sequence[Sequence[int]],
    temperatures: Sequence[float],
    uniforms: Tensor | None,
    max_new_tokens: int,
    end_token_ids: Sequence[int],
    pad_token_id: int,
    all_done: Callable[[bool], bool] = bool,
) -> list[list[Sample]]:
    """Samples N completions of each of R prompts, as trees that grow by a token per branch.

    A row has the prompt's keys and values once for all of its branches. Each step feeds one token
    of each branch, with a mask that hides its siblings. The uniform numbers come from outside,
    so that a row's samples don't depend on the other rows of its batch.

    Args:
        model: A `transformers` causal LM or a `PeftModel`, in evaluation mode.
        prompts: The token ids of R prompts, none of which is empty.
        temperatures: N of them, one a branch; 0 takes the likeliest token.
        uniforms: fp64 [R, N, ≥ max_new_tokens], in [0, 1); the token is where the cumulative
            distribution passes the number. None where every temperature is 0.
        max_new_tokens: The largest number of tokens in a completion.
        end_token_ids: The tokens that end a completion.
        pad_token_id: The token that fills the rows.
        all_done: Called after each step with whether everything here is finished; returns whether
            to stop. With a sharded model, its answer must be the same in all processes.
    """
    causal_lm = causal_lm_of(model)
    device = causal_lm.device
    rows, branches = len(prompts), len(temperatures)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    width = int(lengths.max())
    input_ids = torch.full((rows, width), pad_token_id, device=device)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = torch.as_tensor(prompt)
    count = causal_lm.config.get_text_config().num_hidden_layers
    capacity = width + branches * max_new_tokens
    cache = Cache(layers=[_TreeLayer(capacity) for _ in range(count)])
    # Padding is on the right, where the causal mask hides it from every prompt token.
    hidden = causal_lm.get_decoder()(
        input_ids=input_ids,
        position_ids=torch.arange(width, device=device).expand(rows, -1),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    hidden = hidden[torch.arange(rows, device=device), lengths - 1][:, None].expand(
        -1, branches, -1
    )

    temperature = torch.tensor(list(temperatures), device=device)
    ends = torch.tensor(sorted(set(end_token_ids)), device=device)
    uniforms = None if uniforms is None else uniforms.to(device)
    state = _State.start(rows, branches, max_new_tokens, device)
    active = torch.arange(rows, device=device)  # rows with unfinished branches
    live = torch.arange(branches, device=device).repeat(
        rows, 1
    )  # the branches that are fed, by row
    owner = live[:, :0]  # the branch that wrote each column after the prompt
    written: list[int] = []  # and in which step
    for step in range(max_new_tokens):
        logits = vocabulary_logits(causal_lm, hidden)
        share = None if uniforms is None else uniforms[active[:, None], live, step]
        tokens = choose(logits, temperature[live], share)
        state.add(active[:, None], live, step, tokens, logits, ends)
        finished = state.finished[active[:, None], live]
        still = ~finished.all(1)
        if all_done(not bool(still.any()) or step + 1 == max_new_tokens):
            break
        if 2 * int(still.sum()) <= len(active) and bool(still.any()):
            active, live, tokens = active[still], live[still], tokens[still]
            owner, finished = owner[still], finished[still]
            cache.batch_select_indices(still.nonzero().squeeze(1))
        # Every row feeds as many branches as the one with the most unfinished; its own come first.
        fed = max(int((~finished).sum(1).max()), 1)
        order = finished.to(torch.uint8).argsort(dim=1, stable=True)[:, :fed]
        live, tokens, finished = (t.gather(1, order) for t in (live, tokens, finished))
        owner = torch.cat([owner, live], 1)
        written += [step] * fed
        hidden = causal_lm.get_decoder()(
            input_ids=tokens.masked_fill(finished, pad_token_id),
            position_ids=(lengths[active, None] + step).expand(-1, fed).contiguous(),
            attention_mask=_step_mask(causal_lm, lengths[active], width, live, owner, written),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    return state.samples()


def choose(logits: Tensor, temperature: Tensor, share: Tensor | None) -> Tensor:
    """int64 [R, N]: the token where the cumulative distribution passes a share of its sum."""
    likeliest = logits.argmax(-1)
    if share is None:
        return likeliest
    probabilities = (logits / temperature.clamp(min=1e-6)[..., None]).softmax(-1)
    return torch.where(temperature > 0, _passed(probabilities, share), likeliest)


def _passed(probabilities: Tensor, share: Tensor) -> Tensor:
    """int64 [...]: where the cumulative sum of fp32 [..., V] passes a share of the whole sum.

    This finds first the block of tokens and then the token in it: a cumulative sum over 262,144
    tokens is slow, and inexact in fp32.
    """
    missing = -probabilities.shape[-1] % _BLOCK
    if missing:
        probabilities = nn.functional.pad(probabilities, (0, missing))  # a copy
    blocks = probabilities.unflatten(-1, (-1, _BLOCK))
    edges = blocks.sum(-1).double().cumsum(-1)
    target = share.to(edges)[..., None] * edges[..., -1:]
    block = torch.searchsorted(edges, target, right=True).clamp_(max=edges.shape[-1] - 1)
    before = torch.where(block > 0, edges.gather(-1, (block - 1).clamp(min=0)), 0.0)
    index = block[..., None].expand(*block.shape, _BLOCK)
    inside = blocks.gather(-2, index).squeeze(-2).double().cumsum(-1)
    word = torch.searchsorted(inside, target - before, right=True)
    found = (block * _BLOCK + word.clamp_(max=_BLOCK - 1)).squeeze(-1)
    return found.clamp_(max=probabilities.shape[-1] - missing - 1)


@dataclass
class _State:
    """The completions so far: tokens [R, N, T], log-probabilities and lengths [R, N]."""

    tokens: Tensor
    log_probability: Tensor
    length: Tensor
    finished: Tensor

    @classmethod
    def start(cls, rows: int, branches: int, steps: int, device: Any) -> "_State":
        shape = (rows, branches)
        return cls(
            torch.zeros((*shape, steps), dtype=torch.int64, device=device),
            torch.zeros(shape, dtype=torch.float64, device=device),
            torch.zeros(shape, dtype=torch.int64, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
        )

    def add(
        self, row: Tensor, branch: Tensor, step: int, tokens: Tensor, logits: Tensor, ends: Tensor
    ) -> None:
        """Adds a token to some branches, given by rows [r, 1] and branches [r, n]."""
        writing = ~self.finished[row, branch]
        value = logits.gather(-1, tokens[..., None]).squeeze(-1) - logits.logsumexp(-1)
        self.log_probability[row, branch] += (value * writing).double()
        ended = torch.isin(tokens, ends)
        self.tokens[row, branch, step] = tokens
        self.length[row, branch] += (writing & ~ended).long()
        self.finished[row, branch] |= ended

    def samples(self) -> list[list[Sample]]:
        columns = [
            t.tolist() for t in (self.tokens, self.length, self.log_probability, self.finished)
        ]
        return [
            [Sample(t[:n], p, f) for t, n, p, f in zip(*branches, strict=True)]
            for branches in zip(*columns, strict=True)
        ]


def _step_mask(
    causal_lm: Any, lengths: Tensor, width: int, live: Tensor, owner: Tensor, written: list[int]
) -> Any:
    """The additive mask [R, 1, N, width + K]: a branch sees its prompt and its own tokens.

    If the model has two kinds of layers, this is a dict with a mask for each kind.

    Args:
        causal_lm: The model.
        lengths: The lengths of the prompts, int64 [R].
        width: The number of columns of the prompts.
        live: The branches that are fed, int64 [R, N].
        owner: The branch that wrote each column after the prompts, int64 [R, K].
        written: The step in which each of the K columns was written, ascending; the last one is
            this step.
    """
    column = torch.arange(width, device=lengths.device)
    prompt = column < lengths[:, None]
    own = owner[:, None] == live[..., None]
    step = written[-1]
    age = step - torch.tensor(written, device=lengths.device)

    def mask(window: int | None) -> Tensor:
        near, recent = prompt, own
        if window is not None:
            near = prompt & (lengths[:, None] + step - column < window)
            recent = own & (age < window)
        visible = torch.cat([near[:, None].expand(-1, live.shape[1], -1), recent], 2)
        return additive(visible, activation_dtype(causal_lm))

    window, kinds = windows(causal_lm)
    if window is None or kinds == {"sliding_attention"}:
        return mask(window)
    return {"full_attention": mask(None), "sliding_attention": mask(window)}


class _TreeLayer(DynamicLayer):
    """Keys and values in a buffer of their final length, so that no step copies them.

    Layers with a sliding window keep everything, too; the masks apply the window.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.used = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            shape = (*key_states.shape[:2], self.capacity)
            self.keys = key_states.new_empty(*shape, key_states.shape[3])
            self.values = value_states.new_empty(*shape, value_states.shape[3])
        end = self.used + key_states.shape[2]
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self, *_args: Any) -> int:
        return self.used
