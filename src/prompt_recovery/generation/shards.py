"""Datasets as Parquet shards, in the layout of the Hugging Face Hub."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prompt_recovery.data.examples import COLUMNS
from prompt_recovery.data.splits import Side

SPLITS: dict[Side, str] = {"train": "train", "val": "validation", "test": "test"}
"""Maps our name of a split to the Hub's."""

_ROW_GROUP = 1000
_SHARD = 50_000  # rows per file


def write_shards(
    folder: Path, rows: Iterable[tuple[Mapping[str, str], Side | None, str]], sizes: Counter[Side]
) -> None:
    """Writes `data/<split>-<n>-of-<m>.parquet`, and `rejected.parquet` with reasons.

    Args:
        folder: A folder that does not exist yet.
        rows: The rows as (columns, split, reason). The split of a rejected row is None, and the
            reason of any other row is not used.
        sizes: Number of rows of each split.
    """
    (folder / "data").mkdir(parents=True)
    kept = pa.schema([(name, pa.string()) for name in (*COLUMNS, "split")])
    rejected = pa.schema([(name, pa.string()) for name in (*COLUMNS, "reason")])
    with ExitStack() as stack:
        sinks = {
            side: stack.enter_context(_Sink(_paths(folder / "data", name, sizes[side]), kept))
            for side, name in SPLITS.items()
        }
        left_out = stack.enter_context(_Sink(iter([folder / "rejected.parquet"]), rejected, None))
        for columns, side, reason in rows:
            if side is None:
                left_out.add({**columns, "reason": reason})
            else:
                sinks[side].add({**columns, "split": SPLITS[side]})


def read_split(folder: Path, side: Side) -> Iterator[dict[str, str]]:
    """Yields the rows of one split of a dataset's folder, in order, with an example's columns."""
    for path in sorted((folder / "data").glob(f"{SPLITS[side]}-*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROW_GROUP, columns=list(COLUMNS)):
                yield from batch.to_pylist()


def _paths(folder: Path, name: str, rows: int) -> Iterator[Path]:
    shards = -(-rows // _SHARD)
    return (folder / f"{name}-{n:05}-of-{shards:05}.parquet" for n in range(shards))


class _Sink:
    """Writes rows to one file after another. Each file is opened when its first row is written.

    Args:
        paths: Paths of the files.
        schema: Schema of the rows.
        shard: Number of rows per file. None writes all rows to a single file, which is created
            even if there are no rows.
    """

    def __init__(
        self, paths: Iterator[Path], schema: pa.Schema, shard: int | None = _SHARD
    ) -> None:
        self._paths, self._schema, self._shard = paths, schema, shard
        self._rows: list[dict[str, str]] = []
        self._written = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, *_: object) -> None:
        if self._rows or (self._shard is None and self._writer is None):
            self._flush()
        self._end_file()

    def add(self, row: dict[str, str]) -> None:
        self._rows.append(row)
        if len(self._rows) == _ROW_GROUP:
            self._flush()
            if self._written == self._shard:
                self._end_file()

    def _flush(self) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(next(self._paths), self._schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._written += len(self._rows)
        self._rows = []

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._written = None, 0
