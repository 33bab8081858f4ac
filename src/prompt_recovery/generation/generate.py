"""From texts and instructions to a documented dataset, in one resumable run."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import Side, Splits, normalise, sides
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.card import Origin, Summary, card, summarise, tables, write_plots
from prompt_recovery.generation.folder import (
    alone_in,
    move_into,
    read_generation_record,
    refuse_other_settings,
    write_generation_record,
)
from prompt_recovery.generation.hub import push, token_for
from prompt_recovery.generation.instructions import (
    Instruction,
    compose,
    read_bank,
    starter_instructions,
    without_near_duplicates,
)
from prompt_recovery.generation.job import GenerationJob
from prompt_recovery.generation.originals import CreatedOriginals, Originals
from prompt_recovery.generation.pipeline import Likelier, Rewriting, columns_of, judge, plan
from prompt_recovery.generation.progress import RequestProgress, Tally
from prompt_recovery.generation.shards import SPLITS, read_split, write_shards
from prompt_recovery.generation.store import Remembering, RequestStore
from prompt_recovery.generation.variations import variations
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.storage import fingerprint
from prompt_recovery.tables import print_tables
from prompt_recovery.terminal import announced

log = logging.getLogger(__name__)


def generate(job: GenerationJob) -> Summary:
    """Makes a dataset, or resumes an unfinished one, and prints a summary.

    The output folder contains `data/*.parquet`, `rejected.parquet`, `README.md` with plots,
    `generation.json` and, if preferences were asked for, `preferences/`. The content depends only
    on the settings, however often the run is killed and restarted. `.work/` holds the finished
    requests.

    Returns:
        Summary of the dataset.

    Raises:
        PromptRecoveryError: If the settings or the inputs are invalid, or the output folder cannot
            be written.
    """
    token = None if job.push_to_hub is None else token_for(job.push_to_hub)
    path = job.instructions.bank
    bank = read_bank(None if path is None else Path(path))
    settings = job.settings(bank)
    with alone_in(job.output) as work:
        record = read_generation_record(job.output)
        if record and not job.overwrite:
            refuse_other_settings(job.output, record["settings"], settings)
        whole = all((job.output / name).exists() for name in ("data", "README.md"))
        if whole and record.get("complete") and record["settings"] == settings:
            log.info("%s is already complete", job.output)
            summary = summarise(job.output)
        else:
            record = {"fingerprint": fingerprint(settings), "settings": settings}
            write_generation_record(job.output, {**record, "complete": False})
            summary, made = _make(job, bank, work)
            write_generation_record(job.output, {**record, **made})
        _print(summary, job)
        if job.push_to_hub is not None and token is not None:
            log.info("uploaded to %s", push(job.output, job.push_to_hub, token))
    return summary


def _make(
    job: GenerationJob, bank: Sequence[Instruction], work: Path
) -> tuple[Summary, dict[str, Any]]:
    """Makes the files of a dataset. Returns its summary and the entries of its record."""
    store = RequestStore(work / "requests.jsonl")
    try:
        rewriter = Remembering(job.rewriter, store)
        originals = _originals(job, rewriter)
        instructions = _instructions(job, bank, rewriter)
        requests = plan(originals.originals, instructions, job.rows, job.seed)
        log.info(
            "%d rows from %d originals (%s) and %d instructions, rewritten by %s",
            len(requests),
            len(originals.originals),
            originals.name,
            len(instructions),
            job.rewriter.name,
        )
        rewriting = Rewriting(requests, job.template, rewriter, store)
        tally = rewriting.ask(job.chunk)
        if tally.asked:
            log.info("%d requests asked: %s", tally.asked, tally.says() or "done")
        scs = job.scs() if job.scs and job.filters.duplicate_scs is not None else None
        likelier = None if job.filters.ignored is None else _likelier()
        reasons = judge(rewriting, job.filters, scs, likelier)
        new = work / "new"
        shutil.rmtree(new, ignore_errors=True)
        used = _write_rows(job, rewriting, reasons, new)
    finally:
        store.close()
    shutil.rmtree(job.output / "preferences", ignore_errors=True)
    if job.preferences is not None:
        job.preferences(_splits(new), job.output / "preferences")
    summary = summarise(new)
    made = {
        "template": job.template.name,
        "originals": f"{len(originals.originals)}: {originals.name}",
        "instructions": ", ".join(
            f"{count} {source}"
            for source, count in sorted(Counter(i.source for i in instructions).items())
        ),
        "seed": job.seed,
        "splits": f"by {job.split.by}; validation {job.split.val:.0%}, test {job.split.test:.0%} "
        f"of the groups; seed {job.split.seed}",
        "requests": used.says() or "no tokens counted",
        "made with": f"prompt-recovery {version('prompt-recovery')}, pyarrow {version('pyarrow')}",
    }
    origin = Origin(
        name=job.output.resolve().name,
        rewriter=job.rewriter.card(),
        made=made,
        licences=Counter((r.original.source, r.original.licence) for r in requests),
        template=job.template.text,
        scores=job.preferences is not None,
        remarks=job.keep_remarks,
    )
    with announced("drawing the plots of the dataset"):
        write_plots(summary, new)
    (new / "README.md").write_text(card(summary, origin), encoding="utf-8")
    move_into(new, job.output)
    if rewriter.failed_for_now:
        log.warning(
            "%d requests failed for now: run the same command to retry", rewriter.failed_for_now
        )
    return summary, {
        "complete": not rewriter.failed_for_now,
        "rows": summary.splits,
        "rejected": summary.rejected,
        "originals_left_out": dict(sorted(Counter(r for _, r in originals.rejected).items())),
        "rewriter": job.rewriter.card(),
        "made": made,
    }


def _originals(job: GenerationJob, rewriter: Remembering) -> Originals:
    originals = job.originals
    if isinstance(originals, CreatedOriginals):
        with RequestProgress("writing originals", originals.count) as progress:
            rewriter.seen = progress
            originals = originals.write(rewriter)
    for reason, count in sorted(Counter(reason for _, reason in originals.rejected).items()):
        log.info("originals %s: left out %d: %s", originals.name, count, reason)
    return originals


def _instructions(
    job: GenerationJob, bank: Sequence[Instruction], rewriter: Remembering
) -> list[Instruction]:
    wanted = job.instructions
    found = list(bank)
    if wanted.starter:
        known = {normalise(i.text) for i in bank}
        own = starter_instructions(SCS())
        found += [i for i in own if normalise(i.text) not in known]
    found += compose(wanted.composed, job.seed)
    if wanted.variations:
        with RequestProgress("rewording instructions", len(found)) as progress:
            rewriter.seen = progress
            scs = job.scs() if job.scs else None
            found += variations(rewriter, found, wanted.variations, job.seed, scs)
    if wanted.near_duplicate_scs is not None:
        if job.scs is None:
            raise PromptRecoveryError("instructions.near_duplicate_scs: needs a metric")
        found, dropped = without_near_duplicates(found, job.scs(), wanted.near_duplicate_scs)
        log.info("instructions: left out %d near-duplicates", len(dropped))
    return found


def _likelier() -> Likelier:
    from prompt_recovery.generation.following import likelier_prompts, shipped_reader

    scs = SCS()
    reader = shipped_reader(scs)
    return lambda examples: likelier_prompts(examples, reader, scs).tolist()


def _write_rows(
    job: GenerationJob, rewriting: Rewriting, reasons: Sequence[str], folder: Path
) -> Tally:
    """Writes kept and rejected rows. Returns the tokens and the cost of their answers."""
    kept = [
        RewriteExample(r.id, r.original.text, "", r.instruction.text)
        for r, reason in zip(rewriting.requests, reasons, strict=True)
        if not reason
    ]
    split = job.split
    chosen = sides(kept, split.by, split.val, split.test, split.seed)
    side_of_row = iter(chosen)
    used = Tally()
    name, said = job.rewriter.name, ""

    def rows() -> Iterator[tuple[dict[str, str], Side | None, str]]:
        for (request, answer), reason in zip(rewriting.answers(), reasons, strict=True):
            nonlocal said
            used.count(answer)
            said = answer.detail or said
            columns = columns_of(request, answer, name, job.keep_remarks)
            yield columns, None if reason else next(side_of_row), reason

    write_shards(folder, rows(), Counter(chosen))
    if not kept:
        counts = ", ".join(f"{n} {reason}" for reason, n in Counter(reasons).most_common())
        advice = "use another rewriter, or other filters"
        if said:
            advice = f"the last answer without a text was: {said}"
        raise PromptRecoveryError(
            f"none of {len(reasons)} rows is left ({counts}; see {folder / 'rejected.parquet'}): "
            f"{advice}"
        )
    for side in SPLITS:
        if side not in chosen:
            log.warning("the %s split is empty: make more rows, or a larger share", side)
    return used


def _splits(folder: Path) -> Splits:
    """Reads back the rows that were written."""
    return Splits(*([RewriteExample(**row) for row in read_split(folder, s)] for s in SPLITS))


def _print(summary: Summary, job: GenerationJob) -> None:
    console = Console()
    print_tables(*tables(summary))
    console.print(f"\nThe dataset is in {job.output}. Train on it:", soft_wrap=True)
    console.print(f"\n    prompt-recovery train data=file data.path={job.output}\n", soft_wrap=True)
