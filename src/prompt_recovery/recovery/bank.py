"""Prompt banks: known prompts with their embeddings, and exact search in them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import problem_with_text, require_columns
from prompt_recovery.data.files import SUFFIXES, is_data_file, read_rows
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.encoder import Encoder
from prompt_recovery.storage import MALFORMED, atomic_write, cache_dir, fingerprint

_COLUMNS = ("rewrite_prompt", "text", "prompt")
_BLOCK = 65_536  # vectors that are compared at a time, 100 MB of 384 dimensions
_KEPT_APART = 20_000  # from here on, the embeddings of a bank have a file of their own
_EMBEDDED = 4096  # prompts that are embedded at a time


def nearest(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Finds the vectors with the highest cosines, exactly, in blocks that fit into memory.

    Args:
        queries: fp32 [q, d], of length 1.
        vectors: fp32 [n, d], n ≥ 1, of length 1; may be mapped from a file.
        k: The number of vectors to find, ≥ 1.

    Returns:
        Their indices, int64 [q, min(k, n)], by descending cosine and then by index, and their
        cosines, fp32 [q, min(k, n)].
    """
    k = min(k, len(vectors))
    indices = np.zeros((len(queries), 0), np.int64)
    cosines = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        found = queries @ np.asarray(vectors[start : start + _BLOCK], np.float32).T
        own = np.arange(start, start + found.shape[1])
        if found.shape[1] > 4 * k:
            best = np.argpartition(-found, k - 1, axis=1)[:, :k]
            found, here = np.take_along_axis(found, best, 1), own[best]
        else:
            here = np.broadcast_to(own, found.shape)
        indices = np.concatenate([indices, here], 1)
        cosines = np.concatenate([cosines, found], 1)
        order = np.lexsort((indices, -cosines), axis=1)[:, :k]
        indices = np.take_along_axis(indices, order, 1)
        cosines = np.take_along_axis(cosines, order, 1)
    return indices, cosines


@dataclass(frozen=True)
class PromptBank:
    """Prompts that a retriever can answer with.

    Attributes:
        prompts: n ≥ 1 distinct prompts.
        vectors: fp32 [n, d], their embeddings, of length 1.
        given: Whether the embeddings come with the prompts, instead of from the metric's encoder.
    """

    prompts: Sequence[str]
    vectors: NDArray[np.float32]
    given: bool = False

    @classmethod
    def of(
        cls,
        prompts: Iterable[str],
        encoder: Encoder,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> "PromptBank":
        """Embeds prompts, each only once on this machine.

        Args:
            prompts: At least one prompt; repeated prompts are left out.
            encoder: The encoder of the metric.
            progress: Called with the number of prompts just done, and the number of all.
        """
        distinct = list(dict.fromkeys(prompts))
        if len(distinct) < _KEPT_APART:
            return cls(distinct, encoder.embed(distinct))
        return cls(distinct, _kept_apart(distinct, encoder, progress))

    @classmethod
    def read(cls, prompts: Sequence[str], file: Path) -> "PromptBank":
        """Reads the embeddings that come with prompts: an `.npy` file, fp16 [n, d].

        Args:
            prompts: n ≥ 1 distinct prompts.
            file: The file of the embeddings.

        Raises:
            PromptRecoveryError: If the file is damaged, or belongs to other prompts.
        """
        try:
            vectors = np.load(file, allow_pickle=False).astype(np.float32)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            if len(vectors) != len(prompts) or not (abs(lengths - 1) < 0.01).all():
                raise ValueError("other prompts, or no embeddings")
        except (OSError, EOFError, *MALFORMED) as error:
            raise PromptRecoveryError(
                f"{file}: is damaged ({type(error).__name__}); delete it to embed the prompts again"
            ) from error
        return cls(prompts, vectors / lengths, given=True)

    def write_vectors(self, file: Path) -> None:
        """Writes the embeddings to an `.npy` file, in fp16."""
        np.save(file, self.vectors.astype(np.float16))

    @cached_property
    def identity(self) -> str:
        """A digest of the prompts."""
        return fingerprint(list(self.prompts))

    def joined(self, other: "PromptBank") -> "PromptBank":
        """This bank with the prompts of another one that it doesn't have."""
        known = set(self.prompts)
        new = [i for i, prompt in enumerate(other.prompts) if prompt not in known]
        if not new:
            return self
        return PromptBank(
            [*self.prompts, *(other.prompts[i] for i in new)],
            np.concatenate([self.vectors, other.vectors[new]]),
            self.given,
        )


def _kept_apart(
    prompts: Sequence[str], encoder: Encoder, progress: Callable[[int, int], None]
) -> NDArray[np.float32]:
    """The embeddings of many prompts, mapped from a file that is made at the first call."""
    path = cache_dir("banks") / f"{fingerprint(encoder.identity, list(prompts))}.npy"
    first = encoder.embed(prompts[:1])
    try:
        kept = np.load(path, mmap_mode="r")
        shape = (len(prompts), first.shape[1])
        if kept.shape == shape and kept.dtype == first.dtype and np.allclose(kept[0], first):
            return np.asarray(kept)
    except (OSError, EOFError, *MALFORMED):
        pass  # it is made again
    parts = []
    for start in range(0, len(prompts), _EMBEDDED):
        part = prompts[start : start + _EMBEDDED]
        parts.append(encoder.embed(part, keep=False))
        progress(len(part), len(prompts))
    vectors = np.concatenate(parts)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, vectors)
    return vectors


def read_prompts(path: str | Path, column: str | None = None) -> list[str]:
    """Reads the prompts of a bank: a text file with one on each line, or a column of a data file.

    Args:
        path: A `.txt` file, or a CSV, JSONL or Parquet file.
        column: The column. None takes the first of `rewrite_prompt`, `text` and `prompt` that the
            file has.

    Returns:
        The distinct prompts, in order. Blank lines and rows are left out.

    Raises:
        PromptRecoveryError: If the file does not exist, cannot be read, lacks the column, or holds
            no prompt.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise PromptRecoveryError(f"bank={path}: no such file; give a file of prompts")
    if path.suffix.lower() == ".txt":
        try:
            lines: list[str] = path.read_text("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise PromptRecoveryError(
                f"bank={path}: cannot be read as UTF-8 text ({type(error).__name__}); convert it"
            ) from error
        texts = [line for line in lines if line.strip()]
    elif is_data_file(path.name):
        texts = list(_column(path, column))
    else:
        raise PromptRecoveryError(
            f"bank={path}: give a file with one prompt on each line (.txt), or one of "
            f"{', '.join(SUFFIXES)}"
        )
    prompts = list(dict.fromkeys(text.strip() for text in texts))
    if not prompts:
        raise PromptRecoveryError(f"bank={path}: holds no prompts; give another file")
    return prompts


def _column(path: Path, column: str | None) -> Iterable[str]:
    for row in read_rows(path):
        name = column or next((c for c in _COLUMNS if c in row.values), _COLUMNS[0])
        require_columns(row, [name], "name that of the prompts with bank_column=<name>")
        value = row.values[name]
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        problem = problem_with_text(value)
        if problem is not None:
            raise PromptRecoveryError(
                f"{row.place}: column '{name}' {problem}; correct or remove the row"
            )
        yield value
