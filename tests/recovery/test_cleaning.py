import pytest

from prompt_recovery.recovery.cleaning import clean_prompt


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Make it rhyme", "Make it rhyme"),
        ('"Make it rhyme"', "Make it rhyme"),
        ("**Make it rhyme**", "Make it rhyme"),
        ("The rewrite prompt was: Make it rhyme", "Make it rhyme"),
        ("Sure! Here is the instruction:\n\n“Make it\nrhyme”\n\nHope that helps", "Make it rhyme"),
        ("Write it as a recipe: short, spicy", "Write it as a recipe: short, spicy"),
        ("  \n ", ""),
        ('"', '"'),
    ],
)
def test_clean_prompt(raw, clean):
    assert clean_prompt(raw) == clean
