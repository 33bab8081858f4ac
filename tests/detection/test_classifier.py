import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_recovery.detection.classifier import Scorecard, fit_scorecard, to_json

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 600)
ITEMS = [
    {"telling": float(label + RNG.normal()), "noise": float(RNG.normal()), "same": 1.0}
    for label in LABELS
]
CARD = fit_scorecard(ITEMS, LABELS, np.ones(600))


def test_the_telling_feature_counts_and_the_others_do_not():
    low, high = ({"telling": t, "noise": 0.0, "same": 1.0} for t in (-1.5, 2.5))
    assert CARD.probability(low) < 0.4
    assert CARD.probability(high) > 0.6
    shares = CARD.parts(high)
    assert shares["telling"] > 3 * abs(shares["noise"])
    assert shares["same"] == pytest.approx(0, abs=1e-9)
    assert CARD.log_odds(high) == pytest.approx(sum(shares.values()) + CARD.bias)


def test_both_labels_weigh_the_same_however_many_items_they_have():
    few = [i for i, label in enumerate(LABELS) if label or i % 5 == 0]
    card = fit_scorecard([ITEMS[i] for i in few], LABELS[few], np.ones(len(few)))
    mean = np.mean([card.probability(item) for item in ITEMS])
    assert mean == pytest.approx(0.5, abs=0.05)


def test_a_file_gives_the_same_scorecard(tmp_path):
    calibrated = CARD.calibrated(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0, 1, 0, 1]))
    text = to_json({"text": calibrated})
    assert Scorecard.of(json.loads(text)["text"]) == Scorecard.of(calibrated.values)
    assert Scorecard.of(json.loads(text)["text"]).probability(ITEMS[0]) == calibrated.probability(
        ITEMS[0]
    )


def test_platt_scaling_undoes_overconfidence():
    log_odds = np.where(LABELS == 1, 4.0, -4.0)
    log_odds[::3] *= -1  # a third is wrong, whatever the 98 % say
    calibrated = CARD.calibrated(log_odds, LABELS)
    probability = 1 / (1 + np.exp(-calibrated.slope * 4 - calibrated.offset))
    assert probability == pytest.approx(2 / 3, abs=0.05)


def test_items_beyond_the_training_items_are_unfamiliar():
    assert CARD.is_familiar({"telling": 0.0, "noise": 0.0, "same": 1.0})
    strange = {"telling": 99.0, "noise": -99.0, "same": 7.0}
    assert set(CARD.unfamiliar(strange)) == {"telling", "noise", "same"}
    assert not CARD.is_familiar(strange)


@settings(max_examples=100, deadline=None)
@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_any_value_has_a_probability(telling, noise):
    assert 0 < CARD.probability({"telling": telling, "noise": noise, "same": 1.0}) < 1


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["telling"]},
        {"weights": [[0.0], [0.0], [0.0]]},
        {"edges": [[2.0, 1.0], [], []]},
        {"bias": float("nan")},
        {"names": [1, 2, 3]},
    ],
)
def test_damaged_values_are_refused(change):
    with pytest.raises((TypeError, ValueError)):
        Scorecard.of(CARD.values | change)
