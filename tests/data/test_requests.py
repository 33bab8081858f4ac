import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.data.requests import plain_request

POLITE = ["please", "Could you", "can we", "I'd like you to", "just"]


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("Could you make it rhyme, please?", "make it rhyme"),
        ("make it\nrhyme!", "make it rhyme"),
        ("please, would you just shorten this. Thank you", "shorten this"),
        ("a pleasing tone", "a pleasing tone"),
        ("justify each step", "justify each step"),
        ("please", "please"),
        (" ", ""),
    ],
)
def test_polite_words_and_marks_are_removed(prompt: str, plain: str) -> None:
    assert plain_request(prompt) == plain


@given(st.lists(st.sampled_from(POLITE), max_size=4), st.sampled_from(["", ".", "?!", ", please"]))
def test_any_number_of_polite_words_is_removed(before: list[str], after: str) -> None:
    assert plain_request(" ".join([*before, "make it rhyme"]) + after) == "make it rhyme"


@given(st.text(max_size=60))
def test_a_plain_request_stays_as_it_is(text: str) -> None:
    assert plain_request(plain_request(text)) == plain_request(text)
