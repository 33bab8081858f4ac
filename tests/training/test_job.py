import math

import pytest

from prompt_recovery.training.job import Optimisation


def test_the_learning_rate_rises_in_equal_steps_and_falls_along_a_cosine_to_zero():
    optimisation = Optimisation(warmup=0.25)
    factors = [optimisation.factor(step, 16) for step in range(17)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0], "the first step isn't wasted on a factor of 0"
    expected = [0.5 * (1 + math.cos(math.pi * n / 12)) for n in range(13)]
    assert factors[4:] == pytest.approx(expected)
    assert optimisation.factor(20, 16) == 0.0


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_without_a_warm_up_the_first_step_has_the_peak(steps):
    factors = [Optimisation(warmup=0.0).factor(step, steps) for step in range(steps)]
    assert factors[0] == 1.0 and min(factors) > 0.0
    assert factors == sorted(factors, reverse=True)
