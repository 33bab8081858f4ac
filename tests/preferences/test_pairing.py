import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.preferences.candidates import PreferenceCandidate
from prompt_recovery.preferences.pairing import STRATEGIES, Pairing

TRUTH = ("Make it rhyme", 1.0)

candidates = st.lists(
    st.builds(
        PreferenceCandidate,
        st.sampled_from(["make it rhyme!", "Sing", "Be brief"]) | st.text("abc", min_size=1),
        st.just("sampled"),
        st.floats(-1, 1) | st.sampled_from([0.0, 0.5, 1.0]),
    ),
    max_size=12,
    unique_by=lambda c: normalise(c.text),  # as they are collected
)
pairings = st.builds(
    Pairing,
    strategy=st.sampled_from(sorted(STRATEGIES)),
    margin=st.floats(0, 1.5),
    size=st.integers(2, 8),
    truth=st.booleans(),
    seed=st.integers(0, 3),
)


def eligible(found, margin):
    """What may be rejected in favour of the truth."""
    return [c for c in found if c.scs <= 1 - margin and normalise(c.text) != normalise(TRUTH[0])]


@given(pairings, candidates)
def test_groups_are_ranked_wide_enough_and_of_the_right_size(pairing, found):
    known = {(c.text, c.scs) for c in found} | {TRUTH}
    groups = pairing.groups("id", TRUTH, found)
    assert len(groups) <= 1
    for group in groups:
        scores = [score for _, score in group]
        assert 2 <= len(group) <= (pairing.size if pairing.strategy == "listwise" else 2)
        assert set(group) <= known
        assert len({normalise(text) for text, _ in group}) == len(group)
        assert scores == sorted(scores, reverse=True)
        assert scores[0] - scores[-1] >= pairing.margin - 1e-12


@given(pairings, candidates, st.randoms())
def test_the_order_of_candidates_does_not_matter(pairing, found, rng):
    shuffled = list(found)
    rng.shuffle(shuffled)
    assert pairing.groups("id", TRUTH, found) == pairing.groups("id", TRUTH, shuffled)


@given(candidates, st.floats(0, 1.5))
def test_truth_strategies(found, margin):
    wrong = eligible(found, margin)
    for name in ("truth_best", "truth_worst", "truth_random"):
        groups = Pairing(name, margin).groups("id", TRUTH, found)
        assert bool(groups) == bool(wrong)
        for chosen, rejected in groups:
            assert chosen == TRUTH
            assert rejected in {(c.text, c.scs) for c in wrong}
            if name != "truth_random":
                extreme = max if name == "truth_best" else min
                assert rejected[1] == extreme(c.scs for c in wrong)


@given(candidates, st.floats(0, 1.5), st.integers(2, 8))
def test_strategies_over_the_models_own_words(found, margin, size):
    own = eligible(found, 0)  # the truth may be among them: it is no answer of the model's
    scores = sorted((c.scs for c in own), reverse=True)
    differ = len(scores) > 1 and scores[0] - scores[-1] >= max(margin, 1e-9)
    pair = Pairing("best_worst", margin).groups("id", TRUTH, found)
    group = Pairing("listwise", margin, size).groups("id", TRUTH, found)
    assert bool(pair) == bool(group) == differ
    if differ:
        assert [s for _, s in pair[0]] == [scores[0], scores[-1]]
        assert [group[0][0][1], group[0][-1][1]] == [scores[0], scores[-1]]
        assert len(group[0]) == min(size, len(own))


@given(candidates, st.floats(0, 1.5), st.integers(2, 8))
def test_a_group_with_the_truth_begins_with_it(found, margin, size):
    wrong = eligible(found, margin)
    groups = Pairing("listwise", margin, size, truth=True).groups("id", TRUTH, found)
    if margin > 1e-9:
        assert bool(groups) == bool(wrong)
    for group in groups:
        assert group[0] == TRUTH
        assert set(group[1:]) <= {(c.text, c.scs) for c in wrong}
        assert len(group) == min(size, len(wrong) + 1)


def test_random_choices_vary_with_example_and_seed_only():
    found = [PreferenceCandidate(f"guess {n}", "sampled", 0.5 - n / 100) for n in range(20)]
    random.seed(1)
    groups = [Pairing().groups(str(n), TRUTH, found) for n in range(50)]
    random.seed(2)
    assert groups == [Pairing().groups(str(n), TRUTH, found) for n in range(50)]
    assert len({group[0][1] for group in groups}) > 10
    assert groups != [Pairing(seed=1).groups(str(n), TRUTH, found) for n in range(50)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "luck"}, "pairing.strategy=luck: must be truth_best, truth_worst"),
        ({"margin": -0.1}, "pairing.margin=-0.1: must be ≥ 0"),
        ({"size": 1}, "pairing.size=1: must be ≥ 2"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(PromptRecoveryError, match=message):
        Pairing(**options)
