import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.data.lead_ins import lead_in
from prompt_recovery.recovery.decoding import MBR, Greedy
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.stated import stated_prompts, with_stated

SAID = "Sure, here is the text as a limerick:\n\nThere once was a ferry"


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ("Sure, here is the text in the style of a brief:", "Rewrite this in the style of a brief"),
        ("Certainly! Here is a rewritten version for a child:", "Rewrite this for a child"),
        ("Here is a possible rephrased version of your letter as a rap:", "Rewrite this as a rap"),
        ("Of course! Here is a more formal version:", "Make this more formal"),
        ("Here's a version that is shorter and clearer:", "Make this shorter and clearer"),
        ("Here's a version of it that avoids puns:", "Rewrite this so that it avoids puns"),
        ("Sure, here it is in the future tense:", "Rewrite this in the future tense"),
        ("Absolutely! Here's your haiku!", "Turn this into a haiku"),
        ("Below is a press release you could use:", "Turn this into a press release"),
        ("Sure! A riddle for your guests:", "Turn this into a riddle for your guests"),
        ("Here are the steps:", "Turn this into steps"),
        ("Of course, the minutes, retold as a myth:", "Rewrite this as a myth"),
        ("Here's how an old sailor might put it:", "Rewrite this as an old sailor would put it"),
        ("I'd be happy to simplify the given text! Here's my attempt:", "Simplify this"),
        ("**Here is the text, rewritten in plain English:**", "Rewrite this in plain English"),
    ],
)  # fmt: skip
def test_a_lead_in_states_the_prompt(line, prompt):
    assert stated_prompts(f"{line}\n\nThe rest: it goes on.")[0] == prompt


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "The ferry leaves at dawn.",
        "Here is where we used to live, in a house by the sea.",
        "Here is the rewritten text:\n\nThe ferry",
        "Certainly! Here it is:",
        "Sure, here is a rewritten version of the text using the given prompt:",
        "Certainly! Here is my attempt:",
        "I'd be happy to help you with that! Here is the result:",
        "I can see the ferry. It is late:",
        "To my son:\n\nHere is the text as a poem:",
        "Here is " + "a very " * 80 + "long text as a poem:",
    ],
)
def test_other_texts_state_nothing(text):
    assert stated_prompts(text) == []


def test_lead_ins_as_they_are_made_for_training_are_read():
    prompts = ["Rewrite it as a limerick", "make it sound more formal", "Turn this into a letter"]
    for seed in range(30):
        for prompt in prompts:
            said = lead_in(prompt, random.Random(seed))
            thing = prompt.split()[-1]
            read = stated_prompts(f"{said}\n\nOnce")
            assert any(thing in p for p in read) == (thing in said), said


@given(st.text())
def test_any_text_is_read_and_prompts_are_lines(text):
    for said in (text, f"Sure, here is {text}:", f"I'd be happy to {text}! Here it is:"):
        for prompt in stated_prompts(said):
            assert prompt.strip() == prompt and prompt and "\n" not in prompt


def test_what_is_stated_has_its_share_of_the_votes():
    posterior = Posterior.of_texts(["a", "a", "b"])
    joined = with_stated(posterior, SAID, 0.25)
    weights = dict(zip(joined.texts, joined.weights, strict=True))
    assert weights["a"] == pytest.approx(0.5) and weights["b"] == pytest.approx(0.25)
    assert sum(weights[prompt] for prompt in stated_prompts(SAID)) == pytest.approx(0.25)
    familiar = with_stated(posterior, SAID, 0.25, trust=1.0)
    assert familiar.weights[-1] == pytest.approx(0.025), "the sources know such pairs"
    assert with_stated(posterior, SAID, 0.0) is posterior
    assert with_stated(posterior, "The ferry", 0.25) is posterior


class Source:
    name = "source"

    def posteriors(self, pairs, decoding, progress=lambda _: None):
        return {n: Posterior.of_weights(["translate it"], [1.0]) for n in range(len(pairs))}


def test_a_recoverer_answers_with_what_is_stated(scs):
    pairs = [Pair("1", "The ferry leaves.", SAID), Pair("2", "The ferry leaves.", "The ferry")]
    recoverer = PosteriorRecoverer([(Source(), 1.0)], MBR(), "fallback", scs, stated=0.6)
    first, second = recoverer.recover(pairs)
    assert "as a limerick" in first.rewrite_prompt
    assert second.rewrite_prompt == "translate it"
    assert recoverer.recover(pairs[:1], decoding=Greedy())[0].rewrite_prompt == "translate it"
    recoverer.stated = 0.0
    assert recoverer.recover(pairs)[0].rewrite_prompt == "translate it"
    assert np.isfinite([c.score for c in first.candidates]).all()
