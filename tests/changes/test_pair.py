import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prompt_recovery as pr
from prompt_recovery.changes.pair import measures, words_kept
from prompt_recovery.changes.shown import measures_html, measures_table
from prompt_recovery.changes.text import measure_text
from prompt_recovery.errors import PromptRecoveryError

SOBER = (
    "The committee approved the annual budget of the library. The report of the treasurer was "
    "accepted without discussion, and the meeting of the members closed at noon."
)
CHATTY = (
    "# Woohoo!\n\n**What we got**\n\n- We really, really love you all! 🎉\n- You just rock, "
    "wow, and we're so happy! 😀\n"
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="ab*-#`[]()<>&/\\'’\"•\n\t 1.!?😀\ud800\x00é漢", max_size=60),
)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_any_two_strings_have_finite_measures(original, rewritten):
    found = measures(original, rewritten)
    numbers = [value for value in found.values.values() if not isinstance(value, str)]
    assert len(numbers) == 19
    assert all(math.isfinite(number) for number in numbers)
    assert 0 <= found.words_kept <= 1
    for one in (found.original, found.rewritten):
        assert 0 <= one.reading_level <= 30
        assert -1 <= one.sentiment <= 1
        assert 0 <= one.formality <= 100
    assert "<script" not in measures_html(found)


def test_each_measure_tells_two_texts_apart():
    found = measures(SOBER, CHATTY)
    assert found.formality_shift < -15
    assert found.sentiment_shift > 0.3
    assert found.reading_level_shift < -3
    assert found.length_ratio == pytest.approx(found.rewritten.words / found.original.words)
    assert (found.original.list_items, found.rewritten.list_items) == (0, 2)
    assert (found.original.headings, found.rewritten.headings) == (0, 2)
    assert (found.original.emoji, found.rewritten.emoji) == (0, 2)
    assert found.original.language == "english"


def test_long_texts_are_compared_in_their_whole_length():
    found = measures("It rained. " * 4000, "It rained. " * 2000)
    assert (found.original.words, found.rewritten.words) == (8000, 4000)
    assert found.length_ratio == 0.5


def test_the_person_and_the_tense_are_those_of_most_words():
    assert measure_text("We walked home and I cooked for us.").person == "first"
    assert measure_text("You should bring your coat; it rained.").person == "second"
    assert measure_text("She told him that they had left.").person == "third"
    assert measure_text("Rain in Spain.").person == "none"
    assert measure_text("We walked home, and the dog barked.").tense == "past"
    assert measure_text("He walks home while she sings.").tense == "present"
    assert measure_text("We will walk, and they will sing.").tense == "future"


def test_words_are_kept_whatever_their_case_and_punctuation():
    assert words_kept("It rained, and rained.", "it RAINED and rained") == 1
    assert words_kept("one two three four", "one three five") == 0.5
    assert words_kept("", "anything") == 0


def test_the_table_has_formatting_only_where_a_text_has_some():
    rows = [row[0] for row in measures_table(measures(SOBER, SOBER)).rows]
    assert "emoji" not in rows and "headings" not in rows
    rows = [row[0] for row in measures_table(measures(SOBER, CHATTY)).rows]
    assert {"emoji", "headings", "list items"} <= set(rows)


def test_without_its_libraries_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "textstat", None)
    with pytest.raises(PromptRecoveryError, match=r"texts needs textstat: pip .*\[measures\]'"):
        pr.measures("a", "b")
