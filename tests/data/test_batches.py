from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.data.batches import TokenBudgetSampler

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=120)


@given(lengths, st.integers(1, 9), st.integers(1, 900), st.booleans())
def test_every_example_once_within_the_budget(values, size, budget, shuffle):
    batches = list(TokenBudgetSampler(values, size, budget, shuffle))
    assert sorted(i for b in batches for i in b) == list(range(len(values)))
    for batch in batches:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(values[i] for i in batch) <= budget


grouped = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 20)), min_size=1, max_size=120)


@given(grouped, st.integers(1, 9), st.integers(1, 900), st.integers(1, 3))
def test_groups_keep_together_within_the_budget(rows, size, budget, world):
    values, groups = zip(*rows, strict=True)
    ranks = [
        list(TokenBudgetSampler(values, size, budget, True, 0, r, world, groups))
        for r in range(world)
    ]
    assert sorted(i for r in ranks for b in r for i in b if i >= 0) == list(range(len(values)))
    for batch in (b for r in ranks for b in r):
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(values[i] for i in batch if i >= 0) <= budget
    if world == 1:
        # Neighbours: each batch begins and ends with at most one group that goes on elsewhere.
        for batch in ranks[0]:
            inner = {groups[i] for i in batch} - {groups[batch[0]], groups[batch[-1]]}
            assert all(sum(g == n for n in groups) <= len(batch) for g in inner)
            runs = 1 + sum(groups[a] != groups[b] for a, b in pairwise(batch))
            assert runs == len({groups[i] for i in batch})


def test_groups_are_mixed_anew_in_each_epoch():
    values, groups = [10] * 60, [i // 6 for i in range(60)]
    sampler = TokenBudgetSampler(values, 6, 1000, True, groups=groups)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(map(sorted, first)) == sorted(map(sorted, second)), "whole groups"
    assert [groups[b[0]] for b in first] != [groups[b[0]] for b in second]
    assert any(b not in second for b in first), "members of a group are in another order"


def test_validation_ignores_groups():
    values, groups = list(range(1, 40)), [i % 3 for i in range(39)]
    assert list(TokenBudgetSampler(values, 4, 1000, False, groups=groups)) == list(
        TokenBudgetSampler(values, 4, 1000, False)
    )


@given(lengths, st.integers(0, 4))
def test_a_resumed_epoch_goes_on_with_the_same_batches(values, start):
    whole, resumed = (TokenBudgetSampler(values, 4, 500, True, seed=3) for _ in range(2))
    whole.set_epoch(2)
    resumed.set_epoch(2)
    resumed.first_batch = lambda: start
    assert list(resumed) == list(whole)[start:]


def test_epochs_and_seeds_differ():
    values = list(range(1, 100))
    sampler = TokenBudgetSampler(values, 4, 10_000, True)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(TokenBudgetSampler(values, 4, 10_000, True, seed=1)) != first


@given(lengths, st.integers(2, 5), st.integers(1, 900), st.booleans())
def test_ranks_share_each_batch(values, world, budget, shuffle):
    ranks = [
        list(TokenBudgetSampler(values, 4, budget, shuffle, 0, r, world)) for r in range(world)
    ]
    assert len({len(r) for r in ranks}) == 1
    for shares in zip(*ranks, strict=True):
        real = [[i for i in share if i >= 0] for share in shares]
        assert all(shares)  # no process is without a batch
        assert max(map(len, real)) - min(map(len, real)) <= 1
        for share in real:
            assert len(share) <= 4
            assert len(share) <= 1 or len(share) * max(values[i] for i in share) <= budget
    assert sorted(i for r in ranks for b in r for i in b if i >= 0) == list(range(len(values)))


@given(lengths, st.integers(2, 5), st.booleans())
def test_together_they_have_the_batches_of_one_process(values, world, shuffle):
    ranks = [list(TokenBudgetSampler(values, 4, 10**6, shuffle, 0, r, world)) for r in range(world)]
    whole = list(TokenBudgetSampler(values, 4 * world, 10**6, shuffle, 0))
    together = [
        [i for share in shares for i in share if i >= 0] for shares in zip(*ranks, strict=True)
    ]
    assert [sorted(b) for b in together] == [sorted(b) for b in whole]


def test_similar_lengths_go_together():
    values = [10, 200] * 64
    padded = sum(
        len(b) * max(values[i] for i in b) for b in TokenBudgetSampler(values, 8, 10_000, True)
    )
    assert padded == sum(values)


def test_batches_are_as_large_as_they_may_be():
    def sizes(size, budget, world=1):
        return [len(b) for b in TokenBudgetSampler([10] * 12, size, budget, False, 0, 0, world)]

    assert sizes(size=4, budget=1000) == [4, 4, 4]
    assert sizes(size=9, budget=60) == [6, 6], "all of the budget may be used"
    assert sizes(size=9, budget=59) == [5, 5, 2]
    assert sizes(size=3, budget=1000, world=2) == [3, 3]
