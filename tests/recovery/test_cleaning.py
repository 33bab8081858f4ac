import pytest

from prompt_recovery.recovery.cleaning import clean_prompt


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Make it rhyme", "Make it rhyme"),
        ('"Make it rhyme"', "Make it rhyme"),
        ("**Make it rhyme**", "Make it rhyme"),
        ("“Make it” a “poem”",) * 2,
        ('"Make it" a "poem"',) * 2,
        ("**Short** and **sweet**",) * 2,
        ('"Say "hi" twice"', 'Say "hi" twice'),
        ("'Don't rhyme'", "Don't rhyme"),
        ("“Call it “a poem””", "Call it “a poem”"),
        ("The rewrite prompt was: Make it rhyme", "Make it rhyme"),
        ("Sure! Here is the instruction:\n\n“Make it\nrhyme”\n\nHope that helps", "Make it rhyme"),
        ("Write it as a recipe: short, spicy", "Write it as a recipe: short, spicy"),
        ("**Prompt:** Make it rhyme", "Make it rhyme"),
        ("**Rewrite prompt**: Make it rhyme", "Make it rhyme"),
        ("The original prompt used to rewrite the text was: Make it rhyme", "Make it rhyme"),
        ("The user's request was: Make it rhyme", "Make it rhyme"),
        ("The most likely instruction is: Make it rhyme", "Make it rhyme"),
        ("Turn it into a request for a refund: polite but firm",) * 2,
        ("Rewrite the instruction manual for kids: short words, please",) * 2,
        ("Write a prompt payment reminder: keep it friendly",) * 2,
        ("Turn this into instructions: one per line",) * 2,
        ("A request for help: humble",) * 2,
        ("the " * 5000 + "prompt", ("the " * 5000 + "prompt")),
        ("Make it rhyme" + "\n" * 30_000 + "x", "Make it rhyme"),
        ("<think>\nWhat could it be?\n\nHm.</think>\n\nMake it rhyme", "Make it rhyme"),
        ("What could it be?\n\nHm.</think>\n\nMake it rhyme", "Make it rhyme"),
        ("<think>What could it be?\n\nHm.", ""),
        ("  \n ", ""),
        ('"', '"'),
    ],
)
def test_clean_prompt(raw, clean):
    assert clean_prompt(raw) == clean
