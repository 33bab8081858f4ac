"""Train, validation and test, split by group so that nothing leaks between them."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from prompt_recovery.data.examples import Dataset, RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings import checked

GroupBy = Literal["prompt", "text", "both"]
Side = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Splits:
    """Lists of examples; no group is in two of them.

    Attributes:
        train: The examples to train on.
        val: The examples to validate on.
        test: The examples to test on.
        unused: Training examples that `train_share` leaves out.
    """

    train: list[RewriteExample]
    val: list[RewriteExample]
    test: list[RewriteExample]
    unused: list[RewriteExample] = field(default_factory=list)


def normalise(text: str) -> str:
    """Reduces a text to its words, in lower case and with single spaces between them.

    Two prompts (or texts) that become equal belong to the same group. Unicode's composed and
    decomposed forms of a text are equal, and marks such as vowel signs belong to their letters.
    """
    if text.isascii():
        return " ".join(re.findall(r"\w+", text.lower())) or text.strip()
    composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    return " ".join(_words().findall(composed)) or composed.strip()


@cache
def _words() -> re.Pattern[str]:
    """Returns a pattern of words, in which marks follow letters; re's own classes have no marks."""
    marks = "".join(
        c for c in map(chr, (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)))
        if unicodedata.category(c)[0] == "M"
    )  # fmt: skip
    return re.compile(rf"\w[\w{marks}]*")


@checked("split")
@dataclass(frozen=True)
class SplitSettings:
    """How a dataset is split.

    Attributes:
        by: What different splits never share: the normalised `rewrite_prompt` ("prompt"), the
            normalised `original_text` ("text"), or either of them ("both", where the groups are the
            connected components of rows that share a prompt or a text).
        val: The expected share of the groups in the validation split, in [0, 1).
        test: The expected share of the groups in the test split, in [0, 1).
        seed: The seed; another seed gives another split.
    """

    by: GroupBy = "prompt"
    val: Annotated[float, Ge(0), Lt(1)] = 0.06
    test: Annotated[float, Ge(0), Lt(1)] = 0.13
    seed: int = 0

    def __post_init__(self) -> None:
        if self.val + self.test >= 1:
            raise PromptRecoveryError(
                f"split.val={self.val} and split.test={self.test} must add up to less than 1"
            )


@checked("split")
@dataclass(frozen=True)
class TrainingSplit(SplitSettings):
    """How a dataset is split for training.

    Attributes:
        train_share: The expected share of the training groups that are kept, in (0, 1], to measure
            the effect of the amount of data. A larger share keeps all that a smaller one keeps.
    """

    train_share: Annotated[float, Gt(0), Le(1)] = 1.0


_SPLIT = TrainingSplit()


def split(
    dataset: Dataset,
    by: GroupBy = _SPLIT.by,
    val: float = _SPLIT.val,
    test: float = _SPLIT.test,
    seed: int = _SPLIT.seed,
    train_share: float = _SPLIT.train_share,
) -> Splits:
    """Splits a dataset by group.

    The split of a row is a pure function of its group and the seed: it doesn't depend on the order
    of the rows, and adding rows moves no other row, except with `by="both"`, where new rows may
    join two groups.

    Args:
        dataset: The dataset to split.
        by: As in `TrainingSplit`, and so are all further arguments.
        val: The share of the groups in the validation split.
        test: The share of the groups in the test split.
        seed: The seed; another seed gives another split.
        train_share: The share of the training groups that are kept.

    Raises:
        PromptRecoveryError: If a share is out of range, or a split that should have rows has none.
    """
    TrainingSplit(by, val, test, seed, train_share)
    splits = Splits([], [], [])
    chosen = sides(dataset.examples, by, val, test, seed)
    # The points of training groups are the largest.
    least = val + test + (1 - train_share) * (1 - val - test)
    for example, side, point in zip(
        dataset.examples, chosen, _points(dataset.examples, by, seed), strict=True
    ):
        kept = side != "train" or point >= least
        getattr(splits, side if kept else "unused").append(example)
    for name, share in (("train", 1 - val - test), ("val", val), ("test", test)):
        if share > 0 and not getattr(splits, name):
            sizes = Counter(_groups(dataset.examples, by))
            raise PromptRecoveryError(
                f"{dataset.name}: the {name} split is empty ({len(dataset.examples)} rows in "
                f"{len(sizes)} groups by {by}, the largest of {max(sizes.values())}); "
                f"use more data, a larger split.{name}, or another split.by"
            )
    return splits


def sides(
    examples: Sequence[RewriteExample], by: GroupBy, val: float, test: float, seed: int
) -> list[Side]:
    """The split of each example, as `split` chooses it; a split may be empty.

    Raises:
        PromptRecoveryError: If `by` is unknown or a share is out of range.
    """
    SplitSettings(by, val, test, seed)
    return [
        "test" if point < test else "val" if point < test + val else "train"
        for point in _points(examples, by, seed)
    ]


def _points(examples: Sequence[RewriteExample], by: GroupBy, seed: int) -> list[float]:
    """A number in [0, 1) for each example, the same for all examples of a group."""
    return [
        int.from_bytes(hashlib.sha256(f"{seed}\0{group}".encode()).digest()[:8], "big") / 2**64
        for group in _groups(examples, by)
    ]


def _groups(examples: Sequence[RewriteExample], by: GroupBy) -> list[str]:
    """The group key of each example."""
    prompts = [f"prompt\0{normalise(e.rewrite_prompt)}" for e in examples]
    texts = [f"text\0{normalise(e.original_text)}" for e in examples]
    if by != "both":
        return prompts if by == "prompt" else texts
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for prompt, text in zip(prompts, texts, strict=True):
        first, second = sorted((root(prompt), root(text)))
        parent[second] = first  # the smallest key names the component, whatever the order
    return [root(prompt) for prompt in prompts]
