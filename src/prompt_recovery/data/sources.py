"""Sources of datasets. Each is a function that returns a validated `Dataset`.

To add one, write a function here, mark it with `@data_source`, and add a file to `conf/data/`. A
run that was trained on it then finds its examples again.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ParamSpec

from prompt_recovery.data.examples import ColumnNames, Dataset, Row, validate
from prompt_recovery.data.files import SUFFIXES, data_files, read_rows
from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.settings import AnyPath
from prompt_recovery.settings.extras import require_extra

log = logging.getLogger(__name__)

_COLUMNS = ColumnNames()
_SOURCES: dict[str, Callable[..., Dataset]] = {}
P = ParamSpec("P")


def data_source(function: Callable[P, Dataset]) -> Callable[P, Dataset]:
    """Marks a source that the record of a run may name."""
    _SOURCES[f"{function.__module__}.{function.__name__}"] = function
    return function


def recorded_dataset(record: Mapping[str, Any]) -> Dataset:
    """The dataset that a run's configuration names under `data`.

    A record is data from a stranger: its `_target_` is looked up among the sources of this module,
    and never imported. Options that a newer version has written are ignored with a warning; the
    fingerprint of the dataset tells whether it is the same.

    Raises:
        KeyError, TypeError, ValueError: If the record names no source of ours, or lacks an option.
        PromptRecoveryError: Whatever the source raises.
    """
    options = dict(record)
    source = _SOURCES[options.pop("_target_")]
    options = _known(options, source)
    if options.get("columns", ...) is None:
        del options["columns"]
    if "columns" in options:
        names = {k: v for k, v in options["columns"].items() if k != "_target_"}
        options["columns"] = ColumnNames(**_known(names, ColumnNames))
    return source(**options)


def _known(options: Mapping[str, Any], target: Callable[..., Any]) -> dict[str, Any]:
    names = inspect.signature(target).parameters
    others = [str(name) for name in options if name not in names]
    if others:
        log.warning(
            "data of the run: ignored what this version does not know: %s", ", ".join(others)
        )
    return {name: value for name, value in options.items() if name in names}


@data_source
def starter(full: bool = False) -> Dataset:
    """The dataset shipped with this package; its card is `data/starter/README.md`.

    Args:
        full: Whether to add the rows of `more.jsonl`, which are more than twice as many. With the
            default split all of them are training examples, and validation and test stay the same.
    """
    with resources.as_file(resources.files("prompt_recovery.data") / "starter") as folder:
        files = ["starter.jsonl", "more.jsonl"] if full else ["starter.jsonl"]
        rows = (row for name in files for row in read_rows(folder / name))
        return validate(rows, "starter_full" if full else "starter", ColumnNames())


@data_source
def file(
    path: AnyPath,
    columns: ColumnNames = _COLUMNS,
    drop_invalid: bool = False,
    also: Sequence[str] = (),
) -> Dataset:
    """Reads one CSV, JSONL, JSON or Parquet file; all but Parquet may be gzipped.

    A folder that `prompt-recovery generate` made is read as one dataset, too.

    Args:
        path: The file of examples.
        columns: The names of our columns in the file.
        drop_invalid: Leave out rows that cannot be used instead of raising an error.
        also: Further columns to keep with each example.

    Raises:
        PromptRecoveryError: If the file does not exist, cannot be read, has an unknown format, is
            corrupt, or has rows that `validate` refuses.
    """
    path = Path(path).expanduser()
    if _is_generated(path):
        return folder(path, columns, drop_invalid, also)
    return validate(read_rows(path), path.name, columns, drop_invalid, also)


@data_source
def folder(
    path: AnyPath,
    columns: ColumnNames = _COLUMNS,
    drop_invalid: bool = False,
    also: Sequence[str] = (),
) -> Dataset:
    """Reads all data files directly in a folder, in the order of their names, as one dataset.

    Args:
        path: The folder, or one that `prompt-recovery generate` made.
        columns: The names of our columns in the files.
        drop_invalid: Leave out rows that cannot be used instead of raising an error.
        also: Further columns to keep with each example.

    Raises:
        PromptRecoveryError: As for `file`, or if the folder holds no data file.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise PromptRecoveryError(f"{path}: is not a folder; give data.path=<folder of shards>")
    inside = path / "data" if _is_generated(path) else path  # the rejected rows lie beside it
    shards = data_files(inside)
    if not shards:
        raise PromptRecoveryError(f"{path}: holds no data file ({', '.join(SUFFIXES)})")
    rows = (row for shard in shards for row in read_rows(shard))
    return validate(rows, path.name, columns, drop_invalid, also)


def _is_generated(path: Path) -> bool:
    return (path / "generation.json").is_file() and (path / "data").is_dir()


@data_source
def hub(
    repo: str,
    split: str = "train",
    revision: str | None = None,
    columns: ColumnNames = _COLUMNS,
    drop_invalid: bool = False,
    also: Sequence[str] = (),
) -> Dataset:
    """Reads one split of a dataset on the Hugging Face Hub (extra `[hub]`).

    Raises:
        PromptRecoveryError: If the extra is not installed, the dataset cannot be loaded, or
            `validate` refuses a row.
    """
    rows = hub_rows(repo, split, revision, "data")
    return validate(rows, repo, columns, drop_invalid, also)


def hub_rows(repo: str, split: str, revision: str | None, group: str) -> Iterator[Row]:
    """The raw rows of one split of a dataset on the Hub, in order.

    Args:
        repo: The dataset's repository, as owner/name.
        split: The name of the split.
        revision: A commit, tag or branch; None is the newest commit.
        group: The configuration group that error messages name: `data` or `originals`.

    Raises:
        PromptRecoveryError: If the extra is not installed or the dataset cannot be loaded.
    """
    require_extra("hub", f"{group}=hub")
    import datasets

    try:
        table = datasets.load_dataset(repo, split=split, revision=revision)
    except Exception as error:  # the library raises a dozen types for what is one problem to a user
        raise PromptRecoveryError(
            f"cannot load the dataset '{repo}' (split '{split}') from the Hub: "
            f"{first_line(error)}; "
            f"check the name and the network, or download it and use {group}=file {group}.path=…"
        ) from error
    return (Row(f"{repo}[{split}], row {n}", values) for n, values in enumerate(table, start=1))
