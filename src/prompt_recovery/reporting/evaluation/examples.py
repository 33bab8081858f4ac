"""The examples of an evaluation, chosen before anything heavy is imported."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prompt_recovery.data.examples import Dataset, RewriteExample
from prompt_recovery.data.splits import normalise, split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.tables import counted

log = logging.getLogger(__name__)

Part = Literal["test", "all"]


@dataclass(frozen=True)
class Chosen:
    """What is evaluated.

    Attributes:
        part: The part of the data.
        examples: The examples.
        of: The number of examples in this part of the data, which may be more than are evaluated.
    """

    part: Part
    examples: Sequence[RewriteExample]
    of: int


def some_of(examples: Sequence[RewriteExample], rows: int | None) -> list[RewriteExample]:
    """Chooses at most `rows` examples, in order. The choice depends on their ids alone.

    None takes all of them.
    """
    if rows is None or rows >= len(examples):
        return list(examples)
    digests = {e.id: hashlib.sha256(e.id.encode("utf-8", "replace")).digest() for e in examples}
    kept = set(sorted(digests, key=lambda id_: (digests[id_], id_))[:rows])
    return [e for e in examples if e.id in kept]


def choose_examples(
    data: Dataset, training: Dataset, part: Part, settings: dict[str, Any]
) -> tuple[list[RewriteExample], Dataset]:
    """Chooses the examples to evaluate on, and disjoint training data for the baselines.

    Args:
        data: The dataset to evaluate on.
        training: If all of `data` is evaluated, baselines are fitted to the training split of this
            dataset.
        part: Evaluate on the test split of `data` and fit baselines to its training split ("test"),
            or evaluate on all of it ("all").
        settings: The arguments of `data.splits.split`.

    Raises:
        PromptRecoveryError: If the part is unknown, a split is empty, or no training data is left.
    """
    if part not in ("test", "all"):
        raise PromptRecoveryError(f"part={part}: must be test, all or auto")
    if part == "test":
        splits = split(data, **settings)
        if not splits.test:
            raise PromptRecoveryError(
                f"split.test=0 leaves no row of {data.name} to evaluate on: give a larger "
                "split.test, or part=all"
            )
        return splits.test, Dataset(data.name, splits.train)

    evaluated = {texts_of(e) for e in data.examples}
    learned = split(training, **settings).train
    apart = [e for e in learned if texts_of(e) not in evaluated]
    if len(apart) < len(learned):
        log.warning(
            "the baselines do not learn from %s of %s, because they are evaluated, too",
            counted(len(learned) - len(apart), "row"),
            training.name,
        )
    if not apart:
        raise PromptRecoveryError(
            f"{training.name}: all of its training rows are evaluated too, so that baselines have "
            "nothing to learn from; use part=test, or another dataset as training"
        )
    return data.examples, Dataset(training.name, apart)


def texts_of(example: RewriteExample) -> tuple[str, str]:
    """Returns the normalised texts, by which equal examples of different files are recognised."""
    return normalise(example.original_text), normalise(example.rewritten_text)
