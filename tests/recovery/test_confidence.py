import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_recovery.recovery.confidence import (
    Calibration,
    calibrate,
    fit,
    keep,
    kept,
    with_fallback,
)
from prompt_recovery.recovery.interface import Candidate, ConstantRecoverer, Prediction
from prompt_recovery.recovery.joining import Joining


def test_confidence_is_what_may_be_expected():
    rng = np.random.default_rng(0)
    score = rng.uniform(-3, 0, 4000)
    expected = np.clip(0.1 * (score + 3), 0, 1) ** 2
    actual = expected + rng.normal(0, 0.15, 4000)
    calibration = fit(score[:2000].tolist(), actual[:2000].tolist())
    said = np.array([calibration(s) for s in score[2000:]])
    order = np.argsort(said)
    for decile in np.array_split(order, 10):
        assert abs(said[decile].mean() - actual[2000:][decile].mean()) < 0.03
    assert all(a <= b for a, b in zip(calibration.expected, calibration.expected[1:], strict=False))
    assert calibration(-99) == calibration.expected[0] == 0
    assert calibration(99) == calibration.expected[-1]


def test_one_lucky_answer_makes_nobody_sure():
    score = np.linspace(0, 1, 100)
    actual = np.zeros(100)
    actual[-1] = 1.0
    assert fit(score.tolist(), actual.tolist())(1.0) <= 0.1 + 1e-9


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-1, 1)), min_size=1, max_size=30))
def test_it_is_the_least_squares_line_where_that_rises_above_zero(rows):
    score, actual = np.array(rows).T
    calibration = fit(score.tolist(), actual.tolist())
    said = np.array([calibration(s) for s in score])
    if len(set(score.round(3))) < 2:
        assert said == pytest.approx(actual.mean(), abs=1e-2) or min(said) >= 0
        return
    slope, intercept = np.polyfit(score, actual, 1)
    if slope > 1e-6:
        assert said == pytest.approx(np.maximum(slope * score + intercept, 0), abs=1e-4)
    elif slope < 0:
        assert said == pytest.approx(np.full(len(said), actual.mean()), abs=1e-6)


def test_confidence_falls_where_pairs_are_unlike_the_training_examples():
    """Fitted on familiar pairs, of which some are less familiar, it holds for unfamiliar ones."""
    rng = np.random.default_rng(0)

    def drawn(low, high, rows=3000):
        score, near = rng.uniform(0, 0.6, rows), rng.uniform(low, high, rows)
        return score, near, np.maximum(0.4 * score + 0.5 * near - 0.1, 0)

    score, near, expected = drawn(0.5, 0.9)
    actual = expected + rng.normal(0, 0.1, len(expected))
    calibration = fit(score.tolist(), actual.tolist(), near.tolist())
    blind = fit(score.tolist(), actual.tolist())
    score, near, expected = drawn(0.0, 0.3)
    said = np.array([calibration(s, n) for s, n in zip(score, near, strict=True)])
    assert np.abs(said - expected).mean() < 0.03
    assert np.mean([blind(s) for s in score]) > expected.mean() + 0.2
    assert calibration(0.0, -5.0) == 0.0


def test_a_familiarity_that_says_nothing_changes_nothing():
    rng = np.random.default_rng(1)
    score = rng.uniform(0, 1, 200)
    actual = 0.5 * score
    plain = fit(score.tolist(), actual.tolist())
    for near in (np.full(200, 0.3), score, -0.2 * score):
        assert fit(score.tolist(), actual.tolist(), near.tolist()) == plain
    misleading = fit(score.tolist(), (actual - 0.1 * (near := rng.random(200))).tolist(), near)
    assert misleading.per_familiarity == 0.0


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(-1, 1)), min_size=1, max_size=30)
)
def test_more_score_or_familiarity_never_lowers_the_confidence(rows):
    score, near, actual = np.array(rows).T
    calibration = fit(score.tolist(), actual.tolist(), near.tolist())
    assert list(calibration.scores) == sorted(calibration.scores)
    grid = np.linspace(-1, 2, 7)
    said = np.array([[calibration(s, n) for n in grid] for s in grid])
    assert (np.diff(said, axis=0) >= -1e-9).all()
    assert (np.diff(said, axis=1) >= -1e-9).all()


def test_few_and_equal_scores_are_no_trouble():
    assert fit([0.5], [0.2])(9) == pytest.approx(0.2)
    assert fit([0.5] * 9, [0.0, 0.3] * 4 + [0.1])(0.5) == pytest.approx(0.144, abs=0.02)


def test_what_chooses_nothing_has_no_confidence(scs, examples):
    assert calibrate(ConstantRecoverer("c"), examples, scs) is None


def test_calibrations_are_kept_by_key(tmp_path, caplog):
    first, second = Calibration((0.0, 1.0), (0.1, 0.2), 9), Calibration((0.5,), (0.3,), 4)
    keep(tmp_path, "a", asdict(first))
    keep(tmp_path, "b", asdict(second) | {"weight": 0.5})
    assert Calibration.of(kept(tmp_path)["a"]) == first
    assert Calibration.of(kept(tmp_path)["b"]) == second
    damaged = {"scores": 1, "expected": [], "examples": 1}
    uneven = {"scores": [0, 1], "expected": [0.1], "examples": 1}
    endless = {"scores": [0, float("inf")], "expected": [0.1, 0.2], "examples": 1}
    for odd in ({"a": 3}, [], None, {"a": damaged}, {"a": uneven}, {"a": endless}):
        (tmp_path / "calibration.json").write_text(json.dumps(odd))
        assert kept(tmp_path) == {}
    entry = asdict(first) | {"joining": asdict(Joining((1, 1), (2, 1)))}
    (tmp_path / "calibration.json").write_text(
        json.dumps({"a": entry, "b": entry | {"joining": {"familiar": [1]}}, "c": {"joining": 3}})
    )
    caplog.clear()
    assert set(kept(tmp_path)) == {"a"}, "the other entries are fitted again"
    assert len(caplog.messages) == 1 and "is damaged" in caplog.text
    keep(tmp_path, "a", asdict(first))
    assert Calibration.of(kept(tmp_path)["a"]) == first


def test_the_mean_prompt_answers_where_the_recoverer_does_not_know():
    chosen = (Candidate("x", -1.0, 0.1),)
    predictions = [Prediction("1", "x", False, chosen, 0.02), Prediction("2", "y", confidence=0.3)]
    low, high = with_fallback([*predictions], 0.1, "Improve it")
    assert (low.rewrite_prompt, low.fallback, low.candidates) == ("Improve it", True, chosen)
    assert high == predictions[1]
    assert with_fallback([Prediction("3", "z")], 0.1, "m")[0].rewrite_prompt == "z"
