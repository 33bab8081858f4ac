import math
import random
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_recovery.changes.text import measure_text
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import normalise
from prompt_recovery.detection.features import pair_features, text_features
from prompt_recovery.detection.items import edited, measured_pair, pair_items, text_items
from prompt_recovery.detection.training import at_most

TEXT = st.text(alphabet="abc .!?\n\t,;-—*'’\"1\ud800漢", max_size=80)
SMALL = measure_text("It rained, and we walked home.")


def example(n):
    original = f"The ferry number {n} leaves at dawn. It comes back at noon. Tickets cost {n}."
    return RewriteExample(str(n), original, f"Arr, ferry {n}!", f"Like a pirate, {n}")


EXAMPLES = [example(n) for n in range(80)]


@settings(max_examples=100, deadline=None)
@given(TEXT, TEXT)
def test_all_features_of_any_texts_are_finite(original, rewritten):
    found = pair_features(original, rewritten, measured_pair(original, rewritten, lambda _: SMALL))
    assert all(math.isfinite(value) for value in found.values())
    assert set(found) >= {f"rewritten_{name}" for name in text_features(rewritten, SMALL)}


def test_each_example_is_one_rewrite_and_one_original():
    items = text_items(EXAMPLES[:5], lambda _: SMALL)
    assert [item.kind for item in items] == ["original", "rewrite"] * 5
    assert [item.label for item in items] == [0, 1] * 5
    assert items[0].group == normalise(EXAMPLES[0].original_text)


def test_half_of_the_other_pairs_are_reversed():
    items = pair_items(EXAMPLES, lambda _: SMALL)
    kinds = Counter(item.kind for item in items)
    assert kinds["rewrite"] == 80
    assert 28 <= kinds["reversed"] <= 52
    assert min(kinds["unrelated"], kinds["edited"]) >= 8
    again = pair_items([*EXAMPLES], lambda _: SMALL)
    assert [item.features for item in again] == [item.features for item in items]
    for item in items:
        if item.kind == "unrelated":
            assert item.features["words_kept"] < 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_a_mechanical_edit_writes_no_new_words(seed):
    text = EXAMPLES[0].original_text
    found = edited(text, random.Random(seed))
    assert found
    known = set(text.split())
    assert sum(word not in known for word in found.split()) <= len(text.split()) * 0.5


def test_few_examples_of_each_original_are_taken():
    twice = [replace(e, id=f"{e.id}-{k}") for e in EXAMPLES[:4] for k in range(5)]
    kept = at_most(twice, 2)
    assert [e.id for e in kept] == [f"{n}-{k}" for n in range(4) for k in range(2)]
