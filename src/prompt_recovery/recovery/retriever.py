"""The dense retriever: it finds prompts of a bank by the embedding that it predicts for a pair.

A plain sentence-transformers model reproduces the embeddings of pairs:

    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("runs/latest/retriever")
    model.encode([(rewritten_text, original_text)])

The predicted embedding lies in the space of the metric's encoder, so that its cosine with the
embedding of a prompt is the predicted cosine of that prompt with the true one.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.metrics.statistics import gains_an_error
from prompt_recovery.recovery.bank import PromptBank, nearest
from prompt_recovery.recovery.decoding import MBR, Decoding
from prompt_recovery.recovery.familiarity import Familiarity
from prompt_recovery.recovery.form import BankForm
from prompt_recovery.recovery.interface import Pair, is_usable, pairs_of
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.recovery.probe import ProbeEncoder
from prompt_recovery.runs.folder import familiarity_file, form_file, write_bank
from prompt_recovery.terminal import announced

log = logging.getLogger(__name__)

_READ = 20_000  # characters of each text; the model reads fewer, and is slow to cut longer ones
_BATCH = 64
EMBEDDING_SHARE = 0.2
FORM_WEIGHT = 6.0
"""The weight λ of the form of pairs, unless another is clearly better; see `BankForm`."""
_FORM_WEIGHTS = (0.0, 2.0, 4.0, 6.0, 8.0, 12.0)
_TEMPERATURES = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15)


def pair_texts(pair: Pair | RewriteExample) -> tuple[str, str]:
    """The two texts as the model reads them: the rewritten one, then the original one."""
    return _clean(pair.rewritten_text), _clean(pair.original_text)


def _clean(text: str) -> str:
    return text[:_READ].encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class PairEncoder:
    """Predicts the embedding of a pair's prompt.

    Attributes:
        model: A `SentenceTransformer` that was fine-tuned on pairs.
        dtype: The precision of the computation; the weights are fp32.
        digest: A digest of the model's weights and of what it was trained on.
    """

    model: Any
    dtype: torch.dtype = torch.float32
    digest: str = ""

    def embed(
        self, pairs: Sequence[Pair], progress: Callable[[int], None] = lambda _: None
    ) -> NDArray[np.float32]:
        """The predicted embeddings of n ≥ 1 usable pairs, fp32 [n, d], with rows of length 1.

        Args:
            pairs: The pairs.
            progress: Called with the number of pairs just done.
        """
        texts = [pair_texts(pair) for pair in pairs]
        order = sorted(range(len(texts)), key=lambda i: -sum(map(len, texts[i])))
        found: list[NDArray[np.float32]] = []
        low = self.dtype == torch.bfloat16
        device = self.model.device.type
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=low):
            for start in range(0, len(order), _BATCH):
                batch = [texts[i] for i in order[start : start + _BATCH]]
                vectors = self.model.encode(
                    batch, batch_size=_BATCH, convert_to_tensor=True, show_progress_bar=False
                )
                found.append(unit(vectors.float()).cpu().numpy())
                progress(len(batch))
        back = np.argsort(order)
        return np.asarray(np.concatenate(found)[back], np.float32)

    def share_read(self, pair: Pair) -> float:
        """The share of a pair's tokens that the model reads, in [0, 1]."""
        if hasattr(self.model, "share_read"):
            return float(self.model.share_read(pair_texts(pair)))
        tokens = self.model.tokenizer(*pair_texts(pair), truncation=False, verbose=False)
        return min(int(self.model.max_seq_length) / max(len(tokens["input_ids"]), 1), 1.0)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Scales rows to length 1."""
    return torch.nn.functional.normalize(vectors, dim=-1)


@dataclass(frozen=True)
class Retriever:
    """A source whose posterior is a softmax over the prompts nearest to the predicted embedding.

    Attributes:
        encoder: Predicts the embedding of a pair's prompt: a sentence encoder of its own, or the
            probe of a language model.
        bank: The prompts, embedded by the metric's encoder.
        temperature: The temperature of the softmax of the cosines, > 0.
        k: The largest number of prompts in a posterior, ≥ 1.
        name: Its name in tables.
        embedding_share: The share of the posterior that lies on the predicted embedding itself, in
            [0, 1): prompts near it gain, whatever other prompts the bank holds.
        known: Measures the familiarity of pairs; None if it isn't known.
        form: Also weighs prompts by how their training pairs were changed. None turns this off.
    """

    encoder: PairEncoder | ProbeEncoder
    bank: PromptBank
    temperature: float
    k: int = 200
    name: str = "retriever"
    embedding_share: float = EMBEDDING_SHARE
    known: Familiarity | None = None
    form: BankForm | None = None

    def share_read(self, pair: Pair) -> float:
        """The share of a pair's tokens that the encoder reads, in [0, 1]."""
        return self.encoder.share_read(pair)

    @property
    def settings(self) -> dict[str, Any]:
        """The temperature, the number of prompts, and digests of the model and the bank."""
        return {
            "encoder": self.encoder.digest,
            "dtype": str(self.encoder.dtype),
            "bank": self.bank.identity,
            "temperature": self.temperature,
            "k": self.k,
            "embedding_share": self.embedding_share,
            **({} if self.form is None else {"form": self.form.identity}),
        }

    def posteriors(
        self,
        pairs: Sequence[Pair],
        decoding: Decoding,
        progress: Callable[[int], None] = lambda _: None,
    ) -> dict[int, Posterior]:
        """The posterior of each usable pair by its index; it doesn't depend on the decoding."""
        usable = [i for i, pair in enumerate(pairs) if is_usable(pair)]
        progress(len(pairs) - len(usable))
        if not usable:
            return {}
        read = [pairs[i] for i in usable]
        found = self.posteriors_of(self.encoder.embed(read, progress))
        near = self.familiarity(read)
        if self.form is not None:
            found = self.form.all_reweighted(found, read, near)
        if self.known is not None:
            found = [replace(p, familiarity=f) for p, f in zip(found, near, strict=True)]
        return dict(zip(usable, found, strict=True))

    def familiarity(self, pairs: Sequence[Pair]) -> list[float]:
        """The familiarity of each pair, in [0, 1]; 1 if it isn't measured."""
        return [1.0] * len(pairs) if self.known is None else self.known(pairs).tolist()

    def posteriors_of(self, predicted: NDArray[np.float32]) -> list[Posterior]:
        """The posteriors of pairs whose embeddings are predicted already.

        Args:
            predicted: fp32 [n, d], of length 1.
        """
        found, cosines = nearest(predicted, self.bank.vectors, self.k)
        weights = softmax(cosines / self.temperature)
        return [
            Posterior.of_weights(
                [self.bank.prompts[i] for i in row], own, vector, self.embedding_share
            )
            for row, own, vector in zip(found, weights, predicted, strict=True)
        ]

    @property
    def form_weight(self) -> float:
        """The weight λ of the form of pairs, ≥ 0; 0 without a form."""
        return 0.0 if self.form is None else self.form.weight

    def write_parts(self, folder: Path) -> None:
        """Writes the prompts of the bank and what is known of the training pairs, by file."""
        write_bank(folder, self.bank.prompts)
        if self.known is not None:
            self.known.write(familiarity_file(folder))
        if self.form is not None:
            self.form.write(form_file(folder))

    def with_bank(self, bank: PromptBank) -> "Retriever":
        """The same retriever with another bank."""
        return replace(self, bank=bank)

    def with_temperature(self, temperature: float) -> "Retriever":
        """The same retriever with another temperature, > 0."""
        return replace(self, temperature=temperature)


