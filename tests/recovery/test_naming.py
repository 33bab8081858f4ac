"""Prompts that name the text, and the recoverers that answer with them."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.recovery import MBR, Greedy, Pair
from prompt_recovery.recovery.joining import Joining
from prompt_recovery.recovery.naming import is_reworded, reworded, with_named
from prompt_recovery.recovery.posterior import Completion, Posterior
from prompt_recovery.recovery.recoverer import PosteriorRecoverer


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("make it rhyme, please", "Make this recipe rhyme"),
        ("Turn this into a limerick.", "Turn this recipe into a limerick"),
        ("put the text into verse", "Put this recipe into verse"),
        ("can you make this shorter?", "Make this recipe shorter"),
        ("make everything sadder", "Make this recipe sadder"),
        ("make this a pitch for investors", "Make this recipe a pitch for investors"),
        ("as a haiku pls", "Rewrite this recipe as a haiku"),
        ("write as a poem", "Rewrite this recipe as a poem"),
        ("write it as a poem", "Rewrite this recipe as a poem"),
        ("Summarise in one line", "Summarise this recipe in one line"),
        ("summarize", "Summarize this recipe"),
        ("two sentences only", "Rewrite this recipe as two sentences only"),
        ("More formal", "Make this recipe more formal"),
        ("use simpler words", "Rewrite this recipe using simpler words"),
        ("a letter from I. Newton", "Rewrite this recipe as a letter from I. Newton"),
        ("what would it say", "What would this recipe say"),
        ("boil it down to a line", "Boil this recipe down to a line"),
        ("FAQ format", "Rewrite this recipe: FAQ format"),
        ("Haiku version", "Rewrite this recipe: haiku version"),
        ("turn this email into a song", "Turn this recipe into a song"),
        ("make this letter angrier", "Make this recipe angrier"),
        ("boil this report down to a line", "Boil this recipe down to a line"),
        ("write the letter that she sends", "Rewrite this recipe: write the letter that she sends"),
        ("so that it rhymes", "Rewrite this recipe so that it rhymes"),
    ],
)
def test_requests_name_the_text(prompt, expected):
    assert reworded(prompt, "recipe") == expected


@given(st.text())
def test_any_prompt_is_reworded_to_one_line_or_not_at_all(prompt):
    said = reworded(prompt, "recipe")
    assert said is None or ("recipe" in said and said == " ".join(said.split()))


@pytest.mark.parametrize(
    "prompt", [" \n", "?!", "make this recipe rhyme", "put the Recipe in verse"]
)
def test_nothing_is_left_to_name(prompt):
    assert reworded(prompt, "recipe") is None


def test_rewordings_are_recognised():
    others = ["a limerick", "make it rhyme, please", "haiku version"]
    for text in ("Make this news article rhyme", "Rewrite this text: haiku version"):
        assert is_reworded(text, others), text
    for text in ("make it rhyme", "Make this rhyme", "haiku version", "", "Make this recipe sad"):
        assert not is_reworded(text, [*others, ""]), text


def completions(*texts):
    return Posterior.of_completions([Completion(t, t, -2.0, -1.0) for t in texts])


def test_a_text_shares_its_votes_with_its_rewordings():
    posterior = completions("make it rhyme", "make it rhyme", "as a haiku")
    named = with_named(posterior, "recipe", 0.5)
    votes = dict(zip(named.texts, named.votes, strict=True))
    assert votes == pytest.approx(
        {
            "make it rhyme": 1.0,
            "Make this recipe rhyme": 0.5,
            "Make this text rhyme": 0.5,
            "as a haiku": 0.5,
            "Rewrite this recipe as a haiku": 0.25,
            "Rewrite this text as a haiku": 0.25,
        }
    )
    assert sum(named.votes) == pytest.approx(sum(posterior.votes))
    ones = dict(zip(named.texts, named.one_vote, strict=True))
    assert ones["make it rhyme"] == 0.5 and ones["Make this recipe rhyme"] == 0.25
    known = dict(zip(named.texts, named.log_probabilities, strict=True))
    assert known["make it rhyme"] == -2.0 and known["Make this text rhyme"] is None
    assert named.size == posterior.size
    family = dict(zip(named.texts, named.families, strict=True))
    assert family["make it rhyme"] == family["Make this recipe rhyme"] != family["as a haiku"]
    assert named.scaled(2.0).families == named.families


def test_familiar_pairs_and_unknown_kinds():
    posterior = completions("make it rhyme")
    assert with_named(posterior, "recipe", 0.5, trust=1.0) is posterior
    assert with_named(posterior, "recipe", 0.0) is posterior
    assert with_named(posterior, "recipe", 0.5, trust=0.5) is posterior
    half = with_named(posterior, "recipe", 0.5, trust=0.25)
    assert half.votes == pytest.approx((0.75, 0.125, 0.125))
    unknown = with_named(posterior, None, 0.5)
    assert unknown.texts == ("make it rhyme", "Make this text rhyme")
    assert unknown.votes == pytest.approx((0.5, 0.5))


def test_what_is_worded_like_this_already_keeps_its_votes():
    posterior = completions("Make this recipe rhyme", "make it rhyme")
    named = with_named(posterior, "recipe", 0.5)
    votes = dict(zip(named.texts, named.votes, strict=True))
    assert votes["Make this recipe rhyme"] == pytest.approx(1.25)
    assert sum(named.votes) == pytest.approx(2.0)


def test_prompts_in_other_languages_stay_as_they_are():
    german = ["Mach daraus ein Gedicht", "in Reimform", "kürzer bitte", "als Märchen",
              "wie ein Pirat", "Übersetze ins Englische", "etwas lustiger"]  # fmt: skip
    posterior = completions(*german)
    assert with_named(posterior, "Rezept", 0.5) is posterior
    english = completions("make it rhyme", "Haiku version", "FAQ format", "as a poem")
    assert len(with_named(english, "recipe", 0.5).texts) == 12


@given(
    st.lists(st.text() | st.just("make it rhyme"), min_size=1, max_size=5),
    st.none() | st.sampled_from(["recipe", "text"]),
    st.just(0.0) | st.floats(0.01, 0.99),
    st.sampled_from([0.0, 0.2, 0.45, 0.5, 1.0]),
)
def test_votes_only_move(texts, kind, share, trust):
    posterior = completions(*texts)
    named = with_named(posterior, kind, share, trust)
    assert sum(named.votes) == pytest.approx(sum(posterior.votes))
    assert min(named.votes, default=1) > 0 and len(set(named.texts)) == len(named.texts)
    assert all(one <= vote + 1e-9 for one, vote in zip(named.one_vote, named.votes, strict=True))


class Source:
    """Knows how familiar each pair is; its prompts are those of people who write "it"."""

    name = "source"

    def posteriors(self, pairs, decoding, progress=lambda _: None):
        return {
            n: dataclasses.replace(
                completions("make it rhyme", "as a poem", "as a song"),
                familiarity=0.0 if pair.id == "far" else 1.0,
            )
            for n, pair in enumerate(pairs)
        }


def test_a_recoverer_names_the_text_of_unfamiliar_pairs(scs):
    joining = Joining((1.0,), (1.0,))
    recoverer = PosteriorRecoverer(
        [(Source(), 1.0)], MBR(), "fallback", scs, joining=joining, named=0.9
    )
    asked = []

    def kinds(texts):
        asked.extend(texts)
        return ["recipe" for _ in texts]

    recoverer._namer = kinds
    pairs = [Pair("far", "Take two eggs.", "Eggs"), Pair("near", "Take three eggs.", "Eggs")]
    far, near = recoverer.recover(pairs)
    assert asked == ["Take two eggs."], "the kinds of familiar texts are not needed"
    assert "this recipe" in {c.text: c for c in far.candidates}["Make this recipe rhyme"].text
    assert all("this recipe" not in c.text for c in near.candidates)
    assert far.rewrite_prompt.startswith(("Make this", "Rewrite this"))
    assert "kinds of text" in recoverer.seconds

    greedy = recoverer.recover(pairs[:1], decoding=Greedy())[0]
    assert all("this recipe" not in c.text for c in greedy.candidates)
    for other in ({"named": 0.0}, {"joining": None}):
        plain = dataclasses.replace(recoverer, **other).recover(pairs[:1])[0]
        assert all("this recipe" not in c.text for c in plain.candidates), other


def test_without_a_language_model_it_is_a_text(scs):
    recoverer = PosteriorRecoverer(
        [(Source(), 1.0)], MBR(), "fallback", scs, joining=Joining((1.0,), (1.0,))
    )
    [answer] = recoverer.recover([Pair("far", "Take two eggs.", "Eggs")])
    assert "Make this text rhyme" in [c.text for c in answer.candidates]
