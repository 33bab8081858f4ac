import numpy as np
from numpy.typing import NDArray


def bootstrap_interval(
    values: NDArray[np.floating], level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean (Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: [n], n ≥ 1, one score an example.
        level: coverage, in (0, 1).
        samples: resamples drawn.
        seed: of the draw.

    Raises:
        ValueError: no values.
    """
    if len(values) == 0:
        raise ValueError("no values to resample")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), (min(500, samples - done), len(values)))].mean(1)
            for done in range(0, samples, 500)
        ]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
