"""Tells rewrites that follow their prompts from those that ignore them, with a dense retriever."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.recovery.load import load_retriever
from prompt_recovery.recovery.retriever import PairEncoder
from prompt_recovery.runs.folder import dense_retriever
from prompt_recovery.runs.shipped import shipped_run
from prompt_recovery.terminal import counting

_ROWS = 1024  # of pairs that are compared with all prompts at a time


def shipped_reader(scs: SCS) -> PairEncoder:
    """The encoder of the retriever that comes with this package, which was trained on the starter.

    Args:
        scs: The metric with all-MiniLM-L6-v2.
    """
    folder = dense_retriever(shipped_run("shipped"), "filters.ignored")
    reader = load_retriever(folder, scs, "fp32").encoder
    assert isinstance(reader, PairEncoder)
    return reader


def likelier_prompts(
    examples: Sequence[RewriteExample], reader: PairEncoder, scs: SCS
) -> NDArray[np.float32]:
    """The share of the other examples' prompts that fit an example's texts better than its own.

    A prompt fits better if it is nearer to the embedding that the retriever predicts. A rewrite
    that ignores its prompt has about 0.5 on average, and one that follows it clearly nearly 0.

    Args:
        examples: n ≥ 1 examples.
        reader: The encoder of a dense retriever.
        scs: The metric whose encoder's space the retriever predicts embeddings in.

    Returns:
        fp32 [n] in [0, 1]; 0 if all prompts are the same.
    """
    what = f"judging whether {len(examples):,} rewrites follow their prompts"
    with counting(what, len(examples)) as done:
        predicted = reader.embed(pairs_of(examples), done)
    prompts = [e.rewrite_prompt for e in examples]
    distinct = list(dict.fromkeys(prompts))
    vectors = scs.encoder.embed(distinct)
    place = {prompt: n for n, prompt in enumerate(distinct)}
    own = np.array([place[prompt] for prompt in prompts])
    found = np.zeros(len(examples), np.float32)
    if len(distinct) == 1:
        return found
    for start in range(0, len(examples), _ROWS):
        part = slice(start, start + _ROWS)
        cosines = predicted[part] @ vectors.T
        mine = np.take_along_axis(cosines, own[part, None], axis=1)
        found[part] = (cosines > mine).sum(axis=1) / (len(distinct) - 1)
    return found
