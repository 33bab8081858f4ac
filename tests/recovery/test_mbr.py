import math

import numpy as np
import pytest

from prompt_recovery.recovery.interface import Candidate
from prompt_recovery.recovery.mbr import (
    _expected_of_combined,
    combined,
    expected_scs,
    parts_of,
    rank,
    rank_with_combined,
)
from prompt_recovery.recovery.naming import with_named
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


def test_wordings_of_one_sample_do_not_vote_for_one_another(scs):
    texts = ["make it rhyme", "Make this poem rhyme", "add recipes", "Add recipes to this poem"]
    votes, one, families = np.array([1.4, 0.6, 0.7, 0.3]), [0.7, 0.3, 0.7, 0.3], [0, 0, 2, 2]
    expected = []
    for i, text in enumerate(texts):
        left = [v - (one[j] if families[j] == families[i] else 0) for j, v in enumerate(votes)]
        similar = scs([text] * 4, texts)
        expected.append(sum(v * s for v, s in zip(left, similar, strict=True)) / sum(left))
    found = expected_scs(texts, votes, scs, one, families=families)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    alone = expected_scs(texts[:2], [0.7, 0.3], scs, [0.7, 0.3], families=[0, 0])
    np.testing.assert_allclose(alone, 0, atol=1e-3)


def test_two_that_are_joined_have_no_votes_of_their_other_wordings(scs):
    texts = ("rhyme", "Make this rhyme", "shorten it", "Shorten this", "a sad song", "an old joke")
    whole = Posterior(texts, (0.7, 0.3, 0.7, 0.3, 1.0, 1.0), (0.7, 0.3, 0.7, 0.3, 1.0, 1.0),
                      (None,) * 6, (None,) * 6, 4.0, families=(0, 0, 2, 2, 4, 5))  # fmt: skip
    parts = [("rhyme", "shorten it"), ("a sad song", "Make this rhyme")]
    made = [combined(*two) for two in parts]
    for two, text, found in zip(
        parts, made, _expected_of_combined(made, parts, whole, scs), strict=True
    ):
        kept = {whole.families[texts.index(part)] for part in two}
        others = [n for n in range(6) if whole.families[n] not in kept]
        votes = np.array([whole.votes[n] for n in others])
        similar = scs([text] * len(others), [texts[n] for n in others])
        assert found == pytest.approx(float(similar @ votes / votes.sum()), abs=1e-5)


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


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("Make it rhyme.", "For children", "Make it rhyme, for children"),
        (" make it short ", "make it sad!", "make it short, make it sad!"),
        ("Can you shorten it?", "Use plain words", "Can you shorten it? Use plain words"),
        ("Shorter", "JSON, please", "Shorter, JSON, please"),
        ("Shorter", "I need a poem", "Shorter, I need a poem"),
        ("Shorter", "A poem", "Shorter, a poem"),
        ("Shorter", "Émile's voice", "Shorter, émile's voice"),
        ("Shorter", "McDonald's advert", "Shorter, McDonald's advert"),
        ("短くする。", "詩にする", "短くする。, 詩にする"),
    ],
)
def test_two_prompts_become_one(first, second, together):
    assert combined(first, second) == together


def two_wishes():
    """Half of the votes ask for rhymes, half for children's words, and some are predicted."""
    rhymes = ["Make it rhyme", "Make it rhyme", "Make it rhyme, please"]
    children = ["Write it for children", "Write it for children", "Write this for children"]
    samples = posterior([*rhymes, *children, "Make it rhyme for children"], [-1.0] * 7)
    vector = np.zeros(384, np.float32)
    vector[3] = 1.0
    bank = Posterior.of_weights(["For young readers", "Add recipes"], [0.4, 0.6], vector, 0.2)
    return weighted_sum([(samples, 0.9), (bank, 0.1)])


def test_the_best_two_that_are_joined_come_first_where_that_is_expected_to_be_better(scs):
    mixed = two_wishes()
    plain = rank(mixed, scs)
    [found] = rank_with_combined([mixed], scs, 3)
    assert found[1:] == plain
    assert ", " in found[0].text and found[0].score > plain[0].score
    best = []  # none of which is much like a better one
    for candidate in plain:
        if not any(scs([candidate.text], [better])[0] >= 0.35 for better in best):
            best.append(candidate.text)
    assert [c.text for c in plain[:3]] != best[:3]
    best = best[:3]
    expected = {}
    for a in best:
        for b in best:
            if a == b:
                continue
            votes = dict(zip(mixed.texts, mixed.votes, strict=True))
            for part in (a, b):  # a sample does not vote for what it is a part of
                own = mixed.one_vote[mixed.texts.index(part)]
                votes[part] -= min(own, votes[part])
            text = combined(a, b)
            gained = sum(v * scs([text], [t])[0] for t, v in votes.items())
            [e] = mixed.embeddings
            gained += e.votes * scs.with_vectors([text], e.vector[None])[0, 0]
            if max(scs([text, text], [a, b])) >= 0.7:
                continue
            expected[text] = gained / (sum(votes.values()) + e.votes)
    assert found[0].text == max(expected, key=expected.__getitem__)
    assert found[0].score == pytest.approx(expected[found[0].text], rel=1e-4)
    assert found[0].log_probability is None


def test_only_the_first_part_names_the_text(scs):
    named = with_named(two_wishes(), "recipe", 0.9)
    [found] = rank_with_combined([named], scs, 6)
    first, second = found[0].text.split(", ")
    assert "this recipe" in first or "this text" in first
    assert "this recipe" not in second and "this text" not in second
    assert parts_of(found[0].text, named.texts) is not None


def test_what_only_repeats_one_of_its_parts_is_no_answer(scs):
    same = ["tell it like a story", "tell me a long story of old times"]
    assert scs([same[0]], [same[1]])[0] < 0.35 and scs([combined(*same)], [same[1]])[0] > 0.7
    votes = posterior([*same, *same], [-1.0] * 4)
    [found] = rank_with_combined([votes], scs, 2)
    assert found == rank(votes, scs)


def test_its_parts_are_found_again():
    others = ["For children", "Make it rhyme.", "Make it", "Make it rhyme, for children"]
    assert parts_of(others[3], others[:3]) == ("Make it rhyme.", "For children")
    assert parts_of(others[3], others[:1]) is None
    assert parts_of("Make it", others[:2]) is None


def test_where_all_agree_nothing_is_joined(scs):
    sure = posterior(["Make it a poem"] * 9 + ["Add three recipes"], [-1.0] * 10)
    assert rank_with_combined([sure], scs, 6) == [rank(sure, scs)]


def test_the_prompts_of_a_retriever_alone_are_not_joined(scs):
    found = Posterior.of_weights(["Make it rhyme", "Write it for children"], [0.5, 0.5])
    assert rank_with_combined([found], scs, 6) == [rank(found, scs)]


def test_fewer_than_two_texts_cannot_be_joined(scs):
    alone, blank = posterior(["Make it a poem"], [-1.0]), posterior([" "], [-1.0])
    assert rank_with_combined([alone, blank], scs, 6) == [rank(alone, scs), []]
