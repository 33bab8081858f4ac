"""Scored candidates that one round of training passes on to the next."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.preferences.candidates import PreferenceCandidate
from prompt_recovery.storage import MALFORMED, write_jsonl

_FILE = "candidates.jsonl"
Pool = Mapping[str, Sequence[PreferenceCandidate]]
"""The candidates of each example by its id."""


def write_pool(pool: Pool, folder: Path) -> None:
    """Writes the candidates beside the preferences that were made of them."""
    rows = (
        {"id": id_, "candidates": [[c.text, c.source, c.scs] for c in candidates]}
        for id_, candidates in pool.items()
    )
    write_jsonl(folder / _FILE, rows)


def read_pool(folder: Path) -> dict[str, list[PreferenceCandidate]]:
    """Reads what `write_pool` wrote.

    Raises:
        PromptRecoveryError: If the folder holds no candidates, or a line of them is malformed.
    """
    path = folder / _FILE
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise PromptRecoveryError(
            f"preferences.earlier={folder}: holds no readable {_FILE}; give the preferences folder "
            "of a run that sampled its own (preferences=sample)"
        ) from error
    pool = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            candidates = [
                PreferenceCandidate(text, source, float(scs))
                for text, source, scs in row["candidates"]
            ]
            texts = [row["id"], *(t for c in candidates for t in (c.text, c.source))]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("an id, a candidate or its source is not a text")
            pool[row["id"]] = candidates
        except MALFORMED as error:
            raise PromptRecoveryError(
                f"{path}, line {number}: is not a list of candidates; give another "
                "preferences.earlier"
            ) from error
    return pool


def joined(earlier: Pool, new: Pool, most: int) -> dict[str, list[PreferenceCandidate]]:
    """Adds earlier candidates to new ones.

    Of candidates with the same words, the newest stays; the source of those of earlier rounds
    becomes "earlier". If an example has more than `most` candidates, a selection is kept that is
    spread evenly over the ranks of their scores, including the best and the worst.

    Args:
        earlier: Candidates of earlier rounds; those of other examples are ignored.
        new: The scored candidates of this round.
        most: The largest number of candidates of an example, ≥ 2.
    """
    result = {}
    for id_, candidates in new.items():
        distinct: dict[str, PreferenceCandidate] = {}
        before = [replace(c, source="earlier") for c in earlier.get(id_, ())]
        for candidate in (*candidates, *before):
            distinct.setdefault(normalise(candidate.text), candidate)
        ranked = sorted(distinct.values(), key=lambda c: (-c.scs, c.text))
        if len(ranked) > most:
            step = (len(ranked) - 1) / (most - 1)
            ranked = [ranked[round(i * step)] for i in range(most)]
        result[id_] = ranked
    return result
