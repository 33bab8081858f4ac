from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.recovery.evidence.pieces import Piece, pieces, within, without, words
from tests.recovery.evidence.conftest import PAIR, TEXTS


def texts_of(parts):
    return [TEXTS[p.text][p.start : p.end] for p in parts]


def test_a_piece_ends_with_its_sentence_and_with_a_run_of_changed_words():
    parts = pieces(PAIR.original_text, PAIR.rewritten_text)
    found = texts_of(parts)
    assert "It is back by noon." in found
    assert found.count("It is back by noon.") == 2
    assert "Yer hounds sail free!" in found
    assert "Arr!" in found
    for part, text in zip(parts, found, strict=True):
        assert len(text.split()) <= 8
        assert TEXTS[part.text][part.end : part.until].strip() == ""


@pytest.mark.parametrize(
    ("original", "rewritten", "expected"),
    [
        ("a b c d e f", "a b c NEW d e f", ["a b c", "NEW", "d e f"]),
        ("u v kept too w x", "1 2 kept too 3 4", ["1 2 kept too 3 4"]),
        ("u v kept for once w x", "1 2 kept for once 3 4", ["1 2", "kept for once", "3 4"]),
    ],
)
def test_few_kept_words_within_changed_ones_count_as_changed(original, rewritten, expected):
    parts = [p for p in pieces(original, rewritten) if p.text == "rewritten"]
    assert [rewritten[p.start : p.end] for p in parts] == expected


def test_long_runs_are_divided_evenly():
    [*parts] = pieces("", " ".join(f"w{n}" for n in range(20)), longest=8)
    assert [p.end for p in parts] == [len("w0 w1 w2 w3 w4 w5"), parts[1].end, parts[2].end]
    assert [len(words(" " * p.start + "x")) for p in parts] == [1, 1, 1]


TEXT = st.text(alphabet="ab .!\n渡し，é", max_size=80)


@given(TEXT, TEXT)
def test_pieces_tile_the_words_of_both_texts(original, rewritten):
    parts = pieces(original, rewritten)
    for name, text in (("original", original), ("rewritten", rewritten)):
        own = [p for p in parts if p.text == name]
        for p in own:
            assert text[p.start : p.end].strip() == text[p.start : p.end] != ""
            assert text[p.end : p.until].strip() == ""
        for one, other in pairwise(own):
            assert one.until == other.start
        if text.strip():
            assert own[0].start == len(text) - len(text.lstrip())
            assert own[-1].until == len(text)
        assert without(text, [(0, len(text))], own, "").strip() == ""
        assert without(text, [(0, len(text))], [], "") == text


def test_only_what_is_read_is_left_out():
    parts = [Piece("original", 0, 5, 6), Piece("original", 6, 20, 20)]
    ranges = {"original": [(0, 8), (15, 20)], "rewritten": []}
    read = within(parts, ranges)
    assert read == [
        Piece("original", 0, 5, 6),
        Piece("original", 6, 8, 8),
        Piece("original", 15, 20, 20),
    ]
    text = "zero! one two three "
    assert without(text, ranges["original"], [read[0]], " … ") == "on … hree "
    assert without(text, ranges["original"], read, " … ") == " … "


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_blank_texts_have_no_pieces(text):
    assert pieces(text, text) == []
