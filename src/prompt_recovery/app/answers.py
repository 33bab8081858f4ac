"""Answers for the page: a pair of texts or a file of pairs goes in, and HTML comes out."""

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prompt_recovery.app.shown import (
    ALTERNATIVES,
    answer_html,
    difference_html,
    measured_html,
    notes_html,
    problem_html,
    summary_html,
)
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.assemble import Assembled
from prompt_recovery.recovery.confidence import with_fallback
from prompt_recovery.recovery.evidence import explainable, with_evidence
from prompt_recovery.recovery.interface import Pair, Prediction
from prompt_recovery.recovery.job import recover_file, single_pair
from prompt_recovery.recovery.pairs import PairColumns, read_pairs
from prompt_recovery.reporting.html import evidence_html

_MOST_CHARACTERS = 100_000
_ON_THE_PAGE = {
    r"map it with columns\.\w+=<your column>": "give its name above",
    r"map them with columns\.\w+=<your column>(,? columns\.\w+=<your column>)+": (
        "give their names above"
    ),
    r"number the rows with columns\.id=null": "leave the column of ids empty to number the rows",
}
"""What messages advise users of the command line to do, and what users of the page can do."""


@dataclass(frozen=True)
class Answer:
    """What the page shows for a pair.

    Attributes:
        found: The prompt and its alternatives, or what keeps the recoverer from answering, as HTML.
        changes: The difference of the two texts as HTML. Empty without an answer.
        measured: What can be measured of the pair, and whether an LLM rewrote it, as HTML. Empty
            without an answer or without the extra `measures`.
        hints: What is wrong with the text of a box, by the box: original or rewritten.
    """

    found: str = ""
    changes: str = ""
    measured: str = ""
    hints: Mapping[str, str] = field(default_factory=dict)


def answer(
    ready: Assembled,
    original_text: str,
    rewritten_text: str,
    threshold: float | None = None,
    alternatives: int = ALTERNATIVES,
    explain: bool = False,
) -> Answer:
    """Answers a pair. What is wrong with the texts is said at their boxes.

    Args:
        ready: The recoverer.
        original_text: The original text.
        rewritten_text: What a model made of it.
        threshold: The mean prompt answers where the expected SCS is lower. None: nowhere.
        alternatives: Number of further candidates to show.
        explain: Mark the words of both texts that support the prompt.
    """
    hints = {}
    for box, name, text in (
        ("original", "the original text", original_text),
        ("rewritten", "the rewritten text", rewritten_text),
    ):
        if not text.strip():
            hints[box] = f"This box is empty: paste {name} here."
        elif len(text) > _MOST_CHARACTERS:
            hints[box] = (
                f"This text has {len(text):,} characters, and the page takes {_MOST_CHARACTERS:,} "
                "at most: paste a part of it."
            )
    if hints:
        return Answer(hints=hints)
    if problem := _threshold_problem(threshold):
        return Answer(problem)
    try:
        pair = single_pair(original_text, rewritten_text)
        [prediction] = ready.recoverer.recover([pair])
        if explain and explainable(ready.recoverer):
            [prediction] = with_evidence(ready.recoverer, [pair], [prediction], "occlusion")
        if threshold is not None and prediction.confidence is not None:
            [prediction] = with_fallback([prediction], threshold, ready.fallback)
    except PromptRecoveryError as error:
        return Answer(problem_html(str(error)))
    notes = notes_html(ready, Pair("", original_text, rewritten_text))
    found = answer_html(prediction, alternatives) + notes
    if prediction.evidence:
        found += '<h3 class="pr-why">Why this prompt</h3>'
        found += str(evidence_html(prediction.evidence, original_text, rewritten_text))
    measured = measured_html(original_text, rewritten_text)
    return Answer(found, difference_html(original_text, rewritten_text), measured)


def answer_file(
    ready: Assembled,
    path: str | None,
    columns: PairColumns,
    suffix: str,
    threshold: float | None,
    folder: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[str, str | None]:
    """Answers a file of pairs as `prompt-recovery recover input=<file>` does.

    Args:
        ready: The recoverer.
        path: The file of pairs; None if none was given.
        columns: What it calls its columns.
        suffix: The format of the answers: .csv, .jsonl or .parquet.
        threshold: As for `answer`.
        folder: A folder for the file of answers.
        progress: Called with the number of pairs that are done, and of all pairs.

    Returns:
        A summary as HTML, and the file of answers; None if the pairs cannot be read.
    """
    if problem := _threshold_problem(threshold):
        return problem, None
    if not path:
        return problem_html("Choose a file of pairs first."), None
    source = Path(path)
    try:
        pairs = read_pairs(source, columns)
        stem = source.name.partition(".")[0] or "pairs"
        output = Path(tempfile.mkdtemp(dir=folder)) / f"{stem}_prompts{suffix}"
        told = _Telling(ready.recoverer, lambda done: progress(done, len(pairs)))
        if not ready.recoverer.calibration:
            threshold = None
        predictions = recover_file(told, ready.identity, pairs, output, ready.fallback, threshold)
    except PromptRecoveryError as error:
        message = str(error).replace(f"{source.parent}{os.sep}", "")
        for command, here in _ON_THE_PAGE.items():
            message = re.sub(command, here, message)
        return problem_html(message), None
    return summary_html(predictions), str(output)


class _Telling:
    """A recoverer that also tells how many pairs are done."""

    def __init__(self, recoverer: Any, told: Callable[[int], None]) -> None:
        self._recoverer, self._told, self._done = recoverer, told, 0

    @property
    def name(self) -> str:
        return str(self._recoverer.name)

    def recover(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Prediction]:
        def both(count: int) -> None:
            progress(count)
            self._done += count
            self._told(self._done)

        predictions: list[Prediction] = self._recoverer.recover(pairs, both)
        return predictions


def _threshold_problem(threshold: float | None) -> str:
    """What is wrong with a threshold, as HTML. Empty if nothing is.

    Gradio's own check would cover both texts with an error.
    """
    if threshold is None or 0 <= threshold <= 1:
        return ""
    return problem_html(f"The threshold is {threshold:g}, but it has to be between 0 and 1.")
