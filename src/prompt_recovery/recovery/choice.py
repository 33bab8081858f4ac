"""The choice: a log-linear model of which candidate is good, and MBR over it.

Plain MBR reads nothing but the posterior. A candidate has further features, such as its
log-probability under the language model or how well it explains the rewritten text (the channel). A
conditional logit model (McFadden, 1974; for candidates of machine translation: Och and Ney, ACL
2002) turns them into a posterior over a pair's best candidates,

    p(candidate | pair) ∝ exp(Σ_k w_k · feature_k(candidate)),

and the candidate with the highest expected SCS under it answers. The weights match p to the softmax
of the candidates' true SCS on validation, which is a convex problem with a ridge penalty.

A validation split of a hundred examples says little about many weights. So the fitted choice is
used only if, in cross-fitting, it gains at least a standard error over plain MBR.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.statistics import folds, gains_an_error, standard_error
from prompt_recovery.recovery.features import Features
from prompt_recovery.recovery.interface import Candidate
from prompt_recovery.storage import MALFORMED

RIDGE = 0.1
"""The weight of the ridge penalty, in units of the features' standard deviations."""
TEMPERATURE = 0.05
"""The temperature of the softmax of the true SCS that the model is fitted to."""


@dataclass(frozen=True)
class LogLinear:
    """The weights of a log-linear posterior over candidates.

    Attributes:
        weights: The weight of each feature by its name, in units of the features.
    """

    weights: Mapping[str, float]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "LogLinear":
        """From plain values: the weights by name.

        Raises:
            PromptRecoveryError: If a value is not a finite number.
        """
        try:
            weights = {str(name): float(value) for name, value in values.items()}
        except MALFORMED as error:
            raise PromptRecoveryError(
                f"choice: the recorded weights are damaged ({type(error).__name__})"
            ) from error
        if not weights or not np.isfinite(list(weights.values())).all():
            raise PromptRecoveryError("choice: the recorded weights must be finite numbers")
        return cls(weights)

    def posterior(self, features: Features) -> NDArray[np.float64]:
        """fp64 [n], the posterior over a pair's candidates, which sums to 1."""
        return _softmax(features.values @ np.array(list(self.weights.values())))

    def rank(self, features: Features) -> list[Candidate]:
        """The candidates by their expected SCS under the posterior, the best first.

        The best has the score that plain MBR gives to its own best candidate, and the others have
        less, by as much as they are expected to lose. A posterior over a few candidates does not
        tell how good the best of them is: for one pair, they may all be alike, and for another, all
        different. (On 107 validation examples, cross-fitted, the correlation of the confidence with
        the true SCS is 0.49 with this score and 0.37 with the expected SCS.)
        """
        expected = features.utility @ self.posterior(features)
        scores = features.candidates[0].score + (expected - expected.max())
        ranked = [
            Candidate(c.text, c.log_probability, float(value))
            for c, value in zip(features.candidates, scores, strict=True)
        ]
        return sorted(ranked, key=lambda c: -c.score)


@dataclass(frozen=True)
class ChoiceFit:
    """A choice fitted on validation examples.

    Attributes:
        model: The fitted model; None if plain MBR is as good.
        scs: The mean SCS on these examples if each is answered with weights fitted on the other
            nine tenths of them, none of which has the same prompt.
        scs_plain: The mean SCS of plain MBR.
        error: The standard error of the difference between the two.
    """

    model: LogLinear | None
    scs: float
    scs_plain: float
    error: float


def fit_choice(
    names: Sequence[str],
    features: Sequence[Features],
    actual: Sequence[NDArray[np.float64]],
    prompts: Sequence[str],
    ridge: float = RIDGE,
    keep: bool = False,
) -> ChoiceFit:
    """Fits the weights of features, and keeps them only if they help.

    Args:
        names: The names of the f features.
        features: The features of the candidates of n ≥ 1 validation examples.
        actual: fp64 [candidates], the SCS of each example's candidates against the truth.
        prompts: The truth of each example. Cross-fitting keeps examples of one prompt together.
        ridge: The weight of the ridge penalty.
        keep: Keep the fitted weights in any case.
    """
    plain = np.array([values[0] for values in actual])
    groups = [normalise(prompt) for prompt in prompts]
    fold = folds(groups)
    crossed = plain.copy()
    for number in range(int(fold.max()) + 1 if fold.any() else 0):
        others = np.flatnonzero(fold != number).tolist()
        model = _fitted(names, [features[i] for i in others], [actual[i] for i in others], ridge)
        for i in np.flatnonzero(fold == number).tolist():
            expected = features[i].utility @ model.posterior(features[i])
            crossed[i] = actual[i][int(expected.argmax())]
    gain = crossed - plain
    return ChoiceFit(
        _fitted(names, features, actual, ridge) if keep or gains_an_error(gain, groups) else None,
        float(crossed.mean()),
        float(plain.mean()),
        float(standard_error(gain, groups)),
    )


def _fitted(
    names: Sequence[str],
    features: Sequence[Features],
    actual: Sequence[NDArray[np.float64]],
    ridge: float,
) -> LogLinear:
    """The weights with the least cross-entropy to the softmax of the true SCS, plus the penalty."""
    from scipy.optimize import minimize

    centred = [f.values - f.values.mean(axis=0) for f in features]
    spread = np.sqrt(np.mean(np.concatenate(centred) ** 2, axis=0))
    spread[spread < 1e-12] = 1.0
    rows = [values / spread for values in centred]
    wanted = [_softmax(values / TEMPERATURE) for values in actual]

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total, gradient = 0.0, np.zeros(len(weights))
        for row, target in zip(rows, wanted, strict=True):
            given = _softmax(row @ weights)
            total -= float(target @ np.log(given + 1e-300))
            gradient -= (target - given) @ row
        penalty = ridge * float(weights @ weights) / 2
        return total / len(rows) + penalty, gradient / len(rows) + ridge * weights

    found = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B").x / spread
    return LogLinear({name: float(value) for name, value in zip(names, found, strict=True)})


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(values - values.max())
    return np.asarray(shares / shares.sum())
