"""The kind of a text, as a language model names it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.recovery import kinds as kinds_of_text
from prompt_recovery.recovery.kinds import KindNamer, kind_in
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.templates import Template
from tests.trees.test_forward import tiny_model

TEXTS = ["Take two eggs.", "Dear Sir, I resign.", "Take two eggs."]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (" recipe.", "recipe"),
        (" news article about a storm.", "news article"),
        (" classic example of a magical realism short story", "magical realism short story"),
        (" continuation of a literary essay on the sea", "literary essay"),
        (" business letter, one sentence long", "business letter"),
        (" letter to the editor", "letter"),
        (" legal contract between two companies", "legal contract"),
        (" political speech or address.", "political speech"),
        (" self-help guide\nand more", "self-help guide"),
        (" children's story.", "children's story"),
        (" FAQ.", "FAQ"),
        (" passage.", None),
        (" description of a fish", None),
        ("", None),
        (" .", None),
        (" quite unusual winding old tale", None),
    ],
)
def test_the_kind_is_the_first_noun(answer, kind):
    assert kind_in(answer) == kind


@given(st.text())
def test_any_answer_is_read(answer):
    kind = kind_in(answer)
    assert kind is None or (kind == " ".join(kind.split()) and 1 <= len(kind.split()) <= 4)


class Answering(Writer):
    """Answers with its first words; a tiny model would say nothing that means anything."""

    def write_greedily(self, prompts, max_new_tokens, all_done=bool):
        ASKED.append([self.tokenizer.decode(prompt) for prompt in prompts])
        return super().write_greedily(prompts, max_new_tokens, all_done)


ASKED = []


@pytest.fixture
def writer(tokenizer):
    ASKED.clear()
    template = Template("t", "{{ original_text }} => {{ rewritten_text }}")
    return Answering(tiny_model("llama"), tokenizer, template, 60, identity="a model")


def test_each_text_is_asked_for_once(writer, monkeypatch):
    monkeypatch.setattr(kinds_of_text, "KeyValueStore", lambda *_: pytest.fail("nothing is kept"))
    namer = KindNamer(writer)
    kinds = namer(TEXTS)
    assert len(kinds) == 3 and kinds[0] == kinds[2]
    [asked] = ASKED
    assert len(asked) == 2 and all("What kind of text is this?" in prompt for prompt in asked)
    assert any("Take two eggs." in prompt for prompt in asked)
    assert all(prompt.endswith("This text is a") for prompt in asked)
    assert namer(TEXTS) == kinds and len(ASKED) == 1


def test_answers_are_kept_where_samples_are(writer):
    kinds = KindNamer(writer, keeps=True)(TEXTS)
    assert KindNamer(writer, keeps=True)(TEXTS) == kinds
    assert len(ASKED) == 1
    assert KindNamer(writer)(TEXTS) == kinds and len(ASKED) == 2, "unless it isn't wanted"


def test_unusable_texts_have_no_kind(writer):
    assert KindNamer(writer)(["", " \n", "a \ud83d b"]) == [None, None, None]
