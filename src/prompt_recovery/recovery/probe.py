"""The probe: it reads the embedding of the prompt from the hidden state of a language model.

Before a language model writes the first token of its answer, its last hidden state holds more about
the prompt than a few samples tell. A linear probe (Alain and Bengio, arXiv 1610.01644) predicts the
prompt's embedding from it, in the space of the metric. It is a ridge regression on training
examples, and turns a language model into a dense retriever as well. The model has to read a pair
anyway, so that answers take no longer.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.statistics import folds
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.writer import Writer, batches
from prompt_recovery.storage import MALFORMED, KeyValueStore, atomic_write, fingerprint
from prompt_recovery.terminal import counting

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""The penalties that are tried, relative to the mean squared length of the inputs."""
_FOLDS = 5
_SMALLER = 4  # than the batches of sampling, so that less is lost if a long pass is interrupted

States = dict[bytes, NDArray[np.float32]]
"""Hidden states, fp32 [h], by a key of the tokens that were read."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear map from hidden states to embeddings.

    Attributes:
        weight: fp32 [d, h].
        bias: fp32 [d].
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The predicted embeddings of hidden states fp32 [n, h], fp32 [n, d], of length 1."""
        found = states @ self.weight.T + self.bias
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))

    @classmethod
    def fit(
        cls,
        states: NDArray[np.float32],
        vectors: NDArray[np.float32],
        prompts: Sequence[str],
    ) -> "Probe":
        """A ridge regression, whose penalty is chosen by cross-validation.

        Args:
            states: fp32 [n, h], the hidden states of n ≥ 1 training examples.
            vectors: fp32 [n, d], the embeddings of their prompts, of length 1.
            prompts: The n prompts. Examples of one prompt stay in one fold.
        """
        from sklearn.linear_model import Ridge  # takes a second to import

        mean, scale = states.mean(axis=0), states.std(axis=0) + 1e-6
        inputs = ((states - mean) / scale / np.sqrt(states.shape[1])).astype(np.float64)
        fold = folds([normalise(prompt) for prompt in prompts], _FOLDS)

        def cosine(penalty: float) -> float:
            """The mean cosine with the true embeddings in cross-validation."""
            total = 0.0
            for number in range(int(fold.max()) + 1):
                out = fold == number
                found = Ridge(penalty).fit(inputs[~out], vectors[~out]).predict(inputs[out])
                lengths = np.maximum(np.linalg.norm(found, axis=1), 1e-12)
                total += float(((found * vectors[out]).sum(axis=1) / lengths).sum())
            return total

        penalty = max(PENALTIES, key=cosine) if fold.any() else max(PENALTIES)
        fitted = Ridge(penalty).fit(inputs, vectors)
        weight = fitted.coef_.reshape(vectors.shape[1], -1) / scale / np.sqrt(states.shape[1])
        bias = fitted.intercept_ - weight @ mean
        # safetensors writes the memory of an array as it lies, whatever its order.
        return cls(np.ascontiguousarray(weight, np.float32), np.asarray(bias, np.float32))

    @property
    def identity(self) -> str:
        """A digest of the weights."""
        return hashlib.sha256(self.weight.tobytes() + self.bias.tobytes()).hexdigest()

    def write(self, path: Path) -> None:
        """Writes the weights to a safetensors file."""
        with atomic_write(path) as temporary:
            save_file({"weight": self.weight, "bias": self.bias}, temporary)

    @classmethod
    def read(cls, path: Path, dimension: int, size: int) -> "Probe":
        """The weights in a file.

        Args:
            path: The file.
            dimension: d, the dimension of the embeddings.
            size: h, the size of the hidden states.

        Raises:
            PromptRecoveryError: If the file is damaged, or is for other embeddings or hidden
                states.
        """
        try:
            arrays = load_file(path)
            weight, bias = (arrays[name].astype(np.float32) for name in ("weight", "bias"))
            if weight.shape != (dimension, size) or bias.shape != (dimension,):
                raise ValueError("another shape")
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise ValueError("no weights")
        except (OSError, SafetensorError, *MALFORMED) as error:
            raise PromptRecoveryError(
                f"{path}: is damaged ({type(error).__name__}); copy the adapter folder again, or "
                "delete this file to do without it"
            ) from error
        return cls(weight, bias)


