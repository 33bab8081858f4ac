import numpy as np
import pytest
from scipy.stats import permutation_test

from prompt_recovery.metrics.statistics import (
    bootstrap_interval,
    folds,
    holm,
    paired_gain,
    sign_flip_p,
    smallest_p,
    standard_error,
)


def test_sign_flips_give_scipys_p_value():
    differences = np.random.default_rng(1).normal(0.3, 1.0, 40)
    theirs = permutation_test(
        (differences,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
        vectorized=True,
    )
    assert sign_flip_p(differences, 20_000) == pytest.approx(theirs.pvalue, abs=0.01)


def test_small_samples_are_exact():
    assert sign_flip_p(np.array([1.0, 1.0, 1.0])) == pytest.approx(2 / 8, abs=0.02)
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert sign_flip_p(np.zeros(5), 1234) == 1.0, "as many samples as asked for"


def test_a_gain_has_the_sign_of_the_better_one():
    rng = np.random.default_rng(0)
    base = rng.random(200)
    gain = paired_gain(base + 0.1 + 0.01 * rng.normal(size=200), base)
    assert gain.mean == pytest.approx(0.1, abs=0.01)
    assert gain.interval[0] < gain.mean < gain.interval[1]
    assert gain.p < 0.001
    assert paired_gain(base, base).p == 1.0


def test_holm():
    # Worked by hand: 3 · 0.01, 2 · 0.02 and 1 · 0.04, made to rise, in the given order.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_seed_makes_an_estimate():
    values = np.random.default_rng(4).normal(0.2, 0.5, 30)
    for estimate in (bootstrap_interval, sign_flip_p):
        again, other = estimate(values, seed=1), estimate(values, seed=2)
        assert estimate(values, seed=1) == again != other


@pytest.mark.parametrize(
    "estimate",
    [
        lambda values, samples, seed: bootstrap_interval(values, 0.9, samples, seed)[0],
        sign_flip_p,
    ],
)
def test_more_resamples_estimate_more_exactly(estimate):
    values = np.random.default_rng(3).normal(0.1, 0.5, 30)
    few, many = (np.std([estimate(values, n, seed) for seed in range(24)]) for n in (500, 12_500))
    # Of independent resamples 25 times as many leave a fifth of the deviation. Were those of the
    # first 500 drawn again and again, nothing would change.
    assert 0 < many < 0.4 * few


def test_the_interval_is_made_of_percentiles_of_resampled_means():
    values = np.random.default_rng(1).random(30)
    rng = np.random.default_rng(3)
    means = np.concatenate([values[rng.integers(0, 30, (500, 30))].mean(1) for _ in range(20)])
    assert bootstrap_interval(values, 0.9, seed=3) == pytest.approx(
        np.quantile(means, [0.05, 0.95]), rel=1e-12
    )


def test_one_value_is_its_own_interval():
    assert bootstrap_interval(np.array([0.25])) == (0.25, 0.25)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval(np.array([]))


def test_the_standard_error_of_groups_counts_each_once():
    values = np.random.default_rng(0).normal(0.1, 1.0, 40)
    alone = standard_error(values)
    assert standard_error(values, range(40)) == pytest.approx(alone)
    twice = np.repeat(values, 2)
    assert standard_error(twice, np.repeat(range(40), 2).tolist()) == pytest.approx(alone)
    assert standard_error(twice) < 0.75 * alone
    assert standard_error(values, ["a"] * 40) == pytest.approx(0, abs=1e-12)


def test_folds_keep_groups_together():
    assert folds(["a", "b", "a", "c", "b"], most=2).tolist() == [0, 1, 0, 0, 1]
    assert folds([str(n) for n in range(25)]).tolist() == [n % 10 for n in range(25)]
    assert folds(["a", "a"]).tolist() == [0, 0]


@pytest.mark.parametrize("estimate", [bootstrap_interval, sign_flip_p])
def test_examples_with_prompts_of_their_own_are_resampled_alone(estimate):
    values = np.random.default_rng(5).normal(0.1, 0.5, 30)
    names = [f"prompt {n}" for n in range(30)]
    assert estimate(values, groups=names) == estimate(values)
    assert estimate(values, groups=names) != estimate(values, groups=names[:15] * 2)


def test_copies_of_an_example_say_nothing_new():
    """Four rows for each prompt, all with the same score, tell no more than one of them."""
    values = np.random.default_rng(6).normal(0.2, 0.5, 25)
    copies, names = np.repeat(values, 4), np.repeat(np.arange(25), 4).tolist()
    shuffled = np.random.default_rng(7).permutation(100)
    copies, names = copies[shuffled], [names[i] for i in shuffled]
    wanted = bootstrap_interval(values)
    assert bootstrap_interval(copies, groups=names) == pytest.approx(wanted, abs=0.01)
    assert sign_flip_p(copies, groups=names) == pytest.approx(sign_flip_p(values), abs=0.02)
    narrow = bootstrap_interval(copies)
    assert narrow[1] - narrow[0] < 0.6 * (wanted[1] - wanted[0]), "if they counted as four"
    assert sign_flip_p(copies) < 0.2 * sign_flip_p(values)
    gain = paired_gain(copies, np.zeros(100), names)
    assert gain.interval == bootstrap_interval(copies, groups=names)
    assert gain.p == sign_flip_p(copies, groups=names)


def test_a_large_group_counts_as_many_examples():
    """The mean of a resample is that of its examples, not that of its groups' means."""
    values, names = np.array([1.0] * 9 + [0.0]), [0] * 9 + [1]
    low, high = bootstrap_interval(values, 0.4, groups=names)
    assert (low, high) == (pytest.approx(0.9), pytest.approx(0.9))
    assert bootstrap_interval(values, groups=names) == (0.0, 1.0)
    assert bootstrap_interval(values, groups=[0] * 10) == pytest.approx((0.9, 0.9))


def test_the_smallest_p_value_is_that_of_equal_signs():
    for groups in (1, 2, 5):
        p = sign_flip_p(np.ones(groups), 40_000)
        assert p == pytest.approx(smallest_p(groups), abs=0.01)
