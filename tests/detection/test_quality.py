import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prompt_recovery.detection.quality import (
    auroc,
    calibration_error,
    measured,
    tpr_at_one_percent,
)

LABELS = np.array([0] * 200 + [1] * 200)


def test_the_measures_of_a_perfect_and_of_a_blind_detector():
    perfect, blind = LABELS.astype(float), np.full(400, 0.5)
    assert auroc(LABELS, perfect) == tpr_at_one_percent(LABELS, perfect) == 1
    assert calibration_error(LABELS, perfect) == 0
    assert auroc(LABELS, blind) == 0.5
    assert tpr_at_one_percent(LABELS, blind) == 0
    assert calibration_error(LABELS, blind) == 0


def test_the_auroc_is_that_of_scikit_learn():
    p = np.random.default_rng(0).integers(0, 9, 400) / 8 + LABELS * 0.2
    assert auroc(LABELS, p) == pytest.approx(roc_auc_score(LABELS, p))


def test_at_most_one_percent_of_the_others_are_taken_for_rewrites():
    p = np.linspace(0, 1, 400)
    p[:2] = 1.0  # two of the two hundred others
    assert tpr_at_one_percent(LABELS, p) == 1
    p[2] = 1.0
    assert tpr_at_one_percent(LABELS, p) == 0


def test_overconfidence_is_a_calibration_error():
    p = np.where(LABELS == 1, 0.95, 0.05)
    p[:60] = 0.95
    # 260 items say 0.95, of which 200 are rewrites, and 140 say 0.05, of which none is.
    assert calibration_error(LABELS, p) == pytest.approx((47 + 7) / 400)
    assert calibration_error(LABELS, 1 - LABELS.astype(float)) == 1


def test_groups_are_drawn_together():
    rng = np.random.default_rng(0)
    p = rng.random(400) * 0.5 + LABELS * 0.25
    alone = measured(auroc, LABELS, p, [str(n) for n in range(400)], samples=200)
    groups = [str(n // 50) for n in range(400)]
    together = measured(auroc, LABELS, p, groups, samples=200)
    assert alone.value == together.value
    assert alone.low < alone.value < alone.high
    assert str(alone).startswith(f"{alone.value:.3f} (")
