"""The job of `prompt-recovery recover`, which predicts the prompts of one pair or of a file."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from prompt_recovery.changes.pair import measures
from prompt_recovery.changes.shown import measures_table
from prompt_recovery.changes.text import has_measures
from prompt_recovery.errors import PromptRecoveryError, printable
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.confidence import with_fallback
from prompt_recovery.recovery.evidence import require_explainable, with_evidence
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction, Recoverer
from prompt_recovery.recovery.mbr import parts_of
from prompt_recovery.recovery.naming import is_reworded
from prompt_recovery.recovery.pairs import RecoveryOptions, batches, digest
from prompt_recovery.recovery.predictions import PredictionStore, write_predictions
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.spans import Evidence, Method, Span, method_of
from prompt_recovery.recovery.stated import stated_prompts
from prompt_recovery.settings import checked
from prompt_recovery.storage import cache_dir, fingerprint, locked, require_writable, same_file
from prompt_recovery.tables import counted, print_tables
from prompt_recovery.terminal import announced, progress_bar

log = logging.getLogger(__name__)


@checked("")
@dataclass(frozen=True)
class RecoveryJob(RecoveryOptions):
    """Everything that a call of `recover` needs.

    Attributes:
        recipe: Describes the recoverer that answers.
    """

    recipe: Recipe

    def __post_init__(self) -> None:
        self.refuse_contradictions(self.recipe.confidence)
        bank = self.recipe.bank
        if bank is not None and same_file(Path(bank).expanduser(), Path(self.output).expanduser()):
            raise PromptRecoveryError(
                f"output={self.output}: is the bank, which would be overwritten; give another file"
            )


def recover(job: RecoveryJob, pairs: Sequence[Pair] | None = None) -> list[Prediction]:
    """Recovers the prompts of a file of pairs, or of a single pair, whose prompt is printed.

    Args:
        job: The job.
        pairs: The pairs of its file, if they have been read already.

    Raises:
        PromptRecoveryError: If the recoverer cannot be loaded, or a file cannot be read or written.
    """
    pairs = job.pairs() if pairs is None else pairs
    if job.input is not None:
        require_writable(Path(job.output).expanduser().parent)
    with progress_bar() as progress:
        ready = assemble(job.recipe, steps(progress))
    method = method_of(job.explain)
    if method is not None:
        require_explainable(ready.recoverer, method)
    if job.original is not None and job.rewritten is not None:
        one = [single_pair(job.original, job.rewritten)]
        with announced("recovering the prompt"):
            [prediction] = ready.recoverer.recover(one)
        if method is not None:
            with announced("measuring the evidence"):
                [prediction] = with_evidence(ready.recoverer, one, [prediction], method)
        if job.threshold is not None:
            [prediction] = with_fallback([prediction], job.threshold, ready.fallback)
        print_prediction(prediction, Console(), rewritten_text=job.rewritten)
        if job.measures or (job.measures is None and has_measures()):
            with announced("measuring what changed between the texts"):
                measured = measures(job.original, job.rewritten)
            print_tables(measures_table(measured))
        print_evidence(prediction, job.original, job.rewritten, Console())
        return [prediction]
    return recover_file(
        ready.recoverer,
        ready.identity,
        pairs,
        Path(job.output),
        ready.fallback,
        job.threshold,
        bool(job.measures),
        method,
    )


def recover_file(
    recoverer: Recoverer,
    identity: str,
    pairs: Sequence[Pair],
    output: Path,
    fallback: str,
    threshold: float | None = None,
    with_measures: bool = False,
    explain: Method | None = None,
) -> list[Prediction]:
    """Predicts the prompts of pairs and writes them to a file.

    Finished batches are saved in `.<output>.part.jsonl` next to the output until it is written. If
    the process is killed, the same call resumes the work and gives the same result, because batches
    depend on the pairs alone.

    Args:
        recoverer: The recoverer that answers.
        identity: Fingerprint of everything that its answers depend on.
        pairs: Pairs with distinct ids.
        output: A `.csv`, `.jsonl` or `.parquet` file.
        fallback: The mean prompt. It is written where nothing is left of a prediction in a file.
        threshold: The fallback replaces answers whose confidence is lower. None replaces
            no answers.
        with_measures: Whether to write the measures of each pair, too; the extra is needed.
        explain: How evidence for the predictions is measured; None measures none.

    Returns:
        The predictions, in the order of the pairs.

    Raises:
        PromptRecoveryError: If a file cannot be written.
    """
    output = output.expanduser()
    identity = fingerprint(identity, [*map(digest, pairs)])
    if explain is not None:
        identity = fingerprint(identity, explain)
    part = output.with_name(f".{output.name}.part.jsonl")
    spent: dict[str, float] = {}
    recovered = 0

    def answered(batch: list[Pair], progress: Callable[[int], None]) -> list[Prediction]:
        nonlocal recovered
        found = recoverer.recover(batch, progress)
        recovered += len(batch)
        for source, seconds in getattr(recoverer, "seconds", {}).items():
            spent[source] = spent.get(source, 0.0) + seconds
        return found

    lock = cache_dir("locks") / fingerprint(str(output.resolve()))
    with locked(lock), progress_bar() as progress:
        store = PredictionStore(part, identity)
        task = progress.add_task(f"recovering: {recoverer.name}", total=len(pairs))
        for batch in batches(pairs):
            if all(pair.id in store.done for pair in batch):
                progress.advance(task, len(batch))
            elif explain is None:
                store.add(answered(batch, lambda n: progress.advance(task, n)))
            else:
                found = dict(zip(batch, answered(batch, lambda _: None), strict=True))
                missing = {pair: p for pair, p in found.items() if pair.id not in store.done}
                progress.advance(task, len(batch) - len(missing))
                for prediction in with_evidence(
                    recoverer,
                    list(missing),
                    list(missing.values()),
                    explain,
                    lambda n: progress.advance(task, n),
                ):
                    store.add([prediction])
        predictions = [store.done[pair.id] for pair in pairs]
        if threshold is not None:
            predictions = with_fallback(predictions, threshold, fallback)
        columns: dict[str, list[Any]] = {}
        if with_measures:
            columns["measures"] = [_measured(pair) for pair in pairs]
        if explain is not None:
            columns["evidence"] = [[asdict(e) for e in p.evidence] for p in predictions]
        write_predictions(output, predictions, fallback, columns)
        store.remove()
    fallbacks = sum(p.fallback for p in predictions)
    log.info(
        "%s: %s, %d of them the mean prompt", output, counted(len(pairs), "prediction"), fallbacks
    )
    if spent:
        each = [f"{source} {seconds / recovered:.2g}" for source, seconds in spent.items()]
        log.info("seconds per pair: %s", ", ".join(each))
    return predictions


def _measured(pair: Pair) -> dict[str, Any]:
    return measures(pair.original_text, pair.rewritten_text).values


def single_pair(original_text: str, rewritten_text: str) -> Pair:
    """Returns a pair whose id, and so whose answer, depends on the texts only."""
    id_ = fingerprint(ascii(original_text), ascii(rewritten_text))
    return Pair(id_, original_text, rewritten_text)


def print_prediction(
    prediction: Prediction, console: Console, count: int = 8, rewritten_text: str = ""
) -> None:
    """Prints an answer and its alternatives. Markup in the texts is not interpreted.

    Args:
        prediction: The prediction.
        console: The console.
        count: The largest number of candidates that are shown.
        rewritten_text: The rewritten text, whose lead-in may state some of the candidates.
    """
    console.print(Text(printable(prediction.rewrite_prompt), style="bold"))
    if prediction.confidence is not None:
        console.print(f"expected SCS {prediction.confidence:.2f}")
    if prediction.fallback:
        console.print("the mean prompt: the recoverer has no better answer")
    if len(prediction.candidates) < 2:
        return
    table = Table(title="What it could have been", title_justify="left")
    table.add_column("prompt", ratio=1)
    table.add_column("score", justify="right")
    table.add_column("log p", justify="right")
    stated = stated_prompts(rewritten_text)
    for candidate in prediction.candidates[:count]:
        likely = candidate.log_probability
        row = (
            Text(printable(candidate.text)),
            f"{candidate.score:.3f}",
            _found(candidate, prediction, stated) if likely is None else f"{likely:.1f}",
        )
        table.add_row(*row)
    console.print(table)


def _found(candidate: Candidate, prediction: Prediction, stated: Sequence[str]) -> str:
    """Where a candidate that no language model wrote comes from."""
    if candidate.text in stated:
        return "stated"
    others = [c.text for c in prediction.candidates if c is not candidate]
    if parts_of(candidate.text, others):
        return "joined"
    return "reworded" if is_reworded(candidate.text, others) else "retrieved"


_METHODS: dict[Method, str] = {
    "occlusion": "how much {} falls without the words",
    "integrated_gradients": "how much the words contribute to {}",
}


def print_evidence(
    prediction: Prediction,
    original_text: str,
    rewritten_text: str,
    console: Console,
    count: int = 6,
) -> None:
    """Prints the words that support an answer or count against it the most, for each model.

    Markup in the texts is not interpreted.

    Args:
        prediction: The prediction; one without evidence prints nothing.
        original_text: The original text.
        rewritten_text: The rewritten text.
        console: The console.
        count: The largest number of spans that are shown of each model.
    """
    texts = {"original": original_text, "rewritten": rewritten_text}
    for evidence in prediction.evidence:
        measured = _METHODS[evidence.method].format(_quantity(evidence))
        console.print(Text(f"Why, by {printable(evidence.source)}: {measured}", "table.title"))
        table = Table()
        table.add_column("words", ratio=1)
        table.add_column("text")
        table.add_column("weight", justify="right")
        strongest = sorted(evidence.spans, key=lambda span: -abs(span.weight))[:count]
        for span in sorted(strongest, key=lambda span: -span.weight):
            shown = _cut_out(texts[span.text], span)
            style = "bold" if span.weight > 0 else ""
            table.add_row(Text(shown, style=style), span.text, f"{span.weight:+.2f}")
        console.print(table)


def _quantity(evidence: Evidence) -> str:
    name = "log p(prompt)" if evidence.quantity == "log_probability" else "the cosine"
    return f"{name} ({evidence.value:.2f})"


def _cut_out(text: str, span: Span) -> str:
    """The words of a span in one line, with an ellipsis where it begins or ends within a word."""
    before = "…" if text[: span.start][-1:].strip() else ""
    after = "…" if text[span.end :][:1].strip() else ""
    return before + " ".join(printable(text[span.start : span.end]).split()) + after


def steps(progress: Progress) -> Callable[[str, int, int], None]:
    """Returns a callback that shows the steps of a preparation, each once it has begun."""
    tasks: dict[str, Any] = {}

    def advance(title: str, done: int, total: int) -> None:
        if title not in tasks:
            tasks[title] = progress.add_task(title, total=total)
        progress.advance(tasks[title], done)

    return advance
