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


@given(lengths, st.integers(2, 5))
def test_ranks_share_the_batches(values, world):
    train = [TokenBudgetSampler(values, 4, 500, True, 0, r, world) for r in range(world)]
    assert len({len(t) for t in train}) == 1
    assert {i for t in train for b in t for i in b} == set(range(len(values)))
    evaluation = [TokenBudgetSampler(values, 4, 500, False, 0, r, world) for r in range(world)]
    assert sorted(i for t in evaluation for b in t for i in b) == list(range(len(values)))


def test_similar_lengths_go_together():
    values = [10, 200] * 64
    padded = sum(
        len(b) * max(values[i] for i in b) for b in TokenBudgetSampler(values, 8, 10_000, True)
    )
    assert padded == sum(values)
