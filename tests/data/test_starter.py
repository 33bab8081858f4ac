"""The contract of the shipped dataset."""

import re
from collections import Counter, defaultdict
from itertools import combinations

import pytest

from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import normalise, split
from prompt_recovery.preferences import read_preferences
from prompt_recovery.preferences.build import SHIPPED

CATEGORIES = set(
    "tone style persona audience format length perspective genre language_level formality "
    "purpose setting combined odd".split()
)


@pytest.fixture(scope="module")
def rows():
    return starter().examples


def words(text):
    return len(text.split())


def test_counts(rows):
    assert len(rows) >= 1500
    assert len({normalise(e.rewrite_prompt) for e in rows}) == len(rows)
    assert len({e.original_text for e in rows}) >= 180
    assert len({e.source for e in rows}) >= 35
    assert {e.category for e in rows} == CATEGORIES
    assert {e.rewriter for e in rows} == {"written for this project"}


def test_lengths(rows):
    assert all(40 <= words(e.original_text) <= 90 for e in rows)
    assert all(2 <= words(e.rewrite_prompt) <= 40 for e in rows)
    assert all(8 <= words(e.rewritten_text) <= 120 for e in rows)


def test_short_and_long_prompts(rows):
    lengths = [words(e.rewrite_prompt) for e in rows]
    assert sum(n <= 5 for n in lengths) > 30
    assert sum(n >= 14 for n in lengths) > 30


def shingles(text, size=5):
    parts = normalise(text).split()
    return {tuple(parts[i : i + size]) for i in range(len(parts) - size + 1)}


def test_no_near_duplicate_rewrites(rows):
    sets = [shingles(e.rewritten_text) for e in rows]
    holders = defaultdict(list)
    for i, own in enumerate(sets):
        for shingle in own:
            holders[shingle].append(i)
    # Two that have nothing in common need no look: there are a million pairs.
    common = Counter(pair for held in holders.values() for pair in combinations(held, 2))
    assert common
    for (i, j), count in common.items():
        a, b = sets[i], sets[j]
        if count > 0.5 * min(len(a), len(b)):
            # Rewrites of one text may both keep its words (fix the grammar, add a heading …).
            kept = shingles(rows[i].original_text)
            own_a, own_b = a - kept, b - kept
            shared = len(own_a & own_b)
            assert shared <= 0.5 * max(min(len(own_a), len(own_b)), 8), (rows[i].id, rows[j].id)


def test_no_rewrite_is_a_copy(rows):
    assert all(normalise(e.rewritten_text) != normalise(e.original_text) for e in rows)


def test_no_template_skeletons(rows):
    """No opening of four words serves more than one row in a hundred, in prompts or rewrites."""
    most = len(rows) // 100
    for column in ("rewrite_prompt", "rewritten_text"):
        openings = Counter(" ".join(normalise(getattr(e, column)).split()[:4]) for e in rows)
        assert openings.most_common(1)[0][1] <= most, (column, openings.most_common(3))
    frames = Counter(re.sub(r"\w{4,}", "_", e.rewrite_prompt.lower()) for e in rows)
    long_frames = {f: n for f, n in frames.items() if len(f.split()) >= 6}
    assert max(long_frames.values()) <= 6


@pytest.fixture(scope="module")
def full():
    return starter(full=True).examples


def test_the_full_dataset_adds_training_rows_only(rows, full):
    """Whatever was measured on the validation and test splits stays comparable."""
    before, after = split(starter()), split(starter(full=True))
    assert full[: len(rows)] == rows
    assert (after.val, after.test) == (before.val, before.test)
    assert len(before.val) == 107 and len(before.test) == 203
    assert len(before.train) == 1249 and len(after.train) >= 4000
    assert after.train[:1249] == before.train


def test_the_rows_that_are_added(rows, full):
    more = full[len(rows) :]
    assert len({normalise(e.rewrite_prompt) for e in full}) == len(full)
    assert {e.category for e in more} <= CATEGORIES
    assert {e.rewriter for e in more} == {"written for this project"}
    assert not {e.original_text for e in more} & {e.original_text for e in rows}
    assert len({e.original_text for e in more}) >= 400
    assert all(20 <= words(e.original_text) <= 220 for e in more)
    assert all(2 <= words(e.rewrite_prompt) <= 40 for e in more)
    assert all(1 <= words(e.rewritten_text) <= 300 for e in more)
    assert all(normalise(e.rewritten_text) != normalise(e.original_text) for e in more)
    for column in ("rewrite_prompt", "rewritten_text"):
        openings = Counter(" ".join(normalise(getattr(e, column)).split()[:4]) for e in more)
        assert openings.most_common(1)[0][1] <= len(more) // 100, openings.most_common(3)


def test_no_added_prompt_is_nearly_one_of_validation_or_test(rows, full):
    """No two share more than four fifths of their distinct words."""
    splits = split(starter())
    held_out = [set(normalise(e.rewrite_prompt).split()) for e in (*splits.val, *splits.test)]
    holders = defaultdict(set)
    for i, own in enumerate(held_out):
        for word in own:
            holders[word].add(i)
    for example in full[len(rows) :]:
        own = set(normalise(example.rewrite_prompt).split())
        common = Counter(i for word in own for i in holders[word])
        for i, count in common.items():
            assert count <= 0.8 * len(own | held_out[i]), example.rewrite_prompt


def test_prompts_are_disjoint_between_splits(rows):
    splits = split(starter(), val=0.06, test=0.13)
    sides = [
        {normalise(e.rewrite_prompt) for e in s} for s in (splits.train, splits.val, splits.test)
    ]
    assert all(not a & b for a, b in combinations(sides, 2))
    assert sum(map(len, sides)) == len(rows)


def test_shipped_preferences_are_of_the_training_split(scs):
    examples = {e.id: e for e in split(starter(), val=0.06, test=0.13).train}
    preferences = read_preferences(SHIPPED)
    assert len(preferences) > 1000
    assert len({p.id for p in preferences}) == len(preferences)
    for p in preferences:
        assert p.completions[0] == examples[p.id].rewrite_prompt
        assert p.scores[0] == 1
        assert 2 <= len(p.completions) == len(set(map(normalise, p.completions)))
        assert list(p.scores) == sorted(p.scores, reverse=True)
        assert examples[p.id].original_text in p.prompt[-1]["content"]
    for p in preferences[::50]:
        truths = [p.completions[0]] * len(p.completions)
        assert p.scores == pytest.approx(scs(p.completions, truths), abs=1e-4)
