"""Watches, in validation, whether a model learns to please the metric instead of the task.

What is trained on SCS can raise it with answers that only its sentence encoder likes (reward
hacking). A second encoder of another family does not share that taste, and answers that become much
shorter say less.
"""

import logging
import math
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from prompt_recovery.training.rounds import SHORTER

log = logging.getLogger(__name__)

_QUANTILE = 1.645  # one-sided 95 % of a normal distribution
_SCS, _SECOND, _WORDS = range(3)


def hacking_signs(first: Tensor, now: Tensor) -> list[str]:
    """Compares a validation with an earlier one, example by example.

    A fall counts if it is unlikely to be chance (paired, one-sided, 95 %).

    Args:
        first: SCS, SCS under a second encoder (or NaN) and words of each answer, fp64 [n, 3].
        now: The same of a later validation.

    Returns:
        What falls while the SCS rises: "second encoder", "length", both or nothing.
    """
    if len(now) < 2 or len(now) != len(first) or not now[:, _SCS].mean() > first[:, _SCS].mean():
        return []
    signs = []
    if _falls(now[:, _SECOND] - first[:, _SECOND]):
        signs.append("second encoder")
    shorter = now[:, _WORDS].mean() < SHORTER * first[:, _WORDS].mean()
    if shorter and _falls(now[:, _WORDS] - first[:, _WORDS]):
        signs.append("length")
    return signs


def _falls(differences: Tensor) -> bool:
    error = float(differences.std()) / math.sqrt(len(differences))
    return float(differences.mean()) < -_QUANTILE * error  # False for NaN


class HackingWatch(Callback):
    """Compares each validation with the first one, and warns of or stops metric hacking.

    The first one is before the training if that starts from a trained model. An untrained one has
    answers of another kind, which are much longer.

    The module that is validated has `answers`, what `AnswerScores` computes.

    Args:
        hacking: "warn" logs a warning; "stop" also ends the training, and the weights of that
            validation are not kept.

    Attributes:
        signs: What the last validation showed, as `hacking_signs` returns it.
    """

    def __init__(self, hacking: Literal["warn", "stop"]) -> None:
        self.hacking = hacking
        self.signs: list[str] = []
        self._first: Tensor | None = None

    @property
    def refuses(self) -> bool:
        """Whether the weights of the last validation must not be kept."""
        return self.hacking == "stop" and bool(self.signs)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Compares the validation that has just ended; all processes come to the same result."""
        now = pl_module.answers.cpu()
        if self._first is None:
            self._first = now
            return
        self.signs = hacking_signs(self._first, now)
        if not self.signs:
            return
        log.warning(
            "validation at step %d: SCS has risen from %.4f to %.4f, but there is a fall in %s: "
            "the model may be learning what the metric's encoder likes (metric hacking)%s",
            trainer.global_step,
            self._first[:, _SCS].mean(),
            now[:, _SCS].mean(),
            " and in ".join(_told(sign, self._first, now) for sign in self.signs),
            "; training stops, since hacking=stop" if self.refuses else "",
        )
        if self.refuses:
            trainer.should_stop = True

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Ends a resumed run whose last validation has ended it before."""
        if self.refuses:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Returns the first validation, with which later ones are compared, and the last signs."""
        return {"first": self._first, "signs": list(self.signs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.signs = list(state_dict.get("signs", ()))
        first = state_dict["first"]
        self._first = None if first is None else torch.as_tensor(first)


def _told(sign: str, first: Tensor, now: Tensor) -> str:
    if sign == "length":
        before, after = (float(t[:, _WORDS].mean()) for t in (first, now))
        return f"length from {before:.1f} to {after:.1f} words"
    before, after = (float(t[:, _SECOND].mean()) for t in (first, now))
    return f"SCS under the second encoder from {before:.4f} to {after:.4f}"
