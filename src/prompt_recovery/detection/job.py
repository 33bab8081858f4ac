"""The job of `prompt-recovery detect`."""

import json
import logging
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.text import Text

from prompt_recovery.changes.text import measure_text, require_measures
from prompt_recovery.data.sources import file, starter
from prompt_recovery.data.splits import split
from prompt_recovery.detection.detector import Detector, shipped_detector
from prompt_recovery.detection.items import labels_of, pair_items, text_items
from prompt_recovery.detection.quality import auroc
from prompt_recovery.detection.shown import headline, verdict_tables
from prompt_recovery.detection.training import PER_ORIGINAL, at_most, cross_fit
from prompt_recovery.detection.verdict import CERTAINTY, Certainty, Verdict
from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.pairs import PairColumns, read_pairs
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.settings import AnyPath, checked
from prompt_recovery.storage import atomic_write, require_writable, same_file
from prompt_recovery.tables import print_tables
from prompt_recovery.terminal import progress_bar

log = logging.getLogger(__name__)

_FORMATS = (".jsonl", ".parquet")


@dataclass(frozen=True)
class TextColumns:
    """Column names in a file. Without `original_text` (null), single texts are judged; without
    `id`, the rows are numbered from 0."""

    id: str | None = "id"
    original_text: str | None = "original_text"
    rewritten_text: str = "rewritten_text"


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """What to judge, and with which detector.

    Attributes:
        text: A single text.
        original: The original text of a pair.
        rewritten: The text that an LLM may have made of it.
        input: A file of pairs or texts: CSV, JSONL or Parquet.
        output: The verdicts of a file, .jsonl or .parquet.
        columns: What the input calls its columns; columns.original_text=null: single texts.
        certainty: The probability from which a verdict is given, in [0.5, 1).
        detector: A detector of your own; None: the one in this package.
        train: Where to write a detector of your own; nothing is judged then.
        examples: The file of examples that it is trained on; None: the starter, both editions.
    """

    text: str | None = None
    original: str | None = None
    rewritten: str | None = None
    input: AnyPath | None = None
    output: AnyPath = "verdicts.jsonl"
    columns: TextColumns = field(default_factory=TextColumns)
    certainty: Certainty = CERTAINTY
    detector: AnyPath | None = None
    train: AnyPath | None = None
    examples: AnyPath | None = None

    def refuse_contradictions(self, with_run: bool) -> None:
        """Checks the settings against each other.

        Args:
            with_run: Whether a run is to find prompts.

        Raises:
            PromptRecoveryError: If not exactly one thing is to be done, a text is blank, a run is
                given where there is no original text, or the output's format is unknown.
        """
        pair = (self.original is not None, self.rewritten is not None)
        asked = [self.text is not None, any(pair), self.input is not None, self.train is not None]
        if sum(asked) != 1 or any(pair) != all(pair):
            raise PromptRecoveryError(
                "give text=<text>, or original=<text> and rewritten=<text>, or input=<file>, or "
                "train=<file for a detector>"
            )
        for name in ("text", "original", "rewritten"):
            given = getattr(self, name)
            if given is not None and not given.strip():
                raise PromptRecoveryError(f"{name}=: the text is blank")
        single = self.text is not None or self.columns.original_text is None
        if with_run and (single or self.train is not None):
            raise PromptRecoveryError("run= needs original texts: prompts are found for pairs only")
        if self.examples is not None and self.train is None:
            raise PromptRecoveryError("examples= is what train=<file> trains on; give input=<file>")
        if self.input is not None:
            if Path(self.output).suffix not in _FORMATS:
                raise PromptRecoveryError(
                    f"output={self.output}: unknown format; known are {', '.join(_FORMATS)}"
                )
            if same_file(Path(self.input).expanduser(), Path(self.output).expanduser()):
                raise PromptRecoveryError(
                    f"output={self.output}: is the input, which would be overwritten; give another "
                    "file"
                )


@checked("")
@dataclass(frozen=True)
class DetectionJob(DetectionOptions):
    """Everything that a call of `detect` needs.

    Attributes:
        recipe: Describes the recoverer that finds the likeliest prompts of pairs; None: none.
    """

    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        self.refuse_contradictions(self.recipe is not None)


