"""A detector: one scorecard for texts and one for pairs, in one JSON file."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from prompt_recovery.changes.pair import measures
from prompt_recovery.changes.text import measure_text
from prompt_recovery.detection.classifier import Scorecard, to_json
from prompt_recovery.detection.features import (
    PAIR_FEATURES,
    TEXT_FEATURES,
    pair_features,
    text_features,
)
from prompt_recovery.detection.verdict import (
    CERTAINTY,
    MIN_WORDS,
    Certainty,
    Verdict,
    judge,
    too_short,
)
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings.checking import checked_value
from prompt_recovery.storage import MALFORMED, atomic_write, read_json

_ORIGINALS = "original texts, whoever wrote them"


@dataclass(frozen=True)
class Detector:
    """Judges texts and pairs (extra `[measures]`).

    Attributes:
        text: The scorecard for a single text.
        pair: The scorecard for an original and a rewritten text.
    """

    text: Scorecard
    pair: Scorecard

    def judge(
        self, rewritten: str, original: str | None = None, certainty: float = CERTAINTY
    ) -> Verdict:
        """How likely it is that an LLM rewrote a text.

        Args:
            rewritten: The text.
            original: The text that it may be a rewrite of; None if there is none. With it, the
                question is whether an LLM made `rewritten` from it.
            certainty: The probability from which a verdict is given, in [0.5, 1).

        Raises:
            PromptRecoveryError: If the extra `measures` is not installed.
        """
        shorter = min(len(t.split()) for t in (rewritten, original) if t is not None)
        if shorter < MIN_WORDS:
            return too_short(shorter, "the text" if original is None else "the shorter text")
        if original is None:
            features = text_features(rewritten, measure_text(rewritten))
            return judge(self.text, features, certainty, _ORIGINALS)
        features = pair_features(original, rewritten, measures(original, rewritten))
        return judge(self.pair, features, certainty)

    def write(self, path: Path) -> None:
        """Writes the detector to a JSON file.

        Raises:
            PromptRecoveryError: If it cannot be written.
        """
        with atomic_write(path) as temporary:
            temporary.write_text(to_json({"text": self.text, "pair": self.pair}), "utf-8")

    @classmethod
    def read(cls, path: Path) -> "Detector":
        """The detector in a file that `write` made.

        Raises:
            PromptRecoveryError: If there is no such file, or it holds no detector.
        """
        if not path.is_file():
            raise PromptRecoveryError(f"detector={path}: no such file")
        try:
            values = read_json(path)
            found = cls(Scorecard.of(values["text"]), Scorecard.of(values["pair"]))
        except MALFORMED as error:
            raise PromptRecoveryError(
                f"detector={path}: holds no detector ({type(error).__name__}); make one with "
                "prompt-recovery detect train=<file>"
            ) from error
        unknown = {*found.text.names} - TEXT_FEATURES | {*found.pair.names} - PAIR_FEATURES
        if unknown:
            raise PromptRecoveryError(
                f"detector={path}: has a feature that this version doesn't know "
                f"('{min(unknown)}'); train it again"
            )
        return found


@cache
def shipped_detector() -> Detector:
    """The detector in this package, which was trained on the starter dataset."""
    with resources.as_file(resources.files("prompt_recovery.detection") / "detector.json") as path:
        return Detector.read(path)


def detect(
    rewritten: str,
    original: str | None = None,
    certainty: float = CERTAINTY,
    detector: str | Path | None = None,
) -> Verdict:
    """How likely it is that an LLM rewrote a text, as `prompt-recovery detect` says it.

        pr.detect(rewritten, original).probability

    Args:
        rewritten: The text.
        original: The text that it may be a rewrite of, if there is one.
        certainty: The probability from which a verdict is given, in [0.5, 1).
        detector: A detector of your own; None takes the one in this package.

    Raises:
        PromptRecoveryError: If the extra `measures` is not installed, `detector` is not a detector,
            or `certainty` is out of its range.
    """
    certainty = checked_value(certainty, Certainty, "certainty")
    chosen = shipped_detector() if detector is None else Detector.read(Path(detector).expanduser())
    return chosen.judge(rewritten, original, certainty)
