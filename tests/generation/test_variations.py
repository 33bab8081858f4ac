"""Reworded instructions: cleaned, distinct, of their parent's family."""

import pytest

from prompt_recovery.generation.instructions import Instruction
from prompt_recovery.generation.variations import reworded, variations
from prompt_recovery.rewriters.base import Answer
from tests.generation.scripted import Scripted

INSTRUCTIONS = [
    Instruction("Make it rhyme", "poetry", "bank"),
    Instruction("Shorten this", "brevity", "bank"),
]


def test_variations_keep_order_and_family():
    rewriter = Scripted(lambda content, seed: f'"Do: {content.splitlines()[-1]} ({seed})"')
    made = variations(rewriter, INSTRUCTIONS, 3, seed=0)
    assert [i.family for i in made] == ["poetry"] * 3 + ["brevity"] * 3
    assert all(i.source == "variation" and i.text[0] != '"' for i in made)
    assert "Make it rhyme" in made[0].text and "Shorten this" in made[3].text


def test_requests_are_reproducible_and_of_several_ways():
    def asked(seed):
        rewriter = Scripted(lambda *_: "")
        variations(rewriter, INSTRUCTIONS, 4, seed)
        return rewriter.asked

    assert asked(1) == asked(1)
    assert len(set(asked(1))) == 8 == len({content for content, _ in asked(1)})
    assert not set(asked(1)) & set(asked(2))


def test_repetitions_are_left_out():
    said = {"rhyme": "make it RHYME!", "Shorten": "Cut it down"}
    rewriter = Scripted(lambda content, _: next(v for k, v in said.items() if k in content))
    made = variations(rewriter, INSTRUCTIONS, 5, seed=0)
    assert made == [Instruction("Cut it down", "brevity", "variation")]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Turn it into verse.", "Turn it into verse."),
        ('New request: "Turn it into verse."\n\nI hope this helps!', "Turn it into verse."),
        (Answer("", error="timeout"), ""),
        (Answer("Turn it into", finished=False), ""),
        ("I'm sorry, but I cannot help with that request.", ""),
        ("No", ""),
        ("word " * 41, ""),
        ("Turn it into \ufffd", ""),
        ("Dear Editor,", ""),
        ("The request asks for a poem.", ""),
        ("Write instructions in verse", "Write instructions in verse"),
    ],
)
def test_what_is_an_instruction(answer, expected):
    answer = answer if isinstance(answer, Answer) else Answer(answer)
    assert reworded(answer, "Make instructions rhyme") == expected


def test_answers_of_the_examples_are_no_variations():
    def parrot(chat):
        return chat[1]["content"]

    rewriter = Scripted(lambda *_: "")
    variations(rewriter, INSTRUCTIONS, 6, seed=0)
    told = {parrot(chat) for chat in rewriter.chats}
    assert len(told) == 6  # one example for every way
    for text in told:
        assert variations(Scripted(lambda *_, text=text: text), INSTRUCTIONS, 1, seed=0) == []


@pytest.mark.embedded
def test_answers_that_have_nothing_to_do_with_it_are_left_out(scs):
    said = {"rhyme": "The train to the coast is late", "Shorten": "Could you make this shorter?"}
    rewriter = Scripted(
        lambda content, _: next(v for k, v in said.items() if k in content.split("\n\n")[-1])
    )
    made = variations(rewriter, INSTRUCTIONS, 1, seed=0, scs=scs)
    assert [i.text for i in made] == ["Could you make this shorter?"]
    assert len(variations(rewriter, INSTRUCTIONS, 1, seed=0)) == 2
    assert variations(Scripted(lambda *_: ""), INSTRUCTIONS, 1, seed=0, scs=scs) == []
