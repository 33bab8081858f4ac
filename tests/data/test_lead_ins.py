import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.data.lead_ins import lead_in, with_lead_ins
from prompt_recovery.data.sources import starter
from prompt_recovery.errors import PromptRecoveryError


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("Rewrite this as a limerick.", ["as a limerick:"]),
        ("can you turn it into a haiku?", ["into a haiku:"]),
        ("Make it sound upbeat", ["an upbeat version of the text:"]),
        ("Write a eulogy for the boat", ["a eulogy for the boat:"]),
        ("please narrate it like a film", ["narrate it like a film. ", "narrate it like a film!"]),
        ("TL;DR", ['"TL;DR"', "TL;DR:"]),
    ],
)
def test_an_instruction_is_restated_in_words_that_fit_its_form(prompt, parts):
    said = [lead_in(prompt, random.Random(seed)) for seed in range(60)]
    restated = [text for text in said if any(part in text for part in parts)]
    assert 30 < len(restated) < 54  # 70 %; the others don't give it away
    assert all(text[0].isupper() and text[-1] in ":!." for text in said)


@given(prompt=st.text(), seed=st.integers())
def test_any_prompt_gets_one(prompt, seed):
    assert lead_in(prompt, random.Random(seed)).strip()


def test_a_share_of_rewrites_begins_with_one_and_nothing_else_changes():
    examples = starter().examples
    some, more = with_lead_ins(examples, 0.3), with_lead_ins(examples, 0.6)
    changed = 0
    for old, new, also in zip(examples, some, more, strict=True):
        assert new.rewritten_text.endswith(old.rewritten_text)
        assert (new.id, new.original_text, new.rewrite_prompt) == (
            old.id, old.original_text, old.rewrite_prompt
        )  # fmt: skip
        changed += new != old
        assert new in (old, also)  # a larger share keeps what a smaller one has
    assert 0.26 < changed / len(examples) < 0.34
    assert with_lead_ins(list(reversed(examples)), 0.3) == list(reversed(some))
    assert with_lead_ins(examples, 0) == examples
    with pytest.raises(PromptRecoveryError, match="lead_ins=1.5"):
        with_lead_ins(examples, 1.5)