def is_probe(source: object) -> bool:
    """Whether a source is the retriever that a probe makes of a language model."""
    return isinstance(source, Retriever) and isinstance(source.encoder, ProbeEncoder)


def fit_on_validation(
    retriever: Retriever, form: BankForm | None, examples: Sequence[RewriteExample], scs: SCS
) -> Retriever:
    """The retriever with the temperature and the weight of the form that suit these examples.

    Without examples, both stay what they are by default.

    Args:
        retriever: The retriever, without a form.
        form: The measures of its training pairs; None if they don't count.
        examples: Examples that it was not trained on.
        scs: The metric.
    """
    if not examples:
        return replace(retriever, form=form and form.with_weight(FORM_WEIGHT))
    truths, pairs = [e.rewrite_prompt for e in examples], pairs_of(examples)
    with announced("fitting the temperature of the posterior"):
        predicted = retriever.encoder.embed(pairs)
        found = retriever.with_temperature(fit_temperature(retriever, predicted, truths, scs))
    log.info("temperature of the posterior: %g", found.temperature)
    if form is None:
        return found
    with announced("fitting the weight of the form of a pair"):
        weight = fit_form(found, form, predicted, pairs, truths, scs)
    log.info("weight of the form of a pair: %g", weight)
    return replace(found, form=form.with_weight(weight) if weight else None)


