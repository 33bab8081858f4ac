"""Files of arrays that lie beside a retriever, which may be a stranger's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from prompt_recovery.storage import MALFORMED

UNREADABLE = (OSError, EOFError, BadZipFile, *MALFORMED)
"""The exceptions that may be raised while a damaged `.npz` file is read."""
_MOST_BYTES = 1 << 30


@contextmanager
def opened_arrays(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the arrays of an `.npz` file by their names; each is read when it is asked for.

    Raises:
        ValueError: If the file unpacks to too much, or holds pickled objects.
        OSError: If it cannot be read, like the others of `UNREADABLE`.
    """
    with ZipFile(path) as whole:
        if sum(part.file_size for part in whole.infolist()) > _MOST_BYTES:
            raise ValueError("it unpacks to too much")
    with np.load(path, allow_pickle=False) as file:
        yield file
