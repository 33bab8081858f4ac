import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.joining import Joining, Judged, fit
from prompt_recovery.recovery.mbr import rank
from prompt_recovery.recovery.posterior import Completion, Posterior

TEXTS = ["a", "b", "c", "d", "e"]
SAMPLES = st.lists(st.sampled_from(["", *TEXTS]), min_size=1, max_size=6)
RETRIEVED = st.dictionaries(st.sampled_from(TEXTS), st.floats(0.01, 5), min_size=1, max_size=5)


class Directions:
    """An encoder that knows a few texts, each as a random direction."""

    def __init__(self, seed, texts=TEXTS):
        random = np.random.default_rng(seed).normal(size=(len(texts) + 1, 4))
        unit = random / np.linalg.norm(random, axis=1, keepdims=True)
        self.vectors = dict(zip([*texts, "predicted"], unit.astype(np.float32), strict=True))

    def embed(self, texts):
        return np.stack([self.vectors[text] for text in texts])


def written(texts):
    return Posterior.of_completions([Completion(t, t, -1.0, -1.0) for t in texts])


def brute_force(samples, retrieved, weights, own, scs):
    """The expected SCS of each candidate, vote by vote."""
    vector = scs.encoder.vectors["predicted"]
    votes = [(t, weights[0] / len(samples), True) for t in samples if t]
    total = sum(retrieved.values())
    votes += [(t, weights[1] * (1 - own) * w / total, False) for t, w in retrieved.items()]
    expected = {}
    for text in {t for t, w, _ in votes if w > 0}:
        others = list(votes)
        mine = next((v for v in others if v[0] == text and v[2]), None)
        if mine is not None:  # one sample is the candidate and does not vote for itself
            others.remove(mine)
        gained = sum(w * float(scs.matrix([text], [t])[0, 0]) for t, w, _ in others)
        gained += weights[1] * own * float(scs.with_vectors([text], vector[None])[0, 0])
        mass = sum(w for _, w, _ in others) + weights[1] * own
        expected[text] = gained / mass if mass > 1e-12 else 0.0
    return expected


@settings(max_examples=150, deadline=None)
@given(
    SAMPLES,
    RETRIEVED,
    st.floats(0.05, 0.95),
    st.floats(0.05, 0.95),
    st.sampled_from([0.0, 0.2, 0.7]),
    st.floats(-0.2, 1.2),
    st.integers(0, 99),
)
def test_mbr_over_weights_that_depend_on_the_pair_is_the_formula(
    samples, retrieved, home, away, own, familiarity, seed
):
    scs = SCS(Directions(seed))
    joining = Joining((1 - home, home), (1 - away, away), own, 0.25, 0.75)
    near = min(max((familiarity - 0.25) / 0.5, 0), 1)
    share = near * home + (1 - near) * away
    weights = joining.weights(familiarity)
    assert weights == pytest.approx((1 - share, share))
    found = Posterior.of_weights(
        list(retrieved), list(retrieved.values()), scs.encoder.vectors["predicted"], 0.4
    )
    parts = [written(samples), replace(found, familiarity=familiarity)]
    joined = joining.join(parts)
    expected = brute_force(samples, retrieved, weights, own, scs)
    ranked = rank(joined, scs)
    assert {c.text: c.score for c in ranked} == pytest.approx(expected, rel=1e-5, abs=1e-6)
    truth = TEXTS[seed % len(TEXTS)]
    best = {t for t in expected if expected[t] > ranked[0].score - 1e-6}
    actual = Judged(parts, truth, scs).answered(joining)
    assert any(actual == pytest.approx(float(scs([t], [truth])[0]), abs=1e-6) for t in best)


def test_a_source_without_a_weight_has_no_candidates():
    scs = SCS(Directions(0))
    joining = Joining((1, 0), (1, 1))
    parts = [written(["a", "b"]), Posterior.of_weights(["c"], [1.0])]
    assert set(joining.join(parts).texts) == {"a", "b"}, "of unknown familiarity"
    parts[0] = replace(parts[0], familiarity=0.5)
    assert set(joining.join(parts).texts) == {"a", "b", "c"}
    assert Joining((0, 1), (0, 1)).join([parts[0], None]) is None
    assert Judged([parts[0], None], "a", scs).answered(Joining((0, 1), (0, 1))) == 0.0
    assert Judged([None, None], "a", scs).answered(joining) == 0.0


def test_a_pair_is_unfamiliar_even_if_what_measures_it_has_no_weight_then():
    joining = Joining((1, 1), (1, 0), low=0.25, high=0.75)
    probe = replace(Posterior.of_weights(["c"], [1.0]), familiarity=0.1)
    joined = joining.join([written(["a"]), probe])
    assert joined.texts == ("a",)
    assert joined.familiarity == 0.1 and joining.trust(joined.familiarity) == 0
    several = joining.join([written(["a"]), replace(probe, familiarity=0.5)])
    assert several.familiarity == 0.5


def judged(right, seed=0):
    """Examples that a retriever (True) or a writer (False) answers rightly, the other wrongly."""
    scs = SCS(Directions(seed))
    rng = np.random.default_rng(seed)
    made = []
    for by_retrieval in right:
        truth, wrong = rng.choice(TEXTS, 2, replace=False)
        said, found = (wrong, truth) if by_retrieval else (truth, wrong)
        parts = [Posterior.of_weights([said], [1.0]), Posterior.of_weights([found], [1.0])]
        made.append(Judged(parts, truth, scs))
    return made


DEFAULT = Joining((0.6, 0.4), (0.7, 0.3))


