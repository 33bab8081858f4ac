from dataclasses import replace

import numpy as np
import pytest

from prompt_recovery.recovery.interface import Prediction
from prompt_recovery.reporting.evaluation.scores import (
    calibration,
    calibration_error,
    evaluate,
    rouge_l,
)


@pytest.mark.parametrize(
    ("prediction", "truth", "value"),
    [
        ("make it a poem", "Make it a poem!", 1.0),
        ("make a poem", "make it a short poem", 2 * 1.0 * 0.6 / 1.6),
        ("Сделай стих", "сделай стих", 1.0),
        ("one", "two", 0.0),
        ("", "two", 0.0),
    ],
)
def test_rouge_l(prediction, truth, value):
    assert rouge_l(prediction, truth) == pytest.approx(value)


def test_lengths_are_in_groups_of_equal_size(examples, scs):
    longer = [
        replace(e, original_text="word " * (n + 1), rewritten_text="word")
        for n, e in enumerate(examples)
    ]
    result = evaluate("r", [Prediction(e.id, "Make it joyful") for e in longer], longer, scs, None)
    groups = result.by_length(longer)
    assert [count for _, count in groups.values()] == [10, 10, 10, 10]
    assert list(groups) == [(2, 11), (12, 21), (22, 31), (32, 41)]
    means = [mean for mean, _ in groups.values()]
    assert np.mean(means) == pytest.approx(result.mean)
    same = [replace(e, original_text="a", rewritten_text="b") for e in examples]
    assert list(result.by_length(same)) == [(2, 2)]


def test_calibration_in_groups_of_similar_confidence(examples, scs):
    truths = [e.rewrite_prompt for e in examples]
    right = evaluate("r", [Prediction(e.id, t) for e, t in zip(examples, truths, strict=True)],
                     examples, scs, None)  # fmt: skip
    assert calibration(right) == []
    sure = replace(
        right, predictions=[replace(p, confidence=n / 40) for n, p in enumerate(right.predictions)]
    )
    bins = calibration(sure)
    assert [b.count for b in bins] == [10] * 4, "ten answers or more in each"
    assert [b.expected for b in bins] == pytest.approx([(10 * n + 4.5) / 40 for n in range(4)])
    assert [b.actual for b in bins] == pytest.approx([1.0] * 4, abs=1e-5)
    few = replace(sure, predictions=sure.predictions[:30], scs=sure.scs[:30])
    assert [b.count for b in calibration(few)] == [10] * 3
    too_few = replace(sure, predictions=sure.predictions[:29], scs=sure.scs[:29])
    assert calibration(too_few) == [], "it would be a line through two points"
    assert calibration_error(bins) == pytest.approx(1 - 19.5 / 40, abs=1e-5)
    alike = replace(
        right,
        predictions=[replace(p, confidence=0.5) for p in right.predictions],
        scs=np.tile(np.array([0.0, 1.0], np.float32), 20),
    )
    assert [b.actual for b in calibration(alike)] == [0.5] * 4, "scores don't sort equals"
