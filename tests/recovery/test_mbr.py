import math

import numpy as np
import pytest

from prompt_recovery.recovery.interface import Candidate
from prompt_recovery.recovery.mbr import expected_scs, rank
from prompt_recovery.recovery.posterior import Completion, Posterior, weighted_sum

SAMPLES = ["Make it a poem", "Turn it into a poem", "Make it a poem", "", "Add three recipes"]


def posterior(texts, log_probabilities, by_probability=False):
    return Posterior.of_completions(
        [Completion(t, t, p, p) for t, p in zip(texts, log_probabilities, strict=True)],
        by_probability,
    )


def test_every_sample_is_scored_by_the_others(scs):
    distinct, votes = ["Make it a poem", "Turn it into a poem", "Add three recipes"], [2, 1, 1]
    samples = [t for t, n in zip(distinct, votes, strict=True) for _ in range(n)]
    expected = []
    for text in distinct:
        first = samples.index(text)
        others = [s for n, s in enumerate(samples) if n != first]
        expected.append(np.mean(scs([text] * len(others), others)))
    np.testing.assert_allclose(expected_scs(distinct, votes, scs), expected, atol=1e-5)


def test_the_consensus_comes_first_and_blanks_do_not_count(scs):
    ranked = rank(posterior(SAMPLES, [-5.0, -6.0, -5.0, -1.0, -2.0]), scs)
    assert [c.text for c in ranked] == [
        "Make it a poem", "Turn it into a poem", "Add three recipes"
    ]  # fmt: skip
    assert ranked[0].log_probability == -5.0
    assert ranked[0].score > 0.3 > ranked[-1].score


def test_probability_can_be_the_vote(scs):
    texts = ["Make it a poem", "Add three recipes", "Turn it into a poem"]
    sure = rank(posterior(texts, [-9.0, -0.1, -9.0], by_probability=True), scs)
    assert sure[0].text == "Add three recipes"  # the model is all but certain of it
    even = rank(posterior(texts, [math.log(1 / 3)] * 3, by_probability=True), scs)
    counted = rank(posterior(texts, [-1.0, -2.0, -3.0]), scs)
    assert [c.text for c in even[:2]] == [c.text for c in counted[:2]]
    assert even[0].score == pytest.approx(counted[0].score, abs=1e-6)


def test_a_lone_sample_has_nobody_to_agree_with(scs):
    lone = rank(posterior(["Make it a poem"], [-1.0]), scs)
    assert lone == [Candidate("Make it a poem", -1.0, 0.0)]
    assert rank(posterior(["", " "], [-1.0, -1.0]), scs) == []


def test_several_recoverers_vote_by_their_weights(scs):
    poem = posterior(["Make it a poem", "Turn it into a poem"], [-1.0, -2.0])
    recipe = posterior(["Add three recipes", "Add some recipes"], [-9.0, -8.0])
    assert rank(weighted_sum([(poem, 1.0), (recipe, 3.0)]), scs)[0].text in recipe.texts
    even = rank(weighted_sum([(poem, 1.0), (recipe, 1.0)]), scs)
    joined = rank(posterior([*poem.texts, *recipe.texts], [-1.0, -2.0, -9.0, -8.0]), scs)
    assert even == joined
