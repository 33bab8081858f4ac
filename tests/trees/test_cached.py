"""Cached log-probabilities: right, and computed once."""

import os
import time

import pytest
import torch

from prompt_recovery.backbones.adapters import add_adapter
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.trees import Tree, cached
from prompt_recovery.trees.cached import cached_log_probabilities
from tests.forks import PROCESSES
from tests.trees.test_forward import PAD, ROUNDING, one_by_one, random_trees, tiny_model

TREES = random_trees(
    prompts=(40, 7, 23, 11, 30), completions=((5, 30, 1), (9,), (3, 4), (2, 2), (6, 7))
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))


@pytest.fixture
def model():
    model = add_adapter(tiny_model("llama"), Adapter(rank=4), torch.float32)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return model.eval()


@pytest.fixture
def calls(monkeypatch):
    """How many completions each call of the model was about."""
    calls, score = [], cached.score_completions

    def counted(model, batch):
        calls.append(len(batch.tree_of_completion))
        return score(model, batch)

    monkeypatch.setattr(cached, "score_completions", counted)
    return calls


def values(model, trees=TREES, identity="x", batch_tokens=100, **options):
    with model.disable_adapter():
        return cached_log_probabilities(model, trees, identity, PAD, batch_tokens, **options)


def test_equals_the_one_by_one_pass_without_the_adapter(model, calls):
    done = []
    said = values(model, progress=done.append)
    assert [len(row) for row in said] == [3, 1, 2, 2, 2]
    with torch.no_grad(), model.disable_adapter():
        expected = one_by_one(model, TREES)
    flat = torch.tensor([v for row in said for v in row])
    torch.testing.assert_close(flat, expected, atol=0, rtol=ROUNDING)
    with torch.no_grad():
        assert (one_by_one(model, TREES) - expected).abs().max() > 0.1
    assert sum(done) == len(TREES)
    assert len(calls) > 1
    assert sum(calls) == 10


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_the_batch_does_not_matter(batch_tokens, model):
    said = values(model, batch_tokens=batch_tokens, identity=str(batch_tokens))
    alone = [values(model, [tree], identity=f"alone {batch_tokens}")[0] for tree in TREES]
    for row, expected in zip(said, alone, strict=True):
        assert row == pytest.approx(expected, rel=ROUNDING)


def test_the_second_time_nothing_is_computed(model, monkeypatch):
    first = values(model)

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(cached, "score_completions", refuse)
    done = []
    assert values(model, progress=done.append) == first
    assert sum(done) == len(TREES)
    assert values(model, TREES[::-1]) == first[::-1]
    swapped = Tree(TREES[0].prompt, TREES[0].completions[::-1])
    assert values(model, [swapped]) == [first[0][::-1]]


def test_what_is_new_is_computed(model, calls):
    values(model)
    calls.clear()
    values(model, identity="y")
    assert sum(calls) == 10
    calls.clear()
    prompt, completions = TREES[0].prompt, TREES[0].completions
    values(model, [Tree([*prompt, 9], completions)])
    assert sum(calls) == 3
    calls.clear()
    values(model, [Tree(prompt, [*completions, [8, 8]])])
    assert sum(calls) == 4
    calls.clear()
    # The same tokens, divided elsewhere.
    whole = [*prompt, *completions[0]]
    values(model, [Tree(whole[:-1], [whole[-1:]])])
    assert calls == [1]


def test_an_interrupted_pass_goes_on(model, calls, monkeypatch):
    counted = cached.score_completions

    def interrupted(model, batch):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counted(model, batch)

    monkeypatch.setattr(cached, "score_completions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        values(model, batch_tokens=1)
    done = sum(calls)
    calls.clear()
    monkeypatch.setattr(cached, "score_completions", counted)
    said = values(model, batch_tokens=1)
    assert sum(calls) == 10 - done
    assert said == values(model, identity="y", batch_tokens=1)


def test_batches_are_as_large_as_the_limit_allows():
    trees = [Tree(prompt, [[9] * length]) for prompt, length in
             (([1, 2], 8), ([1, 3], 2), ([4], 3), ([1, 2], 3), ([4], 9))]  # fmt: skip
    sizes = [10, 4, 4, 5, 10]
    assert list(map(len, trees)) == sizes
    # In rows of their own, all are as long as the longest, which comes first.
    assert cached._batches(range(5), trees, 20, sharing=False) == [[0, 4], [3, 1, 2]]
    assert cached._batches([1, 2, 3], trees, 14, sharing=False) == [[3, 1], [2]]
    # In one row, those whose prompts begin alike are neighbours, and nothing is padded.
    assert cached._batches(range(5), trees, 19, sharing=True) == [[0, 3, 1], [2, 4]]
    assert cached._batches(range(5), trees, 1, sharing=True) == [[0], [3], [1], [2], [4]]


def _in_a_process(cache, together, results):
    os.environ["PROMPT_RECOVERY_CACHE"] = cache
    model, calls, score = tiny_model("llama"), [], cached.score_completions

    def slow(model, batch):
        calls.append(len(batch.tree_of_completion))
        time.sleep(0.05)
        return score(model, batch)

    cached.score_completions = slow
    together.wait()
    results.put((cached_log_probabilities(model, TREES, "x", PAD, 1), sum(calls)))


def test_two_processes_compute_once(tmp_path):
    together, results = PROCESSES.Barrier(2), PROCESSES.Queue()
    processes = [
        PROCESSES.Process(target=_in_a_process, args=(str(tmp_path), together, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    (first, one), (second, other) = results.get(timeout=120), results.get(timeout=120)
    for process in processes:
        process.join()
    assert first == second
    assert sorted([one, other]) == [0, 10]
    assert first == cached_log_probabilities(tiny_model("llama"), TREES, "alone", PAD, 1)


def test_where_a_prompt_ends_matters(model):
    # As bytes, 256 at a prompt's end and 1 at a completion's beginning differ by a shift.
    trees = [Tree([7], [[1, 9]]), Tree([7, 256], [[9]]), Tree([7, 1], [[9]])]
    said = values(model, trees)
    with torch.no_grad(), model.disable_adapter():
        expected = one_by_one(model, trees)
    torch.testing.assert_close(torch.tensor(said).flatten(), expected, atol=0, rtol=ROUNDING)
    assert [values(model, [tree]) for tree in trees] == [[row] for row in said]
