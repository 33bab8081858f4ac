from types import SimpleNamespace

import numpy as np
import pytest

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.recovery.interface import Prediction
from prompt_recovery.reporting.evaluation.scores import Evaluation, calibration, calibration_error
from prompt_recovery.training import results
from prompt_recovery.training.results import RunEvaluations, prediction_rows


def evaluated(count, confidence):
    scs = np.linspace(0.0, 0.5, count)
    predictions = [
        Prediction(str(i), "p", confidence=None if confidence is None else confidence * value)
        for i, value in enumerate(scs)
    ]
    zeros = np.zeros(count)
    return Evaluation("one", predictions, scs, zeros, zeros > 0, zeros, (0.0, 0.5), 1.0)


@pytest.mark.parametrize("count", [10, 60])
def test_a_run_says_how_far_the_expected_scs_is_off(count):
    trained = evaluated(count, 0.5)
    metrics = results.test_metrics(RunEvaluations(trained, None, None, trained))
    if count == 10:
        assert "test/calibration_error" not in metrics, "too few examples to say"
    else:
        assert metrics["test/calibration_error"] == calibration_error(calibration(trained)) > 0.1


@pytest.mark.parametrize("confidence", [None, 0.5])
def test_predictions_have_their_expected_scs_if_there_is_one(confidence):
    trained = evaluated(2, confidence)
    examples = [RewriteExample(str(i), "a", "b", "p") for i in range(2)]
    found = SimpleNamespace(trained=trained, start=None, zero_shot=None, alone={})
    rows = list(prediction_rows(examples, found))
    expected = [None, None] if confidence is None else [0.0, 0.25]
    assert [row.get("confidence") for row in rows] == expected