def run_detection(job: DetectionJob) -> list[Verdict]:
    """Judges a text, a pair or a file, or trains a detector.

    Returns:
        The verdicts, in order; none after training.

    Raises:
        PromptRecoveryError: If the extra `measures` is not installed, or a file cannot be read or
            written, or a run cannot be loaded.
    """
    require_measures()
    if job.train is not None:
        train_detector(Path(job.train).expanduser(), job.examples)
        return []
    own = job.detector
    detector = shipped_detector() if own is None else Detector.read(Path(own).expanduser())
    pairs, single = _pairs(job)
    if job.input is not None:
        require_writable(Path(job.output).expanduser().parent)
    with progress_bar() as progress:
        task = progress.add_task("judging", total=len(pairs))
        verdicts = []
        for pair in pairs:
            original = None if single else pair.original_text
            verdicts.append(detector.judge(pair.rewritten_text, original, job.certainty))
            progress.advance(task)
    if job.recipe is not None:
        verdicts = _with_prompts(verdicts, pairs, job.recipe)
    if job.input is None:
        Console().print(Text(printable(headline(verdicts[0])), style="bold"))
        print_tables(*verdict_tables(verdicts[0]))
    else:
        write_verdicts(Path(job.output).expanduser(), pairs, verdicts)
    return verdicts


def _pairs(job: DetectionJob) -> tuple[list[Pair], bool]:
    """What is to be judged, and whether it is single texts."""
    if job.text is not None:
        return [Pair("0", "", job.text)], True
    if job.original is not None and job.rewritten is not None:
        return [Pair("0", job.original, job.rewritten)], False
    names = job.columns
    single = names.original_text is None
    columns = PairColumns(
        names.id, names.original_text or names.rewritten_text, names.rewritten_text
    )
    return read_pairs(Path(str(job.input)).expanduser(), columns), single


def _with_prompts(verdicts: list[Verdict], pairs: list[Pair], recipe: Recipe) -> list[Verdict]:
    """The same verdicts with the likeliest prompts of their pairs."""
    from prompt_recovery.backbones.load import quiet  # imports torch, as all that follows does
    from prompt_recovery.recovery.assemble import assemble
    from prompt_recovery.recovery.job import steps

    quiet()
    with progress_bar() as progress:
        ready = assemble(recipe, steps(progress))
        task = progress.add_task(f"recovering: {ready.recoverer.name}", total=len(pairs))
        found = ready.recoverer.recover(pairs, lambda n: progress.advance(task, n))
    return [v.with_prompts(p.candidates) for v, p in zip(verdicts, found, strict=True)]


def write_verdicts(path: Path, pairs: list[Pair], verdicts: list[Verdict]) -> None:
    """Writes verdicts with the ids of their texts to a .jsonl or .parquet file.

    Raises:
        PromptRecoveryError: If the file cannot be written.
    """
    rows = [{"id": p.id, **v.values} for p, v in zip(pairs, verdicts, strict=True)]
    with atomic_write(path) as temporary:
        if path.suffix == ".jsonl":
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            temporary.write_text("".join(lines), "utf-8", "replace")
        else:
            plain = [row | {"evidence": json.dumps(row["evidence"])} for row in rows]
            pq.write_table(pa.Table.from_pylist(plain), temporary)
    told = sum(verdict.answer != "cannot tell" for verdict in verdicts)
    log.info("%s: %d verdicts, %d of them cannot tell", path, len(rows), len(rows) - told)


def train_detector(path: Path, examples: AnyPath | None = None) -> Detector:
    """Trains a detector on originals against rewrites, and writes it to a file.

    The scorecards are trained on the training split, at most two examples of each original, and
    calibrated on the validation split; the test split is left alone.

    Args:
        path: The JSON file.
        examples: A file of rewrite examples; None is the starter dataset with both editions.

    Raises:
        PromptRecoveryError: If a file cannot be read or written, or has too few examples.
    """
    parts = split(starter(full=True) if examples is None else file(examples))
    remembered = cache(measure_text)
    train = at_most(parts.train, PER_ORIGINAL)
    cards = {}
    for name, make in (("text", text_items), ("pair", pair_items)):
        items, val = make(train, remembered), make(parts.val, remembered)
        fit = cross_fit(items, val)
        cards[name] = fit.whole
        area = auroc(labels_of(val), fit.probabilities(val))
        log.info(
            "%s: trained on %d items, AUROC %.3f on %d validation items whose originals it has not "
            "seen",
            name,
            len(items),
            area,
            len(val),
        )
    detector = Detector(cards["text"], cards["pair"])
    detector.write(path)
    log.info("%s: written; use it with detector=%s", path, path)
    return detector
