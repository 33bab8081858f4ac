"""A baseline that predicts the prompt's embedding and answers with the nearest text of a bank."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import normalise
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines.mean_prompt import mean_prompt
from prompt_recovery.recovery.baselines.vectors import answered, text_vectors, unit
from prompt_recovery.recovery.interface import Pair, Prediction
from prompt_recovery.settings import checked

_FOLDS = 5


@checked("baseline")
@dataclass(frozen=True)
class Regressor:
    """Ridge regression, or a network with one hidden layer, in embedding space.

    The strength of the ridge (or of the network's weight decay) is chosen by cross-validation on
    the training examples, grouped by prompt.

    Attributes:
        model: ridge or mlp.
        bank: Possible answers in addition to the training prompts.
        seed: Seed of the network.
    """

    model: Literal["ridge", "mlp"] = "ridge"
    bank: Sequence[str] = ()
    seed: int = 0

    @property
    def name(self) -> str:
        """Name shown in tables."""
        return f"embedding regressor ({self.model})"

    def fit(self, examples: Sequence[RewriteExample], scs: SCS) -> "RegressorRecoverer":
        """Fits the regression."""
        prompts = [e.rewrite_prompt for e in examples]
        features, targets = _features(examples, scs), scs.encoder.embed(prompts)
        model = _fitted(self, features, targets, [normalise(p) for p in prompts])
        bank = sorted({*prompts, *self.bank})
        return RegressorRecoverer(self, scs, model, bank, mean_prompt(scs, prompts))


@dataclass(frozen=True)
class RegressorRecoverer:
    """Answers with the text of a bank that is nearest to the predicted embedding.

    Made by `Regressor.fit`.

    Attributes:
        settings: Settings of the regression.
        scs: The metric, whose encoder computes embeddings.
        model: A fitted scikit-learn regressor.
        bank: The possible answers.
        fallback: The answer for a pair with a blank or unusable text.
    """

    settings: Regressor
    scs: SCS
    model: Any
    bank: list[str]
    fallback: str

    @property
    def name(self) -> str:
        """Name shown in tables."""
        return self.settings.name

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        """Returns one prediction for each pair, in order."""
        return answered(pairs, self._answers, self.fallback, progress)

    def _answers(self, pairs: Sequence[Pair]) -> list[str]:
        places = unit(self.model.predict(_features(pairs, self.scs)))
        nearest = (places @ self.scs.encoder.embed(self.bank).T).argmax(axis=1)
        return [self.bank[i] for i in nearest]


def _features(pairs: Sequence[Pair] | Sequence[RewriteExample], scs: SCS) -> NDArray[np.float32]:
    """Concatenates the embeddings of both texts, fp32 [n, 2d]."""
    return np.concatenate(text_vectors(pairs, scs.encoder), axis=1)


def _fitted(
    settings: Regressor,
    features: NDArray[np.float32],
    targets: NDArray[np.float32],
    groups: Sequence[str],
) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.neural_network import MLPRegressor

    if settings.model == "ridge":
        model, alphas = Ridge(), [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    else:
        model = MLPRegressor(hidden_layer_sizes=(256,), random_state=settings.seed, max_iter=60)
        alphas = [0.01, 0.1, 1.0]
    folds = min(_FOLDS, len(set(groups)))
    if folds < 2:
        return model.set_params(alpha=max(alphas)).fit(features, targets)
    search = GridSearchCV(model, {"alpha": alphas}, scoring=_mean_cosine, cv=GroupKFold(folds))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the network stops early on purpose
        return search.fit(features, targets, groups=groups).best_estimator_


def _mean_cosine(model: Any, features: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
    """Returns the mean cosine of predicted and true embeddings."""
    return float((unit(model.predict(features)) * targets).sum(axis=1).mean())
