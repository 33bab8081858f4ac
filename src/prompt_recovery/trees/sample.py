"""Samples several completions of a prompt, whose keys and values are computed once."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from prompt_recovery.backbones.llama import SmallLlama
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
        with torch.no_grad() if _is_sharded(model) else torch.inference_mode():
            return function(model, *args, **options)

    return cast(F, computed)


def _is_sharded(model: Any) -> bool:
    module = sys.modules.get("torch.distributed.tensor")  # it takes seconds to import
    return module is not None and any(isinstance(p, module.DTensor) for p in model.parameters())


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
    read: Callable[[Tensor], None] = lambda _: None,
) -> list[list[Sample]]:
    """Samples N completions of each of R prompts, as trees that grow by a token per branch.

    A row has the prompt's keys and values once for all of its branches. Each step feeds one token
    of each branch, with a mask that hides its siblings. Branches are one as long as they have had
    the same tokens. The uniform numbers come from outside,
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
        read: Called once with what `last_states` returns for the prompts, which have to be read
            anyway.
    """
    causal_lm = causal_lm_of(model)
    device = causal_lm.device
    rows, branches = len(prompts), len(temperatures)
    input_ids, lengths = _filled(prompts, pad_token_id, device)
    width = input_ids.shape[1]
    cache = _cache(causal_lm, width + branches * max_new_tokens)
    # All branches begin with the same logits, which are computed once.
    hidden = _read(causal_lm, input_ids, lengths, past_key_values=cache, use_cache=True)
    read(hidden)
    hidden = hidden[:, None]

    temperature = torch.tensor(list(temperatures), device=device)
    ends = torch.tensor(sorted(set(end_token_ids)), device=device)
    uniforms = None if uniforms is None else uniforms.to(device)
    state = _State.start(rows, branches, max_new_tokens, device)
    active = torch.arange(rows, device=device)  # rows with unfinished branches
    live = torch.arange(branches, device=device).repeat(rows, 1)  # unfinished branches, by row
    node = torch.zeros_like(live)  # the hidden state of each of them
    own = live[..., None][..., :0].bool()  # the columns after the prompt that each of them sees
    written: list[int] = []  # the step in which each of these columns was written
    for step in range(max_new_tokens):
        logits = vocabulary_logits(causal_lm, hidden)
        if not _is_each_once(node, logits.shape[1]):  # otherwise, the copy would be the same
            logits = logits[_rows(node), node]
        share = None if uniforms is None else uniforms[active[:, None], live, step]
        tokens = choose(logits, temperature[live], share)
        state.add(active[:, None], live, step, tokens, logits, ends)
        finished = state.finished[active[:, None], live]
        still = ~finished.all(1)
        if all_done(not bool(still.any()) or step + 1 == max_new_tokens):
            break
        if 2 * int(still.sum()) <= len(active) and bool(still.any()):
            active, live, tokens = active[still], live[still], tokens[still]
            node, own, finished = node[still], own[still], finished[still]
            cache.batch_select_indices(still.nonzero().squeeze(1))
        # Every row has as many branches as the one with the most unfinished; its own come first.
        count = max(int((~finished).sum(1).max()), 1)
        order = finished.to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
        live, tokens, node, finished = (t.gather(1, order) for t in (live, tokens, node, finished))
        own = own[_rows(order), order]
        fed, node = _distinct(node, tokens, finished)
        own = torch.cat([own, node[..., None] == torch.arange(fed.shape[1], device=device)], 2)
        written += [step] * fed.shape[1]
        hidden = causal_lm.get_decoder()(
            input_ids=tokens.masked_fill(finished, pad_token_id).gather(1, fed),
            position_ids=(lengths[active, None] + step).expand_as(fed).contiguous(),
            attention_mask=_step_mask(
                causal_lm, lengths[active], width, own[_rows(fed), fed], written
            ),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    return state.samples()


@_without_gradients
def last_states(model: Any, prompts: Sequence[Sequence[int]], pad_token_id: int) -> Tensor:
    """Computes the hidden states, [R, h], from which the first token of an answer is predicted.

    These are the states at the last token of each prompt, after the last layer and its norm.

    Args:
        model: A `transformers` causal LM or a `PeftModel`, in evaluation mode.
        prompts: The token ids of R ≥ 1 prompts, none of which is empty.
        pad_token_id: The token that fills the rows.
    """
    causal_lm = causal_lm_of(model)
    return _read(causal_lm, *_filled(prompts, pad_token_id, causal_lm.device), use_cache=False)


def _filled(
    prompts: Sequence[Sequence[int]], pad_token_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The prompts as int64 [R, P], filled on the right, and their lengths, int64 [R]."""
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    input_ids = torch.full((len(prompts), int(lengths.max())), pad_token_id, device=device)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = torch.as_tensor(prompt)
    return input_ids, lengths


def _read(causal_lm: Any, input_ids: Tensor, lengths: Tensor, **cache: Any) -> Tensor:
    """The hidden states at the last tokens of prompts, [R, h]."""
    # Padding is on the right, where the causal mask hides it from every prompt token.
    hidden = causal_lm.get_decoder()(
        input_ids=input_ids,
        position_ids=torch.arange(input_ids.shape[1], device=input_ids.device).expand(
            len(input_ids), -1
        ),
        **cache,
    ).last_hidden_state
    return cast(Tensor, hidden[torch.arange(len(lengths), device=lengths.device), lengths - 1])