def test_the_source_that_is_right_gets_the_weight():
    good = fit(judged([True] * 38 + [False] * 2), DEFAULT, [1])
    assert good.joining.familiar[1] > 0.5
    assert good.joining.unfamiliar == DEFAULT.unfamiliar
    assert good.scs > good.scs_default + 0.5
    bad = fit(judged([False] * 38 + [True] * 2), Joining((0.3, 0.7), (0.4, 0.6)), [1])
    assert bad.joining.familiar[1] < 0.5
    assert bad.joining.unfamiliar[1] <= bad.joining.familiar[1]
    assert bad.scs > bad.scs_default + 0.5


def test_where_the_examples_say_nothing_the_default_stays():
    assert fit(judged([True, False] * 30), DEFAULT, [1]).joining == DEFAULT
    assert fit(judged([False]), DEFAULT, [1]).joining == DEFAULT


@pytest.mark.parametrize("right", [21, 22, 23])
def test_a_gain_within_the_standard_error_leaves_the_default(right):
    order = np.random.default_rng(right).permutation(40)
    found = fit(judged((order < right).tolist()), DEFAULT, [1])
    assert found.joining == DEFAULT


def test_a_fit_does_not_promise_what_chance_brought():
    """Of weights that are equally good, one looks better on the examples by chance."""
    promised, best = [], []
    for seed in range(20):
        rows = judged(np.random.default_rng(seed).random(40) < 0.5, seed)
        found = fit(rows, DEFAULT, [1])
        promised.append(found.scs - found.scs_default)
        tried = [replace(DEFAULT, familiar=(1 - s, s)) for s in (0.1, 0.4, 0.6, 0.9)]
        means = [np.mean([row.answered(joining) for row in rows]) for joining in tried]
        best.append(max(means) - found.scs_default)
    assert np.mean(promised) < 0.4 * np.mean(best)


def test_ratios_within_a_group_stay():
    rows = [
        Judged([*[written(["a", "b"])] * 2, Posterior.of_weights(["c"], [1.0])], "c",
               SCS(Directions(1)))
    ] * 30  # fmt: skip
    found = fit(rows, Joining((0.6, 0.2, 0.2), (0.6, 0.3, 0.1)), [2]).joining
    assert found.familiar[0] == pytest.approx(3 * found.familiar[1])
    assert found.unfamiliar[0] == pytest.approx(2 * found.unfamiliar[1])


def test_a_retriever_without_a_weight_for_unfamiliar_pairs_gets_none():
    rows = [
        Judged([written(["a", "b"]), Posterior.of_weights(["c"], [1.0])], "c", SCS(Directions(1)))
    ] * 30
    found = fit(rows, Joining((0.5, 0.5), (1.0, 0.0)), [1]).joining
    assert found.familiar[1] >= 0.5 and found.unfamiliar == (1.0, 0.0)


def embedded(count):
    """Examples with a retriever whose first text is wrong, and whose embedding is the truth's."""
    made = []
    for seed in range(count):
        scs = SCS(Directions(seed))
        truth, wrong = np.random.default_rng(seed).choice(TEXTS, 2, replace=False)
        vector = scs.encoder.vectors[truth]
        made.append(
            Judged([Posterior.of_weights([wrong, truth], [0.6, 0.4], vector, 0.2)], truth, scs)
        )
    return made


def test_a_predicted_embedding_that_is_right_gets_a_share_and_no_more_than_it_needs():
    found = fit(embedded(30), Joining((1.0,), (1.0,)), [0])
    # It wins where 0.4 · (1 - e) + e > 0.6 · (1 - e), which is at e > 1/6.
    assert found.joining == Joining((1.0,), (1.0,), 0.2)
    assert (found.scs, found.scs_default < 0.5) == (pytest.approx(1.0), True)


def test_without_a_retriever_no_weight_changes():
    rows = judged([True] * 30)
    assert fit(rows, replace(DEFAULT, embedding=0.5), []).joining == DEFAULT
    both = Joining((0.5, 0.5), (0.5, 0.5))
    assert fit(rows, both, [0, 1]).joining == both, "nor with nothing but retrievers"


def test_a_single_example_promises_what_the_default_has():
    [right, wrong] = judged([False, True])
    for row, weights in ((right, (0.6, 0.4)), (wrong, (0.6, 0.4))):
        default = Joining(weights, weights)
        assert fit([row], default, [1]).scs == row.answered(default)
    assert right.answered(DEFAULT) > wrong.answered(DEFAULT)


def test_weights_are_recorded_as_plain_numbers():
    joining = Joining((0.4, 0.6), (0.7, 0.3), 0.2, 0.1, 0.5)
    assert Joining.of(json.loads(json.dumps(asdict(joining)))) == joining


@pytest.mark.parametrize(
    "change",
    [
        {"familiar": [0.5]},
        {"familiar": "half"},
        {"familiar": [0.5, -0.5]},
        {"familiar": [0, 0]},
        {"unfamiliar": [float("inf"), 1]},
        {"unfamiliar": [float("nan"), 1]},
        {"embedding": 1.0},
        {"embedding": None},
        {"low": 0.5, "high": 0.5},
        {"high": float("nan")},
        {"high": {}},
    ],
)
def test_damaged_weights_are_an_error_of_one_line(change):
    values = asdict(Joining((0.4, 0.6), (0.7, 0.3), 0.2, 0.1, 0.5)) | change
    with pytest.raises(PromptRecoveryError, match="joining") as error:
        Joining.of(values)
    assert "\n" not in str(error.value)
