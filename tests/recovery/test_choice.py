from dataclasses import replace

import numpy as np
import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.choice import LogLinear, fit_choice
from prompt_recovery.recovery.features import Features
from prompt_recovery.recovery.interface import Candidate

NAMES = ("prior", "hint")


def rows(count, informative, seed=0, candidates=6):
    """Pairs of unrelated candidates; the hint knows the best one, or nothing."""
    rng = np.random.default_rng(seed)
    features, actual = [], []
    for _ in range(count):
        scs = rng.uniform(0, 0.2, candidates)
        best = rng.integers(candidates)
        scs[best] = 0.9
        hint = rng.normal(size=candidates)
        if informative:
            hint[best] += 4
        order = np.argsort(-rng.uniform(size=candidates))
        values = np.stack([np.linspace(0, -1, candidates), 100 * hint[order]], axis=1)
        texts = tuple(Candidate(f"c{i}", None, 0.5 - 0.01 * i) for i in range(candidates))
        features.append(Features(texts, values, np.eye(candidates)))
        actual.append(scs[order])
    return features, actual


def prompts(count):
    return [f"Make it {n}" for n in range(count)]


def test_a_feature_that_knows_the_best_candidate_is_used():
    features, actual = rows(100, informative=True)
    found = fit_choice(NAMES, features, actual, prompts(100))
    assert found.scs > found.scs_plain + 0.5
    assert found.model.weights["hint"] > 0
    new, truth = rows(50, informative=True, seed=1)
    answers = [found.model.rank(f)[0].text for f in new]
    assert np.mean([truth[n][int(a[1:])] for n, a in enumerate(answers)]) > 0.8


def test_neither_the_unit_nor_the_zero_of_a_feature_matters():
    features, actual = rows(30, informative=True)
    other = [
        replace(f, values=f.values * [1.0, 0.01] + [50.0, -7.0 * n]) for n, f in enumerate(features)
    ]
    plain, moved = (
        fit_choice(NAMES, f, actual, prompts(30), keep=True).model for f in (features, other)
    )
    assert moved.weights["prior"] == pytest.approx(plain.weights["prior"], rel=1e-3)
    assert moved.weights["hint"] == pytest.approx(100 * plain.weights["hint"], rel=1e-3)


def test_where_features_know_nothing_plain_mbr_stays():
    kept = [
        fit_choice(NAMES, *rows(100, False, 100 + seed), prompts(100)).model for seed in range(20)
    ]
    assert sum(model is not None for model in kept) <= 6  # a sixth, as the standard error allows
    assert fit_choice(NAMES, *rows(1, True), prompts(1)).model is None


def test_cross_fitting_keeps_the_rows_of_a_prompt_together():
    """Each feature knows the best candidate of one prompt, so that none helps with another."""
    count, candidates = 21, 4
    candidate = tuple(Candidate(f"c{i}", None, 0.5 - 0.01 * i) for i in range(candidates))
    features, actual = [], []
    for row in range(2 * count):
        values = np.zeros((candidates, count))
        values[2, row % count] = 1.0
        features.append(Features(candidate, values, np.eye(candidates)))
        actual.append(np.eye(candidates)[2])
    names = [f"f{n}" for n in range(count)]
    of_rows = [
        f"{'Make it' if row < count else 'make it'} {row % count}" for row in range(2 * count)
    ]
    found = fit_choice(names, features, actual, of_rows, ridge=1e-4)
    assert found.scs == found.scs_plain == 0
    assert found.model is None
    apart = fit_choice(names, features, actual, prompts(2 * count), ridge=1e-4)
    assert apart.scs > 0.8, "as if the other row of each prompt had another one"


def test_the_posterior_is_bayes_rule_with_two_exponents():
    prior, channel = np.array([0.5, 0.3, 0.2]), np.array([-40.0, -35.0, -50.0])
    candidates = tuple(Candidate(text, -1.0, 0.1) for text in "abc")
    utility = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1.0]])
    features = Features(candidates, np.stack([np.log(prior), channel], 1), utility)
    model = LogLinear({"prior": 0.3, "channel": 0.1})
    expected = prior**0.3 * np.exp(0.1 * channel)
    expected /= expected.sum()
    assert model.posterior(features) == pytest.approx(expected)
    ranked = model.rank(features)
    assert [c.text for c in ranked] == ["b", "a", "c"]
    assert ranked[0].score == 0.1, "plain MBR's best score"
    gain = [expected[1] + 0.5 * expected[0], expected[0] + 0.5 * expected[1], expected[2]]
    lost = [ranked[0].score - c.score for c in ranked]
    assert lost == pytest.approx([gain[0] - value for value in gain])
    assert ranked[0].log_probability == -1.0
    many = LogLinear({"prior": 0.0, "channel": 100.0})
    assert np.isfinite(many.posterior(features)).all()


def test_weights_are_plain_numbers():
    model = LogLinear({"prior": 0.3, "channel": 0.1})
    assert LogLinear.of(dict(model.weights)) == model
    for damaged in ({}, {"prior": "a"}, {"prior": float("nan")}, None, [1]):
        with pytest.raises(PromptRecoveryError, match="choice"):
            LogLinear.of(damaged)
