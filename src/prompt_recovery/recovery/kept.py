"""Posteriors of a writer that are computed once and kept in the cache.

Sampling is most of the work of a language model's answer. Whoever compares decodings, channels or
weights of several recoverers asks the same model for the same samples again and again.
"""

import hashlib
import json
import time
from array import array
from collections.abc import Callable, Sequence

from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.storage import MALFORMED, KeyValueStore


class KeptPosteriors:
    """What a writer said about tokenised prompts.

    A posterior depends on the writer, the decoding, the tokens and the id of the pair, and not on
    the rest of the batch, so that one from the cache equals one that is computed again.

    Args:
        name: A fingerprint of the writer and of how it is asked.

    Attributes:
        saved: The seconds that it took to compute what was found in the cache.
    """

    def __init__(self, name: str) -> None:
        self._store = KeyValueStore("posteriors", name)
        self.saved = 0.0

    def completed(
        self,
        prompts: Sequence[Sequence[int]],
        ids: Sequence[str],
        ask: Callable[[Sequence[Sequence[int]], Sequence[str]], list[Posterior]],
    ) -> list[Posterior]:
        """The posterior of each prompt; those that are not kept yet are asked for, and kept.

        Args:
            prompts: The token ids of the prompts, which are one batch.
            ids: The ids of their pairs.
            ask: Returns the posteriors of some of them.
        """
        keys = [_key(prompt, id_) for prompt, id_ in zip(prompts, ids, strict=True)]
        found = {key: _read(value) for key, value in self._store.read(keys).items()}
        known = {key: value for key, value in found.items() if value is not None}
        self.saved += sum(seconds for _, seconds in known.values())
        missing = [i for i, key in enumerate(keys) if key not in known]
        if missing:
            begun = time.perf_counter()
            fresh = ask([prompts[i] for i in missing], [ids[i] for i in missing])
            each = (time.perf_counter() - begun) / len(missing)
            said = {keys[i]: (value, each) for i, value in zip(missing, fresh, strict=True)}
            self._store.write({key: _written(*value) for key, value in said.items()})
            known |= said
        return [known[key][0] for key in keys]


def _key(prompt: Sequence[int], id_: str) -> bytes:
    # The length comes first, so that no tokens can be taken for the beginning of an id.
    tokens = array("q", [len(prompt), *prompt]).tobytes()
    return hashlib.sha256(tokens + id_.encode("utf-8", "surrogatepass")).digest()


def _written(posterior: Posterior, seconds: float) -> bytes:
    """A writer's posterior, which has neither predicted embeddings nor a familiarity, as JSON."""
    rows = zip(
        posterior.texts,
        posterior.votes,
        posterior.one_vote,
        posterior.log_probabilities,
        posterior.mean_log_probabilities,
        strict=True,
    )
    return json.dumps([seconds, posterior.size, *rows]).encode()


def _read(value: bytes) -> tuple[Posterior, float] | None:
    """The posterior and the seconds that it took; None if the value is damaged."""
    try:
        seconds, size, *rows = json.loads(value)
        texts, votes, one_vote, total, mean = zip(*rows, strict=True) if rows else [()] * 5
        return Posterior(texts, votes, one_vote, total, mean, float(size)), float(seconds)
    except MALFORMED:
        return None
