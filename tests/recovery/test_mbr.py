import math

import numpy as np
import pytest

from prompt_recovery.recovery.mbr import Samples, expected_scs, rank

SAMPLES = ["Make it a poem", "Turn it into a poem", "Make it a poem", "", "Add three recipes"]


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
    ranked = rank([Samples(SAMPLES, [-5.0, -6.0, -5.0, -1.0, -2.0])], scs)
    assert [t for t, _, _ in ranked] == [
        "Make it a poem", "Turn it into a poem", "Add three recipes"
    ]  # fmt: skip
    assert ranked[0][1] == -5.0
    assert ranked[0][2] > 0.3 > ranked[-1][2]


def test_probability_can_be_the_vote(scs):
    texts = ["Make it a poem", "Add three recipes", "Turn it into a poem"]
    sure = rank([Samples(texts, [-9.0, -0.1, -9.0])], scs, by_probability=True)
    assert sure[0][0] == "Add three recipes"  # the model is all but certain of it
    even = rank([Samples(texts, [math.log(1 / 3)] * 3)], scs, by_probability=True)
    counted = rank([Samples(texts, [-1.0, -2.0, -3.0])], scs)
    assert [t for t, _, _ in even[:2]] == [t for t, _, _ in counted[:2]]
    assert even[0][2] == pytest.approx(counted[0][2], abs=1e-6)


def test_a_lone_sample_has_nobody_to_agree_with(scs):
    assert rank([Samples(["Make it a poem"], [-1.0])], scs) == [("Make it a poem", -1.0, 0.0)]
    assert rank([Samples(["", " "], [-1.0, -1.0])], scs) == []


def test_several_recoverers_vote_by_their_weights(scs):
    poem = Samples(["Make it a poem", "Turn it into a poem"], [-1.0, -2.0])
    recipe = Samples(["Add three recipes", "Add some recipes"], [-9.0, -8.0], weight=3.0)
    assert rank([poem, recipe], scs)[0][0] in recipe.texts
    even = rank([poem, Samples(recipe.texts, recipe.log_probabilities)], scs)
    joined = rank([Samples([*poem.texts, *recipe.texts], [-1.0, -2.0, -9.0, -8.0])], scs)
    assert even == joined
