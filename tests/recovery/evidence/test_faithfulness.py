"""Curves of a reading whose quantity is known: the sum of the weights of what is left."""

import pytest

from prompt_recovery.recovery.evidence.faithfulness import (
    area,
    at_random,
    by_weight,
    curves,
    piece_weights,
)
from prompt_recovery.recovery.evidence.pieces import Piece
from prompt_recovery.recovery.spans import Span

TEXTS = {"original": "a b c d", "rewritten": "e f g h"}
PARTS = [Piece(name, n, n + 1, n + 2) for name in TEXTS for n in (0, 2, 4, 6)]
WEIGHTS = [0.0, 0.0, 4.0, 0.0, -1.0, 2.0, 0.0, 1.0]


class Summing:
    def __init__(self):
        self.asked = 0

    def values(self, variants):
        self.asked += len(variants)
        weight = dict(zip(PARTS, WEIGHTS, strict=True))
        return [sum(WEIGHTS) - sum(weight[p] for p in left_out) for left_out in variants]


def test_curves_begin_and_end_with_all_and_no_words():
    reading = Summing()
    found = curves(
        reading,
        TEXTS,
        PARTS,
        {"best": by_weight(WEIGHTS), "random": at_random(8, 0)},
        fractions=(0.25, 0.5),
    )
    assert found["best"].deletion == ((0.0, 6.0), (0.25, 0.0), (0.5, -1.0), (1.0, 0.0))
    assert found["best"].insertion == ((0.0, 0.0), (0.25, 6.0), (0.5, 7.0), (1.0, 6.0))
    for one in found.values():
        assert one.deletion[0] == (0.0, 6.0)
        assert one.insertion[-1] == (1.0, 6.0)
    assert area(found["best"].deletion) < area(found["random"].deletion)
    assert area(found["best"].insertion) > area(found["random"].insertion)
    assert reading.asked <= 2 + 2 * 2 * 2, "what two curves share is computed once"


def test_the_area_is_the_mean_height():
    assert area(((0.0, 1.0), (0.5, 1.0), (1.0, 0.0))) == pytest.approx(0.75)


def test_the_weight_of_a_piece_is_that_of_its_words():
    spans = [
        Span("original", 0, 1, 1.0),
        Span("original", 2, 3, 2.0),
        Span("rewritten", 0, 3, 3.0),
    ]
    parts = [Piece("original", 0, 3, 4), Piece("rewritten", 0, 1, 2), Piece("rewritten", 2, 7, 7)]
    assert piece_weights(parts, spans) == pytest.approx([3.0, 1.0, 1.0])


def test_random_orders_are_a_function_of_the_seed():
    assert at_random(20, 1) == at_random(20, 1)
    assert at_random(20, 1) != at_random(20, 2)
    assert sorted(at_random(20, 1)) == list(range(20))
