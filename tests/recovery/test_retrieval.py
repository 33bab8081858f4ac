"""Neighbours that vote with a recoverer's samples."""

import numpy as np
import pytest

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.baselines.neighbours import NeighbourIndex, Neighbours
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.mbr import rank
from prompt_recovery.recovery.posterior import Completion, Posterior, weighted_sum
from prompt_recovery.recovery.retrieval import Retrieval

PROMPTS = ["Turn it into a poem", "Make it a poem", "Write it as a recipe", "Add three recipes"]
TEXTS = [
    "Rain on the roof, rain in the heart",
    "O sea, o sky, o sail",
    "Two eggs, one cup of flour",
    "Stir the soup and add salt",
]
TRAINING = [
    RewriteExample(str(n), "The ferry leaves at dawn.", text, prompt)
    for n, (text, prompt) in enumerate(zip(TEXTS, PROMPTS, strict=True))
]


@pytest.mark.parametrize("space", ["difference", "rewrite"])
def test_equal_texts_have_no_direction_and_so_no_neighbours(scs, space):
    source = Retrieval(space=space, k=2).fit(TRAINING, scs)
    same = "Two eggs, one cup of flour"
    pairs = [
        Pair("same", same, same),
        Pair("nearly", same, f"{same} "),
        Pair("other", "The ferry leaves at dawn.", "O rain, o roof, o heart"),
    ]
    found = source.posteriors(pairs, MBR())
    assert sorted(found) == ([2] if space == "difference" else [0, 1, 2])
    [alone] = NeighbourIndex.of(TRAINING, scs, space).nearest([pairs[2]], 2)
    assert found[2].texts == Posterior.of_texts([prompt for prompt, _ in alone]).texts
    answers = Neighbours(space, 2).fit(TRAINING, scs).recover(pairs)
    assert [answer.fallback for answer in answers] == [space == "difference"] * 2 + [False]
    unchanged = [RewriteExample("u", same, same, "Leave it alone"), *TRAINING[:1]]
    index = NeighbourIndex.of(unchanged, scs, space)
    assert ("Leave it alone" in index.prompts) == (space == "rewrite")
    if space == "difference":
        assert NeighbourIndex.of(unchanged[:1], scs, space).nearest(pairs, 2) == [[], [], []]


def test_votes_of_neighbours_weigh_what_they_should(scs):
    """Against the formula, vote by vote: none counts for itself."""
    said = ["Make it rhyme", "Make it rhyme", "Add three recipes"]
    samples = Posterior.of_completions(
        [Completion(t, t, p, p) for t, p in zip(said, (-1.0, -1.0, -2.0), strict=True)]
    )
    share = 5 / 3  # of the neighbours, to that of the samples
    neighbours = Posterior.of_texts(["Make it a poem", "Add three recipes"])
    weight = share * 3 / 2  # of each of two neighbours, where each of three samples counts 1
    appearances = [(t, 1.0) for t in said] + [(t, weight) for t in neighbours.texts]
    expected = {}
    for text in {t for t, _ in appearances}:
        own = max(w for t, w in appearances if t == text)
        others = list(appearances)
        others.remove((text, own))
        scores = scs([text] * len(others), [t for t, _ in others])
        expected[text] = np.average(scores, weights=[w for _, w in others])
    ranked = rank(weighted_sum([(samples, 1.0), (neighbours, share)]), scs)
    assert {c.text: c.score for c in ranked} == pytest.approx(expected, abs=1e-5)
    assert [c.text for c in ranked] == sorted(expected, key=lambda t: -expected[t])
    assert {c.text: c.log_probability for c in ranked} == {
        "Make it rhyme": -1.0, "Add three recipes": -2.0, "Make it a poem": None
    }  # fmt: skip


def test_the_nearest_examples_vote(scs):
    retrieved = Retrieval("rewrite", k=2).fit(TRAINING, scs)
    pairs = [Pair("a", "The ferry leaves at dawn.", "O rain, o heart, o sea"),
             Pair("b", "The ferry leaves at dawn.", " "),
             Pair("c", "The ferry leaves at dawn.", "One cup of salt, two eggs")]  # fmt: skip
    found = retrieved.posteriors(pairs, MBR())
    assert set(found) == {0, 2}, "nobody votes on a blank text"
    assert set(found[0].texts) == set(PROMPTS[:2])
    assert set(found[2].texts) == set(PROMPTS[2:])
    samples = Posterior.of_texts(["Make it rhyme"] * 16)
    for posterior in found.values():
        joined = weighted_sum([(samples, 1.0), (posterior, 3.0)])
        assert sum(joined.votes[1:]) == pytest.approx(3 * 16)
        assert posterior.log_probabilities == (None, None)
    assert retrieved.posteriors(pairs[1:2], MBR()) == {}
    near = [posterior.familiarity for posterior in found.values()]
    assert all(0 <= value <= 1 for value in near)
    [[(nearest, cosine)]] = NeighbourIndex.of(TRAINING, scs, "rewrite").nearest(pairs[:1], 1)
    assert nearest == found[0].texts[0]
    embedded = scs.encoder.embed([pairs[0].rewritten_text, TEXTS[PROMPTS.index(nearest)]])
    assert cosine == pytest.approx(float(embedded[0] @ embedded[1]), abs=1e-5)


def test_no_more_examples_are_embedded_than_allowed(scs):
    some = Retrieval(k=8, examples=3).fit(TRAINING, scs).index
    assert len(some.prompts) == len(some.vectors) == 3
    again = Retrieval(k=8, examples=3).fit(TRAINING[::-1], scs).index
    assert again.prompts == some.prompts, "whatever their order"
    for bad in ({"k": 0}, {"weight": 0.0}, {"examples": 0}, {"space": "text"}):
        with pytest.raises(PromptRecoveryError, match=next(iter(bad))):
            Retrieval(**bad)
