from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_recovery.recovery.mbr import rank
from prompt_recovery.recovery.posterior import Completion, Posterior, weighted_sum

TEXTS = ["a", "b", "c", "d", "e"]


class Similarities:
    """A metric that knows five texts only."""

    def __init__(self, seed):
        random = np.random.default_rng(seed).uniform(-1, 1, (len(TEXTS), len(TEXTS)))
        self.table = (random + random.T) / 2
        np.fill_diagonal(self.table, 1.0)

    def matrix(self, rows, columns):
        indices = [TEXTS.index(t) for t in rows], [TEXTS.index(t) for t in columns]
        return self.table[np.ix_(*indices)]


def completions(texts, log_probabilities=None):
    values = log_probabilities or [-1.0] * len(texts)
    return [Completion(t, t, p, p) for t, p in zip(texts, values, strict=True)]


def brute_force(members, weights, metric):
    """The expected SCS of each text, sample by sample: its heaviest one does not count for it."""
    appearances = [
        (text, weight / len(texts))
        for texts, weight in zip(members, weights, strict=True)
        for text in texts
        if text
    ]
    expected = {}
    for text in {t for t, _ in appearances}:
        others = list(appearances)
        others.remove(max((a for a in appearances if a[0] == text), key=lambda a: a[1]))
        total = sum(w for _, w in others)
        scores = [(float(metric.matrix([text], [t])[0, 0]), w) for t, w in others]
        expected[text] = sum(s * w for s, w in scores) / total if others else 0.0
    return expected


@settings(max_examples=150)
@given(
    st.lists(
        st.lists(st.sampled_from(["", *TEXTS]), min_size=1, max_size=8), min_size=1, max_size=4
    ),
    st.lists(st.floats(0.05, 20), min_size=4, max_size=4),
    st.integers(0, 99),
)
def test_mbr_over_a_weighted_sum_is_the_formula(members, weights, seed):
    metric = Similarities(seed)
    weights = weights[: len(members)]
    parts = [(Posterior.of_completions(completions(m)), w)
             for m, w in zip(members, weights, strict=True)]  # fmt: skip
    ranked = rank(weighted_sum(parts), metric)
    expected = brute_force(members, weights, metric)
    assert {c.text: c.score for c in ranked} == pytest.approx(expected, rel=1e-9, abs=1e-9)
    scores = [c.score for c in ranked]
    assert scores == sorted(scores, reverse=True)


@given(st.lists(st.sampled_from(["", *TEXTS]), min_size=1, max_size=9), st.booleans())
def test_weights_sum_to_one(texts, by_probability):
    posterior = Posterior.of_completions(completions(texts), by_probability)
    assert set(posterior.texts) == set(texts) - {""}
    assert posterior.size == len(texts), "blank answers count too"
    if posterior.texts:
        assert posterior.weights.sum() == pytest.approx(1)
        assert posterior.scaled(3.7).weights == pytest.approx(posterior.weights)


def test_texts_of_no_model_vote_like_samples():
    texts = ["a", "a", "a", "b", "", "c", "c"]
    metric = Similarities(3)
    found, samples = Posterior.of_texts(texts), Posterior.of_completions(completions(texts))
    assert found.size == samples.size == 7
    for ranked, other in zip(rank(found, metric), rank(samples, metric), strict=True):
        assert (ranked.text, ranked.score) == (other.text, pytest.approx(other.score))
        assert ranked.log_probability is None


def test_a_sum_weighs_posteriors_whatever_their_sizes():
    few = Posterior.of_texts(["a", "b"])
    many = Posterior.of_completions(completions(["c"] * 6 + ["d"] * 2))
    joined = weighted_sum([(few, 1.0), (many, 3.0)])
    weights = dict(zip(joined.texts, joined.weights, strict=True))
    assert weights == pytest.approx({"a": 1 / 8, "b": 1 / 8, "c": 9 / 16, "d": 3 / 16})
    assert weighted_sum([(many, 1.0)]) == many


def test_blank_answers_take_their_share_from_the_member_that_gave_them():
    silent = Posterior.of_completions(completions(["a", "", "", ""]))
    sure = Posterior.of_completions(completions(["b"] * 4))
    joined = weighted_sum([(silent, 1.0), (sure, 1.0)])
    assert joined.weights == pytest.approx([1 / 5, 4 / 5])


def test_log_probabilities_are_the_highest_and_none_where_no_model_wrote():
    one = Posterior.of_completions(completions(["a", "a", "b"], [-3.0, -2.0, -9.0]))
    other = Posterior.of_completions(completions(["b"], [-4.0]))
    joined = weighted_sum([(one, 1.0), (other, 1.0), (Posterior.of_texts(["b", "c"]), 1.0)])
    known = dict(zip(joined.texts, joined.log_probabilities, strict=True))
    assert known == {"a": -2.0, "b": -4.0, "c": None}


def test_a_sum_is_as_familiar_as_the_first_part_that_knows():
    parts = [Posterior.of_texts(["a"]), *(
        replace(Posterior.of_texts(["b"]), familiarity=value) for value in (0.3, 0.9)
    )]  # fmt: skip
    assert weighted_sum([(part, 1.0) for part in parts]).familiarity == 0.3
    assert weighted_sum([(parts[2], 2.0)]).familiarity == 0.9
    assert weighted_sum([(parts[0], 1.0)] * 2).familiarity is None


def test_equal_scores_are_ordered_by_log_probability_and_texts_of_no_model_come_last():
    metric = Similarities(0)
    metric.table[:] = 0.5
    written = Posterior.of_completions(completions(["a", "b", "c"], [-3.0, -1.0, -2.0]))
    ranked = rank(weighted_sum([(Posterior.of_texts(["d"]), 1.0), (written, 3.0)]), metric)
    assert [c.text for c in ranked] == ["b", "c", "a", "d"]
    assert {c.score for c in ranked} == {0.5}


def test_probability_weighs_distinct_texts():
    values = [np.log(0.6), np.log(0.2), np.log(0.2)]
    posterior = Posterior.of_completions(completions(["a", "b", "b"], values), by_probability=True)
    assert dict(zip(posterior.texts, posterior.weights, strict=True)) == pytest.approx(
        {"a": 0.75, "b": 0.25}
    )
    assert sum(posterior.votes) == pytest.approx(3)
