"""Which rewrites follow their prompts, by a reader of pairs."""

import numpy as np
import pytest

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import split
from prompt_recovery.generation.following import likelier_prompts, shipped_reader

PROMPTS = ("As a haiku", "For children", "As a legal notice", "In capitals")


class Reader:
    """Predicts the embedding of the prompt that a rewritten text names."""

    def __init__(self, scs):
        self._scs = scs

    def embed(self, pairs, progress):
        progress(len(pairs))
        return self._scs.encoder.embed([pair.rewritten_text for pair in pairs])


def examples(*rows):
    return [
        RewriteExample(str(n), "The ferry sails at dawn.", rewritten, prompt)
        for n, (rewritten, prompt) in enumerate(rows)
    ]


def test_it_is_the_share_of_other_prompts_that_are_nearer(scs):
    rows = examples(*((p, p) for p in PROMPTS), (PROMPTS[0], PROMPTS[2]))
    found = likelier_prompts(rows, Reader(scs), scs)
    assert found[:4].tolist() == [0, 0, 0, 0]
    cosines = scs.cosine([PROMPTS[0]] * 4, PROMPTS)
    assert found[4] == pytest.approx((cosines > cosines[2]).sum() / 3)


def test_one_prompt_has_no_rival(scs):
    assert likelier_prompts(examples(("a", "b"), ("c", "b")), Reader(scs), scs).tolist() == [0, 0]


def test_the_shipped_retriever_finds_rewrites_that_ignore_their_prompts(scs):
    """On examples that it was not trained on: with their own prompts, and with one another's."""
    rows = split(starter()).test[:48]
    swapped = [
        RewriteExample(a.id, a.original_text, a.rewritten_text, b.rewrite_prompt)
        for a, b in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    reader = shipped_reader(scs)
    own, others = (likelier_prompts(some, reader, scs) for some in (rows, swapped))
    assert np.median(own) < 0.1
    assert np.mean(others) > 0.35
    assert np.mean(own > 0.5) < 0.15