def fit_temperature(
    retriever: Retriever, predicted: NDArray[np.float32], truths: Sequence[str], scs: SCS
) -> float:
    """The temperature whose answers by MBR have the highest mean SCS.

    The retriever's own temperature stays unless another one gains at least a standard error, since
    a maximum over a grid promises too much.

    Args:
        retriever: The retriever.
        predicted: The predicted embeddings of n ≥ 1 pairs that it was not trained on, fp32 [n, d].
        truths: The prompts of these pairs.
        scs: The metric.
    """

    def scores(temperature: float) -> NDArray[np.float64]:
        return _mbr_scores(
            retriever.with_temperature(temperature).posteriors_of(predicted), truths, scs
        )

    own = scores(retriever.temperature)
    found = {temperature: scores(temperature) for temperature in _TEMPERATURES}
    best = max(found, key=lambda temperature: float(found[temperature].mean()))
    return best if gains_an_error(found[best] - own) else retriever.temperature


def fit_form(
    retriever: Retriever,
    form: BankForm,
    predicted: NDArray[np.float32],
    pairs: Sequence[Pair],
    truths: Sequence[str],
    scs: SCS,
) -> float:
    """The weight λ of the form with which answers by MBR have the highest mean SCS.

    `FORM_WEIGHT` stays unless another one gains at least a standard error.

    Args:
        retriever: The retriever.
        form: The measures of its training pairs.
        predicted: The predicted embeddings of n ≥ 1 pairs that it was not trained on, fp32 [n, d].
        pairs: These pairs.
        truths: Their prompts.
        scs: The metric.
    """
    posteriors, near = retriever.posteriors_of(predicted), retriever.familiarity(pairs)

    def scores(weight: float) -> NDArray[np.float64]:
        own = form.with_weight(weight).all_reweighted(posteriors, pairs, near)
        return _mbr_scores(own, truths, scs)

    found = {weight: scores(weight) for weight in _FORM_WEIGHTS}
    best = max(found, key=lambda weight: float(found[weight].mean()))
    return best if gains_an_error(found[best] - found[FORM_WEIGHT]) else FORM_WEIGHT


def _mbr_scores(
    posteriors: Sequence[Posterior], truths: Sequence[str], scs: SCS
) -> NDArray[np.float64]:
    answers = [candidates[0].text for candidates in MBR(combined=0).choose(posteriors, scs)]
    return scs(answers, truths).astype(np.float64)


def softmax(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The softmax of each row, fp64, summing to 1."""
    shares = np.exp((values - values.max(axis=-1, keepdims=True)).astype(np.float64))
    shares = np.maximum(shares, 1e-30)  # a text of a posterior has a weight
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
