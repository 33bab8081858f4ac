"""The job of `prompt-recovery detect`."""

import json
import logging
from collections.abc import Callable, Sequence
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
from prompt_recovery.detection.verdict import CERTAINTY, Certainty, Verdict, verdict_of
from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.recovery.interface import Pair, Recoverer
from prompt_recovery.recovery.pairs import (
    PairColumns,
    batches,
    digest,
    read_pairs,
    require_whole_pair,
)
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.settings import AnyPath, checked
from prompt_recovery.storage import (
    ResultStore,
    atomic_write,
    cache_dir,
    fingerprint,
    locked,
    require_writable,
    same_file,
)
from prompt_recovery.tables import print_tables
from prompt_recovery.terminal import announced, importing, progress_bar

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
        output: The file of verdicts, .jsonl or .parquet.
        columns: The names of the columns in the input; columns.original_text=null reads single
            texts.
        certainty: The probability from which a verdict is given, in [0.5, 1).
        detector: A detector of your own. None uses the one in this package.
        train: The file of a detector to train and write. Nothing is judged then.
        examples: The file of examples that it is trained on. None uses the dataset
            `starter_full`, which comes with this package.
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
        pair = [name for name in ("original", "rewritten") if getattr(self, name) is not None]
        if self.text is not None and pair:
            raise PromptRecoveryError(
                f"text= is judged alone, and {pair[0]}= belongs to a pair: give text=<text>, or "
                "original=<text> and rewritten=<text>"
            )
        require_whole_pair(self.original, self.rewritten)
        ways = {"text=": self.text, "original= and rewritten=": self.original,
                "input=": self.input, "train=": self.train}  # fmt: skip
        asked = [name for name, value in ways.items() if value is not None]
        if len(asked) > 1:
            raise PromptRecoveryError(f"{' and '.join(asked)}: give only one of them in a call")
        if not asked:
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
                    f"output={self.output}: unknown format; use one of {', '.join(_FORMATS)}"
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
    recoverer, identity = (None, "") if job.recipe is None else _assembled(job.recipe)
    judging = _Judging(detector, job.certainty, single, recoverer, identity)
    if job.input is not None:
        return judge_file(judging, pairs, Path(job.output).expanduser())
    with announced("judging the text" if single else "judging the pair"):
        [verdict] = judging(pairs)
    Console().print(Text(printable(headline(verdict)), style="bold"))
    print_tables(*verdict_tables(verdict))
    return [verdict]


@dataclass(frozen=True)
class _Judging:
    """Judges texts or pairs.

    Attributes:
        detector: The detector.
        certainty: The probability from which a verdict is given.
        single: Whether single texts are judged.
        recoverer: Finds the likeliest prompts of pairs; None: nothing does.
        recoverer_identity: A fingerprint of everything that its answers depend on.
    """

    detector: Detector
    certainty: float
    single: bool
    recoverer: Recoverer | None
    recoverer_identity: str

    @property
    def identity(self) -> str:
        """A fingerprint of everything that verdicts depend on."""
        cards = (self.detector.text.values, self.detector.pair.values)
        return fingerprint(cards, self.certainty, self.single, self.recoverer_identity)

    def __call__(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> list[Verdict]:
        """The verdict on each pair, in order."""
        verdicts = []
        for pair in pairs:
            original = None if self.single else pair.original_text
            verdicts.append(self.detector.judge(pair.rewritten_text, original, self.certainty))
            if self.recoverer is None:
                progress(1)
        if self.recoverer is None:
            return verdicts
        found = self.recoverer.recover(pairs, progress)
        return [v.with_prompts(p.candidates) for v, p in zip(verdicts, found, strict=True)]


def judge_file(judging: _Judging, pairs: Sequence[Pair], output: Path) -> list[Verdict]:
    """Judges the texts or pairs of a file, and writes the verdicts to another.

    Finished batches are saved in `.<output>.part.jsonl` next to the output until it is written, so
    that a process that was killed goes on where it stopped.

    Args:
        judging: What judges them.
        pairs: Pairs with distinct ids.
        output: A `.jsonl` or `.parquet` file.

    Returns:
        The verdicts, in the order of the pairs.

    Raises:
        PromptRecoveryError: If a file cannot be written.
    """
    identity = fingerprint(judging.identity, [*map(digest, pairs)])
    part = output.with_name(f".{output.name}.part.jsonl")
    lock = cache_dir("locks") / fingerprint(str(output.resolve()))
    with locked(lock), progress_bar() as progress:
        store = ResultStore(part, identity, "verdicts", verdict_of)
        task = progress.add_task("judging", total=len(pairs))
        for batch in batches(pairs):
            if all(pair.id in store.done for pair in batch):
                progress.advance(task, len(batch))
                continue
            verdicts = judging(batch, lambda n: progress.advance(task, n))
            store.keep({pair.id: v for pair, v in zip(batch, verdicts, strict=True)})
        found = [store.done[pair.id] for pair in pairs]
        write_verdicts(output, pairs, found)
        store.remove()
    return found


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


def _assembled(recipe: Recipe) -> tuple[Recoverer, str]:
    """The recoverer of a recipe, and its identity."""
    with importing():
        from prompt_recovery.recovery.assemble import assemble  # imports torch
        from prompt_recovery.recovery.job import steps

    with progress_bar() as progress:
        ready = assemble(recipe, steps(progress))
    return ready.recoverer, ready.identity


def write_verdicts(path: Path, pairs: Sequence[Pair], verdicts: Sequence[Verdict]) -> None:
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
        with announced(f"{name}: measuring the examples"):
            items, val = make(train, remembered), make(parts.val, remembered)
        with announced(f"{name}: fitting the detector"):
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