def _distinct(node: Tensor, tokens: Tensor, finished: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the branches of each row that differ in their tokens so far.

    Args:
        node: Branches with the same number have had the same tokens before, int64 [R, N].
        tokens: The token that each branch has just got, int64 [R, N].
        finished: The branches that aren't continued, bool [R, N]. In each row they come last.

    Returns:
        The first of each kind, as indices int64 [R, F], followed by others in rows with fewer
        kinds; and for each branch, which of the F it is like, int64 [R, N].
    """
    alike = (node[:, :, None] == node[:, None]) & (tokens[:, :, None] == tokens[:, None])
    first = alike.to(torch.uint8).argmax(2).masked_fill(finished, 0)
    leads = first == torch.arange(first.shape[1], device=first.device)
    count = int(leads.sum(1).max())
    fed = (~leads).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    return fed, (leads.cumsum(1) - 1).gather(1, first)


def _is_each_once(node: Tensor, count: int) -> bool:
    """Whether each row of int64 [R, N] is 0 … count - 1."""
    return node.shape[1] == count and bool((node == torch.arange(count, device=node.device)).all())


def _rows(indices: Tensor) -> Tensor:
    """The rows that belong to indices [R, N], int64 [R, 1]."""
    return torch.arange(len(indices), device=indices.device)[:, None]


def _cache(causal_lm: Any, capacity: int) -> Any:
    """A cache for rows of at most `capacity` tokens."""
    if isinstance(causal_lm, SmallLlama):
        return causal_lm.new_cache(capacity)
    from prompt_recovery.trees.growing import tree_cache  # loads transformers

    return tree_cache(causal_lm, capacity)


def choose(logits: Tensor, temperature: Tensor, share: Tensor | None) -> Tensor:
    """int64 [R, N]: the token where the cumulative distribution passes a share of its sum."""
    if share is None:
        return logits.argmax(-1)
    probabilities = (logits / temperature.clamp(min=1e-6)[..., None]).softmax(-1)
    sampled, warm = _passed(probabilities, share), temperature > 0
    return sampled if bool(warm.all()) else torch.where(warm, sampled, logits.argmax(-1))


def _passed(probabilities: Tensor, share: Tensor) -> Tensor:
    """int64 [...]: where the cumulative sum of fp32 [..., V] passes a share of the whole sum.

    This finds first the block of tokens and then the token in it: a cumulative sum over 262,144
    tokens is slow, and inexact in fp32.
    """
    size = probabilities.shape[-1]
    whole = size - size % _BLOCK  # what follows is a block of its own: padding it would copy all
    sums = probabilities[..., :whole].unflatten(-1, (whole // _BLOCK, _BLOCK)).sum(-1)
    if whole < size:
        sums = torch.cat([sums, probabilities[..., whole:].sum(-1, keepdim=True)], -1)
    edges = sums.double().cumsum(-1)
    target = share.to(edges)[..., None] * edges[..., -1:]
    block = torch.searchsorted(edges, target, right=True).clamp_(max=edges.shape[-1] - 1)
    before = torch.where(block > 0, edges.gather(-1, (block - 1).clamp(min=0)), 0.0)
    index = block * _BLOCK + torch.arange(_BLOCK, device=block.device)
    words = probabilities.gather(-1, index.clamp(max=size - 1)).masked_fill(index >= size, 0.0)
    word = torch.searchsorted(words.double().cumsum(-1), target - before, right=True)
    found = block * _BLOCK + word.clamp_(max=_BLOCK - 1)
    return found.clamp_(max=size - 1).squeeze(-1)


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


def _step_mask(causal_lm: Any, lengths: Tensor, width: int, own: Tensor, written: list[int]) -> Any:
    """The additive mask [R, 1, F, width + K]: a branch sees its prompt and its own tokens.

    If the model has two kinds of layers, this is a dict with a mask for each kind.

    Args:
        causal_lm: The model.
        lengths: The lengths of the prompts, int64 [R].
        width: The number of columns of the prompts.
        own: Which columns after the prompts hold tokens of each branch that is fed, bool [R, F, K].
        written: The step in which each of the K columns was written, ascending; the last one is
            this step.
    """
    column = torch.arange(width, device=lengths.device)
    prompt = column < lengths[:, None]
    step = written[-1]
    age = step - torch.tensor(written, device=lengths.device)

    def mask(window: int | None) -> Tensor:
        near, recent = prompt, own
        if window is not None:
            near = prompt & (lengths[:, None] + step - column < window)
            recent = own & (age < window)
        visible = torch.cat([near[:, None].expand(-1, own.shape[1], -1), recent], 2)
        return additive(visible, activation_dtype(causal_lm))

    window, kinds = windows(causal_lm)
    if window is None or kinds == {"sliding_attention"}:
        return mask(window)
    return {"full_attention": mask(None), "sliding_attention": mask(window)}
