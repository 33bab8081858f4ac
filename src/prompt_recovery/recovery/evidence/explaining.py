"""Explains recovered prompts by each model of a recoverer that reads the texts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.evidence.gradients import integrated_gradients
from prompt_recovery.recovery.evidence.pieces import pieces, within
from prompt_recovery.recovery.evidence.reading import Reading, RetrieverReading, WriterReading
from prompt_recovery.recovery.interface import Pair, Prediction, is_usable
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import PairEncoder, Retriever
from prompt_recovery.recovery.sources import WriterSource
from prompt_recovery.recovery.spans import Evidence, Method, Span, require_method


def explainable(recoverer: Any) -> bool:
    """Whether a recoverer has a language model or a dense retriever that can be explained."""
    return isinstance(recoverer, PosteriorRecoverer) and any(
        isinstance(source, WriterSource | Retriever) for source, _ in recoverer.sources
    )


def require_explainable(recoverer: Any, method: Method) -> None:
    """Checks that predictions of a recoverer can be explained.

    Raises:
        PromptRecoveryError: If they cannot, or the extra isn't installed.
    """
    if not explainable(recoverer):
        raise PromptRecoveryError(
            f"explain: {recoverer.name} has no language model and no dense retriever that reads "
            "the texts; set explain=false"
        )
    require_method(method)


def readings(recoverer: Any, pair: Pair, prompt: str) -> Iterator[tuple[str, Reading]]:
    """Each model of a recoverer that reads a pair, with its name.

    Args:
        recoverer: The recoverer.
        pair: A pair of usable texts.
        prompt: The prompt to explain.
    """
    if not isinstance(recoverer, PosteriorRecoverer):
        return
    for source, _ in recoverer.sources:
        if isinstance(source, WriterSource):
            yield source.name, WriterReading(source.writer, pair, prompt)
        elif isinstance(source, Retriever) and recoverer.scs is not None:
            encoder = source.encoder
            if not isinstance(encoder, PairEncoder):
                continue  # a probe, whose model is a source of its own
            yield source.name, RetrieverReading(encoder, recoverer.scs.encoder, pair, prompt)


def explain(
    recoverer: Any, pair: Pair, prompt: str, method: Method = "occlusion"
) -> tuple[Evidence, ...]:
    """The evidence for a prompt, by each model of the recoverer that reads the texts.

    Args:
        recoverer: The recoverer.
        pair: A pair of usable texts.
        prompt: The prompt, which need not be the recovered one.
        method: How evidence is measured.

    Raises:
        PromptRecoveryError: If the method needs an extra that isn't installed, or cannot be used
            with the recovery template.
    """
    return tuple(
        evidence(name, reading, pair, method) for name, reading in readings(recoverer, pair, prompt)
    )


def evidence(source: str, reading: Reading, pair: Pair, method: Method) -> Evidence:
    """The evidence of one model; takes the arguments of `explain`."""
    if method == "integrated_gradients":
        spans, value, _ = integrated_gradients(
            reading, {"original": pair.original_text, "rewritten": pair.rewritten_text}
        )
        return Evidence(source, method, reading.quantity, value, tuple(spans))
    parts = within(pieces(pair.original_text, pair.rewritten_text), reading.ranges)
    value, *rest = reading.values([[], *([part] for part in parts)])
    return Evidence(
        source,
        method,
        reading.quantity,
        value,
        tuple(
            Span(part.text, part.start, part.end, value - other)
            for part, other in zip(parts, rest, strict=True)
        ),
    )


def with_evidence(
    recoverer: Any,
    pairs: Sequence[Pair],
    predictions: Sequence[Prediction],
    method: Method,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Prediction]:
    """The predictions with their evidence, one after another; fallbacks have none.

    Args:
        recoverer: The recoverer that made the predictions.
        pairs: The pairs.
        predictions: The prediction for each pair, in order.
        method: How evidence is measured.
        progress: Called with 1 after each prediction.
    """
    for pair, prediction in zip(pairs, predictions, strict=True):
        found: tuple[Evidence, ...] = ()
        if not prediction.fallback and is_usable(pair):
            found = explain(recoverer, pair, prediction.rewrite_prompt, method)
        progress(1)
        yield replace(prediction, evidence=found)
