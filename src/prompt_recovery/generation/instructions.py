"""Instructions for the rewriter, and their assignment to texts."""

import random
import string
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prompt_recovery.data.examples import Row, problem_with_text, require_columns
from prompt_recovery.data.files import read_rows
from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import normalise, split
from prompt_recovery.errors import PromptRecoveryError

if TYPE_CHECKING:
    from prompt_recovery.metrics.scs import SCS

_NEAR = 0.9  # prompts with a larger cosine are nearly equal
_BLOCK = 512  # rows and columns of one matrix product (1 MiB)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One rewrite prompt.

    Attributes:
        text: What the rewriter is told to do.
        family: Kind of instruction, such as persona, poetry or brevity.
        source: Where it came from: bank, composed, variation or file.
    """

    text: str
    family: str
    source: str


def read_bank(path: Path | None = None) -> list[Instruction]:
    """Reads instructions from a file or from the bank shipped with this package.

    Args:
        path: A CSV, JSONL or Parquet file with a column `text` and, optionally, a column `family`.
            The family of a row without one is "other". None reads the shipped bank.

    Raises:
        PromptRecoveryError: If the file does not exist or a row has no usable text. The message
            names the file and the row, and says how to fix it.
    """
    if path is None:
        with resources.as_file(resources.files(__package__) / "bank") as folder:
            shards = sorted(folder.glob("*.jsonl"))
            rows = [row for shard in shards for row in read_rows(shard)]
        return _instructions(rows, "bank")
    path = path.expanduser()
    if not path.is_file():
        raise PromptRecoveryError(f"{path}: no such file; give a file of instructions")
    found = _instructions(read_rows(path), "file")
    if not found:
        raise PromptRecoveryError(f"{path}: holds no instructions; give it the column 'text'")
    return found


def starter_instructions(scs: "SCS") -> list[Instruction]:
    """The prompts of the training examples in both editions of the starter dataset.

    Those that nearly equal a held-out prompt are left out.

    Args:
        scs: The metric whose encoder compares them.
    """
    examples = split(starter(full=True)).train
    close = near_held_out([e.rewrite_prompt for e in examples], scs)
    return [
        Instruction(e.rewrite_prompt, e.category, "starter")
        for e, near in zip(examples, close, strict=True)
        if not near
    ]


def near_held_out(prompts: Sequence[str], scs: "SCS") -> list[bool]:
    """Whether each prompt (nearly) equals one of the starter's validation and test examples.

    Args:
        prompts: The prompts, at least one.
        scs: The metric whose encoder compares them.
    """
    splits = split(starter())
    held = [e.rewrite_prompt for e in splits.val + splits.test]
    same = {normalise(text) for text in held}
    cosines = scs.encoder.embed(prompts) @ scs.encoder.embed(held).T
    return [
        bool(cosine > _NEAR) or normalise(prompt) in same
        for prompt, cosine in zip(prompts, cosines.max(axis=1), strict=True)
    ]


def bank_texts() -> list[str]:
    """Returns the texts of the bank shipped with this package."""
    return [instruction.text for instruction in read_bank()]


def _instructions(rows: Iterable[Row], source: str) -> list[Instruction]:
    found = []
    for row in rows:
        require_columns(row, ["text"], "name the column of the instructions 'text'")
        problem = problem_with_text(row.values["text"])
        if problem is not None:
            raise PromptRecoveryError(
                f"{row.place}: column 'text' {problem}; correct or remove the row"
            )
        family = row.values.get("family")
        family = family.strip() if isinstance(family, str) else ""
        found.append(Instruction(row.values["text"].strip(), family or "other", source))
    return found


_FRAMES = (
    "Rewrite this as {formats} in {tones} tone.",
    "Turn this into {formats} for {audiences}.",
    "Turn the text into {formats}, {constraints}.",
    "Write it again as {formats} that {personas} might have written.",
    "Retell this the way {personas} would, {constraints}.",
    "Give the text {tones} tone and make it suitable for {audiences}.",
    "Rework this as {formats}: {tones} tone, {constraints}.",
    "How would {personas} tell this to {audiences}?",
    "Please rewrite the passage for {audiences}, {constraints}.",
    "Imagine {personas} putting this into {formats}, and write it.",
    "In {tones} tone, rewrite this as if {personas} were speaking.",
    "I need this as {formats} for {audiences}, {constraints}.",
    "Make {formats} out of this, in the voice of {personas} and {constraints}.",
    "Could you recast this in {tones} tone, {constraints}?",
    "Let {personas} explain this to {audiences} in {tones} tone.",
    "Use {tones} tone and the form of {formats}.",
    "Say the same thing as {formats}, written by {personas} for {audiences}.",
    "Pretend to be {personas} and retell this in {tones} tone, {constraints}.",
    "Keep the content but make it {formats} with {tones} tone, meant for {audiences}.",
    "Compose {formats} from the text above. Write it for {audiences}, in {tones} tone.",
    "What would {formats} by {personas} look like? Use this text.",
    "Adapt this for {audiences} as {formats}, {constraints}.",
)


def read_parts(name: str) -> list[str]:
    """Returns the lines of one of the lists in `generation/parts`, in order."""
    text = (resources.files(__package__) / "parts" / f"{name}.txt").read_text("utf-8")
    return text.split("\n")[:-1]


def compose(count: int, seed: int) -> list[Instruction]:
    """Composes instructions from a tone, a format, a persona, an audience and a constraint.

    This is a pure function. A smaller `count` gives a prefix of the same list.

    Args:
        count: Number of instructions, ≥ 0.
        seed: Seed of the choices.

    Returns:
        Distinct instructions. Their family names the parts used, such as "tone + format".

    Raises:
        PromptRecoveryError: If there are not enough distinct combinations.
    """
    kinds = ("tones", "formats", "personas", "audiences", "constraints")
    parts = {kind: read_parts(kind) for kind in kinds}
    found: dict[str, Instruction] = {}
    for attempt in range(4 * count):
        if len(found) == count:
            break
        rng = random.Random(f"{seed}-{attempt}")
        frame = rng.choice(_FRAMES)
        fields = [name for _, name, _, _ in string.Formatter().parse(frame) if name]
        text = frame.format(**{name: rng.choice(parts[name]) for name in fields})
        if rng.random() < 0.3:  # people often leave out the full stop
            text = text.removesuffix(".")
        family = " + ".join(name.removesuffix("s") for name in kinds if name in fields)
        found.setdefault(normalise(text), Instruction(text, family, "composed"))
    if len(found) < count:
        raise PromptRecoveryError(
            f"cannot compose {count} distinct instructions from parts; ask for fewer"
        )
    return list(found.values())


def without_near_duplicates(
    instructions: Sequence[Instruction], scs: "SCS", above: float
) -> tuple[list[Instruction], list[tuple[Instruction, Instruction]]]:
    """Removes instructions that mean the same as an earlier one.

    The n²/2 products of embeddings are computed in blocks: 100,000 instructions take minutes, and
    hardly more memory than their embeddings.

    Args:
        instructions: The instructions. Of two near-duplicates, the earlier one is kept.
        scs: The metric.
        above: SCS threshold in [-1, 1]. An instruction whose SCS with a kept instruction is higher
            is a near-duplicate.

    Returns:
        The kept instructions, in order, and each removed instruction paired with the nearest kept
        one.
    """
    if not instructions:
        return [], []
    vectors = scs.encoder.embed([i.text for i in instructions])
    threshold = np.sign(above) * abs(above) ** (1 / scs.exponent)
    kept: list[int] = []
    dropped: list[tuple[Instruction, Instruction]] = []
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        best = np.full(len(block), -2.0, np.float32)  # cosine with the nearest kept instruction
        twin = np.zeros(len(block), np.int64)
        for first in range(0, len(kept), _BLOCK):
            columns = np.array(kept[first : first + _BLOCK])
            cosine = block @ vectors[columns].T
            nearest = cosine.argmax(axis=1)
            nearer = cosine.max(axis=1) > best
            best = np.where(nearer, cosine.max(axis=1), best)
            twin = np.where(nearer, columns[nearest], twin)
        inner = block @ block.T
        for row in range(len(block)):
            if best[row] > threshold:
                dropped.append((instructions[start + row], instructions[int(twin[row])]))
                continue
            kept.append(start + row)
            nearer = inner[row] > best
            best = np.where(nearer, inner[row], best)
            twin = np.where(nearer, start + row, twin)
    return [instructions[i] for i in kept], dropped


def assign(instructions: Sequence[Instruction], count: int, seed: int) -> list[int]:
    """Chooses an instruction for each of `count` texts.

    Families take turns: every block of as many texts as there are families contains each family
    once. The numbers of times that any two families are used therefore differ by at most one, and
    so do those of any two instructions of one family. This is a pure function that does not depend
    on the order of the instructions. A smaller `count` gives a prefix of the same list.

    Args:
        instructions: At least one instruction; their texts must be distinct.
        count: Number of texts, ≥ 0.
        seed: Seed of the choices.

    Returns:
        `count` indices into `instructions`.

    Raises:
        PromptRecoveryError: If there are no instructions.
    """
    if not instructions:
        raise PromptRecoveryError("there are no instructions to assign; give a bank")
    families: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(instructions)), key=lambda i: instructions[i].text):
        families[instructions[index].family].append(index)
    names = sorted(families)
    for name in names:
        random.Random(f"{seed}-{name}").shuffle(families[name])

    def turns() -> Iterator[int]:
        for turn in range(-(-count // len(names))):
            random.Random(f"{seed}-{turn}").shuffle(order := names.copy())
            yield from (families[name][turn % len(families[name])] for name in order)

    return [index for index, _ in zip(turns(), range(count), strict=False)]
