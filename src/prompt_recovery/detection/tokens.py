"""How a causal LM reads a text: statistics of each token, from one forward pass.

Nothing is generated, and the model sees the text alone: neither an instruction nor the original.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prompt_recovery.kernels.vocabulary import vocabulary_logits
from prompt_recovery.storage import KeyValueStore, fingerprint
from prompt_recovery.templates import text_tokens
from prompt_recovery.trees import causal_lm_of

_ROWS = 64  # tokens whose logits are in memory at a time: 13 MB for each of 50,000 words
_BATCH = 8  # texts


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """What a causal LM says about the second and all later tokens of a text, each fp32 [n], n ≥ 0.

    Attributes:
        log_probability: log p of the token given those before it, in nats.
        log_rank: The natural logarithm of the token's rank, where the likeliest has rank 1.
        entropy: The entropy of the model's prediction in nats, which is minus the expected
            log-probability.
        variance: The variance of the log-probability under the model's prediction, in nats².
    """

    log_probability: NDArray[np.float32]
    log_rank: NDArray[np.float32]
    entropy: NDArray[np.float32]
    variance: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.log_probability)

    @property
    def curvature(self) -> float:
        """The analytic conditional probability curvature of Fast-DetectGPT (Bao et al., arXiv
        2310.05130, equation 6) with one model: the log-probability of the text minus its
        expectation, in standard deviations. 0 where there is no token."""
        spread = float(np.sqrt(self.variance.sum(dtype=np.float64)))
        above = float((self.log_probability + self.entropy).sum(dtype=np.float64))
        return above / spread if spread > 0 else 0.0


class TokenReader:
    """Reads texts with a causal LM. Each text is read once and kept in the cache folder.

    Args:
        model: A `transformers` causal LM in evaluation mode, or a `PeftModel` around one.
        tokenizer: The tokenizer of the model.
        identity: A string that changes with the weights of the model.
        max_tokens: The number of tokens of a text that are read, at least 2.
    """

    def __init__(self, model: Any, tokenizer: Any, identity: str, max_tokens: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        kind = fingerprint(identity, max_tokens, str(model.dtype))
        self._store = KeyValueStore("token_statistics", kind)

    def read(
        self, texts: Sequence[str], progress: Callable[[int], None] = lambda _: None
    ) -> list[TokenStatistics]:
        """Returns the statistics of each text.

        Args:
            texts: The texts; blank ones have no tokens.
            progress: Called with the number of distinct texts just done.
        """
        keys = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]
        wanted = dict(zip(keys, texts, strict=True))
        stored = {k: _unpacked(blob) for k, blob in self._store.read(wanted).items()}
        known = {key: found for key, found in stored.items() if found is not None}
        progress(len(known))
        missing = [(key, text) for key, text in wanted.items() if key not in known]
        for start in range(0, len(missing), _BATCH * 8):
            part = missing[start : start + _BATCH * 8]
            tokens = {key: self._tokens(text) for key, text in part}
            part.sort(key=lambda item: len(tokens[item[0]]))
            for first in range(0, len(part), _BATCH):
                batch = [key for key, _ in part[first : first + _BATCH]]
                found = self._compute([tokens[key] for key in batch])
                known.update(zip(batch, found, strict=True))
                self._store.write({k: _packed(v) for k, v in zip(batch, found, strict=True)})
                progress(len(batch))
        return [known[key] for key in keys]

    def _tokens(self, text: str) -> list[int]:
        # No text has more than 16 characters a token on average.
        cut = text.strip()[: 16 * self._max_tokens]
        return text_tokens(cut, self._tokenizer)[: self._max_tokens]

    @torch.inference_mode()
    def _compute(self, rows: Sequence[Sequence[int]]) -> list[TokenStatistics]:
        causal_lm, device = causal_lm_of(self._model), self._model.device
        width = max(map(len, rows))
        if width < 2:
            return [_statistics(torch.zeros(4, 0)) for _ in rows]
        # Padding stands on the right, where causal attention never looks at it.
        padded = [list(row) + [0] * (width - len(row)) for row in rows]
        ids = torch.tensor(padded, device=device)
        hidden = causal_lm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        found = []
        for row, states, tokens in zip(rows, hidden, ids, strict=True):
            used = max(len(row) - 1, 0)
            pieces = zip(states[:used].split(_ROWS), tokens[1 : used + 1].split(_ROWS), strict=True)
            parts = [_of(vocabulary_logits(causal_lm, s), t) for s, t in pieces if len(t)]
            found.append(_statistics(torch.cat(parts, 1) if parts else torch.zeros(4, 0)))
        return found


def token_features(statistics: TokenStatistics) -> dict[str, float]:
    """What a causal LM says about a text, all finite; a text of fewer than two tokens has zeros."""
    names = ("mean_log_probability", "mean_log_rank", "mean_entropy", "curvature")
    further = ("spread_of_log_probability", "likeliest_tokens", "rare_tokens")
    if not len(statistics):
        return dict.fromkeys((*names, *further), 0.0)
    values = (
        statistics.log_probability.mean(),
        statistics.log_rank.mean(),
        statistics.entropy.mean(),
        statistics.curvature,
        statistics.log_probability.std(),
        (statistics.log_rank == 0).mean(),
        (statistics.log_rank > math.log(100)).mean(),
    )
    return dict(zip((*names, *further), np.asarray(values, np.float64).tolist(), strict=True))


def _of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The four statistics of n tokens, fp32 [4, n], from logits fp32 [n, V]."""
    log_p = logits.log_softmax(-1)
    own = log_p.gather(1, targets[:, None])
    rank = (log_p > own).sum(1) + 1
    p = log_p.exp()
    mean = (p * log_p).sum(1)
    variance = (p * (log_p - mean[:, None]).square()).sum(1)
    return torch.stack([own[:, 0], rank.float().log(), -mean, variance])


def _statistics(values: torch.Tensor) -> TokenStatistics:
    array = values.cpu().numpy().astype(np.float32)
    return TokenStatistics(*array)


def _packed(statistics: TokenStatistics) -> bytes:
    parts = (
        statistics.log_probability,
        statistics.log_rank,
        statistics.entropy,
        statistics.variance,
    )
    return b"\0" + np.stack(parts).tobytes()


def _unpacked(blob: bytes) -> TokenStatistics | None:
    """The statistics in a cache; None if they are damaged."""
    if len(blob) % 16 != 1:
        return None
    array = np.frombuffer(blob[1:], np.float32).reshape(4, -1)
    return TokenStatistics(*array) if np.isfinite(array).all() else None
