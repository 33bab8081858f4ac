"""`python -m prompt_recovery.shipping.rewrites parts=[…] output=<folder>`: makes `data=qwen`.

Thousands of rewrites take hours on a CPU. They are made in parts, each of which is a folder of
`prompt-recovery generate` with prompts of its own, and joined here.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import Side, SplitSettings, normalise, sides
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.card import Origin, card, summarise, write_plots
from prompt_recovery.generation.folder import read_generation_record
from prompt_recovery.generation.instructions import near_held_out, read_bank
from prompt_recovery.generation.shards import SPLITS, read_split, write_shards
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.settings import LocalPath
from prompt_recovery.shipping.script import run_script

log = logging.getLogger(__name__)

_REJECTED = "rejected.parquet"
_FILES = {"README.md", "data", "families.png", "lengths.png"}
_Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class JoiningSettings:
    """Which parts become one dataset.

    Attributes:
        parts: Finished folders of `prompt-recovery generate` by one rewriter.
        output: The folder to write. Its name is that of the dataset. An earlier dataset in it is
            replaced.
    """

    parts: Sequence[LocalPath]
    output: LocalPath


def join(given: JoiningSettings) -> Path:
    """Joins parts to one dataset with a card, in the layout of the Hugging Face Hub.

    Rows get the category of their prompt in the starter or in the bank of this package. They are
    split as everywhere, by prompt, so that a prompt of the starter is in the same split here.

    Raises:
        PromptRecoveryError: If a part is not finished or has another rewriter or template, or a
            prompt nearly equals one of the starter's validation and test examples; or if `output`
            holds something other than such a dataset.
    """
    parts = [Path(part).expanduser() for part in given.parts]
    if not parts:
        raise PromptRecoveryError("parts=[]: give finished folders of `prompt-recovery generate`")
    output = Path(given.output).expanduser()
    _refuse_others(output)
    records = [_finished(part) for part in parts]
    kept = [
        row for part in parts for side in SPLITS for row in _named(part, read_split(part, side))
    ]
    refuse_held_out({row["rewrite_prompt"] for row in kept})
    kept.sort(key=lambda row: row["id"])
    chosen = sides([_example(row) for row in kept], *astuple(SplitSettings()))
    new = output.with_name(f".{output.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        write_shards(new, _rows(kept, chosen, parts), Counter(chosen))
        summary = summarise(new)
        write_plots(summary, new)
        (new / _REJECTED).unlink()
        origin = Origin(
            name=output.name,
            rewriter=records[0]["rewriter"],
            made=_made(parts, records),
            licences=Counter((row["source"].partition("/")[0], "cc0-1.0") for row in kept),
            template=records[0]["settings"]["template"]["text"],
            remarks=bool(records[0]["settings"].get("keep_remarks")),
            rejected=False,
        )
        (new / "README.md").write_text(card(summary, origin), encoding="utf-8")
        shutil.rmtree(output, ignore_errors=True)
        new.rename(output)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    log.info("%s: %s rows, %.1f MB", output, f"{summary.kept:,}", size / 1e6)
    return output


def _refuse_others(output: Path) -> None:
    """Refuses to replace what isn't a dataset that was joined here."""
    found = {path.name for path in output.iterdir()} if output.is_dir() else {output.name}
    if output.exists() and found and found != _FILES:
        raise PromptRecoveryError(
            f"output={output}: is no dataset that was joined here, and would be replaced; give a "
            "new folder"
        )


def refuse_held_out(prompts: set[str]) -> None:
    """Raises a `PromptRecoveryError` if a prompt nearly equals a held-out one of the starter."""
    found = sorted(prompts)
    near = [p for p, close in zip(found, near_held_out(found, SCS()), strict=True) if close]
    if near:
        raise PromptRecoveryError(
            f"{len(near)} prompts equal validation or test prompts of the starter, or nearly, such "
            f"as '{near[0]}': leave them out of the instructions"
        )


def _finished(part: Path) -> dict[str, Any]:
    record = read_generation_record(part)
    if not record.get("complete"):
        raise PromptRecoveryError(f"{part}: is not a finished dataset; run its `generate` again")
    return record


def _made(parts: Sequence[Path], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the card says of how the parts were made, which must have been in one way."""
    for setting in ("rewriter", "template", "filters", "keep_remarks"):
        values = [record["settings"].get(setting) for record in records]
        for part, value in zip(parts, values, strict=True):
            if value != values[0]:
                raise PromptRecoveryError(
                    f"{part}: was made with another {setting} than {parts[0]}; join parts that "
                    "were made in one way"
                )
    made = records[0]["made"]
    return {
        "parts": len(parts),
        "template": made["template"],
        "filters": ", ".join(f"{k}={v}" for k, v in records[0]["settings"]["filters"].items()),
        "splits": made["splits"],
        "made with": made["made with"],
    }


def _rows(
    kept: Sequence[_Row], chosen: Sequence[Side], parts: Sequence[Path]
) -> Iterator[tuple[_Row, Side | None, str]]:
    for row, side in zip(kept, chosen, strict=True):
        yield row, side, ""
    for part in parts:
        with pq.ParquetFile(part / _REJECTED) as file:
            for row in _named(part, file.read().to_pylist()):
                yield row, None, row["reason"]


def _named(part: Path, rows: Iterator[_Row] | Sequence[_Row]) -> Iterator[_Row]:
    """The rows of a part, with ids that no other part has, and with category and source."""
    families, genres = _known()
    for row in rows:
        yield {
            **row,
            "id": f"{part.name}-{row['id']}",
            "category": families.get(normalise(row["rewrite_prompt"]), row["category"]),
            "source": genres.get(row["original_text"], "written for this dataset"),
        }


@cache
def _known() -> tuple[dict[str, str], dict[str, str]]:
    """The category of each normalised prompt, and the source of each text, of this package."""
    families = {normalise(i.text): i.family for i in read_bank()}
    genres: dict[str, str] = {}
    for example in starter(full=True).examples:
        families[normalise(example.rewrite_prompt)] = example.category
        genres[example.original_text] = example.source
    return families, genres


def _example(row: Mapping[str, str]) -> RewriteExample:
    return RewriteExample(
        row["id"], row["original_text"], row["rewritten_text"], row["rewrite_prompt"]
    )


if __name__ == "__main__":
    run_script(JoiningSettings, join)