@dataclass
class ProbeEncoder:
    """Predicts the embedding of a pair's prompt from what a language model has read.

    Attributes:
        writer: The language model.
        probe: The linear map.
        states: The hidden states of pairs that were just read, which need not be read again.
    """

    writer: Writer
    probe: Probe
    states: States = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the language model."""
        return cast(torch.dtype, self.writer.model.dtype)

    @property
    def digest(self) -> str:
        """A digest of the probe."""
        return self.probe.identity

    @property
    def listening(self) -> Writer:
        """The writer, which then leaves here what it reads while it samples."""
        return replace(self.writer, read=self._remember)

    def _remember(self, prompts: Sequence[Sequence[int]], states: NDArray[np.float32]) -> None:
        self.states.update(_by_key(prompts, states))

    def embed(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> NDArray[np.float32]:
        """The predicted embeddings of n ≥ 1 usable pairs, fp32 [n, d], with rows of length 1.

        Args:
            pairs: The pairs.
            progress: Called with the number of pairs just done.
        """
        states = hidden_states(self.writer, pairs, self.states)
        self.states.clear()
        progress(len(pairs))
        return self.probe(states)

    def share_read(self, pair: Pair) -> float:
        """The share of a pair's characters that the model reads, in [0, 1]."""
        return self.writer.share_read(pair)


def hidden_states(
    writer: Writer,
    pairs: Sequence[Pair | RewriteExample],
    known: Mapping[bytes, NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """The hidden states of a language model at the end of n ≥ 1 pairs, fp32 [n, h].

    If the writer has an identity, they are kept in the cache, batch by batch, so that an
    interrupted pass goes on where it stopped.

    Args:
        writer: The language model.
        pairs: Pairs of usable texts.
        known: Hidden states that are known already.
    """
    prompts = [writer.prompt_tokens(pair) for pair in pairs]
    keys = [_key(prompt) for prompt in prompts]
    store = KeyValueStore("last_states", fingerprint(writer.identity)) if writer.identity else None
    found: States = {} if store is None else _read(store.read(keys))
    known = known or {}
    fresh = {key: known[key] for key in keys if key in known and key not in found}
    _keep(store, fresh)
    found |= fresh
    missing = {i: len(prompts[i]) for i, key in enumerate(keys) if key not in found}
    with counting(f"reading pairs with {writer.name}", len(missing), "pairs") as advance:
        for batch in batches(missing, writer.batch_tokens // _SMALLER):
            texts = [prompts[i] for i in batch]
            fresh = dict(_by_key(texts, writer.last_states(texts)))
            _keep(store, fresh)
            found |= fresh
            advance(len(batch))
    return np.stack([found[key] for key in keys])


def _keep(store: KeyValueStore | None, states: States) -> None:
    if store is not None and states:
        store.write({key: state.astype(np.float32).tobytes() for key, state in states.items()})


def _read(values: Mapping[bytes, bytes]) -> States:
    found = {key: np.frombuffer(value, np.float32) for key, value in values.items()
             if len(value) % 4 == 0}  # fmt: skip
    sizes = {len(state) for state in found.values()}
    return found if len(sizes) == 1 else {}


def _by_key(
    prompts: Iterable[Sequence[int]], states: NDArray[np.float32]
) -> Iterable[tuple[bytes, NDArray[np.float32]]]:
    return zip(map(_key, prompts), states, strict=True)


def _key(prompt: Sequence[int]) -> bytes:
    return hashlib.sha256(array("q", prompt).tobytes()).digest()
