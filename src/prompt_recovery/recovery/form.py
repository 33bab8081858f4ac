"""How the prompts of a bank change a text: a further criterion by which a retriever chooses.

A prompt that asks for a list, for one sentence or for many exclamation marks leaves traces that a
sentence encoder hardly sees, but that can be counted (`changes.form`). The pair to answer is
compared with the training pairs of each prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.changes.form import pair_form
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.arrays import UNREADABLE, opened_arrays
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.storage import atomic_write, fingerprint

_NAMES = tuple(sorted(pair_form("", "")))
_MOST = 3.0  # standard deviations, so that no rare measure outweighs all others


@dataclass(frozen=True, eq=False)
class BankForm:
    """The measures of the training pairs of n prompts, and how much they count.

    The weight of a prompt in a posterior is multiplied by exp(-λ f d²), where f is the familiarity
    of the pair, and d² is the mean squared difference between the prompt's measures and those of
    the pair, in standard deviations of the training pairs. So pairs unlike the training data are
    hardly judged by these measures, which would mislead there. A prompt without training pairs has
    the measures of their mean.

    Attributes:
        prompts: The n ≥ 1 distinct prompts.
        rows: fp64 [n, d], the mean measures of each prompt's pairs in standard deviations.
        mean: fp64 [d], the mean of the training pairs.
        deviation: fp64 [d], their standard deviation, > 0.
        weight: λ, ≥ 0.
    """

    prompts: Sequence[str]
    rows: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    weight: float = 0.0

    @classmethod
    def of(cls, examples: Sequence[RewriteExample]) -> "BankForm":
        """Measures the pairs of at least one training example."""
        table = _table([(e.original_text, e.rewritten_text) for e in examples])
        mean, deviation = table.mean(0), np.maximum(table.std(0), 1e-9)
        scaled = _scaled(table, mean, deviation)
        places: dict[str, list[int]] = {}
        for place, example in enumerate(examples):
            places.setdefault(example.rewrite_prompt, []).append(place)
        rows = np.stack([scaled[own].mean(0) for own in places.values()])
        return cls(list(places), rows, mean, deviation)

    @cached_property
    def identity(self) -> str:
        """A digest of everything that posteriors depend on."""
        arrays = [array.tolist() for array in (self.rows, self.mean, self.deviation)]
        return fingerprint(list(self.prompts), arrays, self.weight)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {prompt: place for place, prompt in enumerate(self.prompts)}

    def with_weight(self, weight: float) -> "BankForm":
        """The same measures with another λ, ≥ 0."""
        return replace(self, weight=weight)

    def measured(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """The measures of n ≥ 1 pairs in standard deviations of the training pairs, fp64 [n, d]."""
        table = _table([(pair.original_text, pair.rewritten_text) for pair in pairs])
        return _scaled(table, self.mean, self.deviation)

    def reweighted(
        self, posterior: Posterior, own: NDArray[np.float64], familiarity: float = 1.0
    ) -> Posterior:
        """A posterior of retrieved prompts by the measures of its pair.

        The votes of all texts together, and those of predicted embeddings, stay the same.

        Args:
            posterior: At least one text.
            own: fp64 [d], the measures of the pair.
            familiarity: How near the pair is to the training examples, in [0, 1].
        """
        middle = np.zeros(len(own))
        places = [self._places.get(text) for text in posterior.texts]
        theirs = np.stack([middle if p is None else self.rows[p] for p in places])
        distances = ((theirs - own) ** 2).mean(1)
        votes = np.asarray(posterior.votes, np.float64)
        found = votes * np.exp(-self.weight * familiarity * (distances - distances.min()))
        found = np.maximum(found * (votes.sum() / found.sum()), 1e-30)  # each text has a weight
        return replace(posterior, votes=tuple(found.tolist()))

    def all_reweighted(
        self, posteriors: Sequence[Posterior], pairs: Sequence[Pair], familiarity: Sequence[float]
    ) -> list[Posterior]:
        """The posteriors of n ≥ 1 pairs, each by the measures and the familiarity of its pair."""
        rows = zip(posteriors, self.measured(pairs), familiarity, strict=True)
        return [self.reweighted(posterior, own, near) for posterior, own, near in rows]

    def write(self, path: Path) -> None:
        """Writes the measures to an `.npz` file."""
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                rows=self.rows,
                mean=self.mean,
                deviation=self.deviation,
                weight=np.array(self.weight),
                names=np.array(_NAMES),
                prompts=np.array(fingerprint(list(self.prompts))),
            )

    @classmethod
    def read(cls, path: Path, prompts: Sequence[str]) -> "BankForm | None":
        """The measures in a file; None if there is no such file.

        Args:
            path: The file.
            prompts: The distinct prompts of the bank that the file belongs to, in order.

        Raises:
            PromptRecoveryError: If the file is damaged, or belongs to other prompts.
        """
        if not path.is_file():
            return None
        try:
            with opened_arrays(path) as file:
                if tuple(file["names"].tolist()) != _NAMES:
                    raise ValueError("other measures")
                if str(file["prompts"]) != fingerprint(list(prompts)):
                    raise ValueError("other prompts")
                arrays = [file[name].astype(np.float64) for name in ("rows", "mean", "deviation")]
                weight = float(file["weight"])
            rows, mean, deviation = arrays
            shapes = [rows.shape, mean.shape, deviation.shape]
            if shapes != [(len(prompts), len(_NAMES)), (len(_NAMES),), (len(_NAMES),)]:
                raise ValueError("another shape")
            if not all(np.isfinite(array).all() for array in arrays) or not (deviation > 0).all():
                raise ValueError("no measures")
            if not 0 <= weight <= 1e6:
                raise ValueError("another weight")
        except UNREADABLE as error:
            raise PromptRecoveryError(
                f"{path}: is damaged, or belongs to other prompts ({type(error).__name__}); copy "
                "the retriever folder again, or delete this file to do without it"
            ) from error
        return cls(list(prompts), rows, mean, deviation, weight)


def _table(texts: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    rows = [pair_form(original, rewritten) for original, rewritten in texts]
    return np.array([[row[name] for name in _NAMES] for row in rows], np.float64)


def _scaled(
    table: NDArray[np.float64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(np.clip((table - mean) / deviation, -_MOST, _MOST))
