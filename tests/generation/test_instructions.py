"""The bank is large and varied, and everybody gets a fair share of it."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import normalise, split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.instructions import (
    Instruction,
    assign,
    compose,
    near_held_out,
    read_bank,
    read_parts,
    starter_instructions,
    without_near_duplicates,
)
from prompt_recovery.metrics.scs import SCS


def test_the_bank_is_large_varied_and_distinct():
    bank = read_bank()
    families = Counter(i.family for i in bank)
    lengths = [len(i.text.split()) for i in bank]
    assert len(bank) >= 1_200
    assert len(families) >= 30 and min(families.values()) >= 10
    assert len({normalise(i.text) for i in bank}) == len(bank)
    assert min(lengths) >= 2 and max(lengths) <= 40 and sum(n > 20 for n in lengths) >= 30
    assert {i.source for i in bank} == {"bank"}
    assert not any(i.text != i.text.strip() or "\n" in i.text or "{" in i.text for i in bank)
    # No way of beginning rules the bank.
    assert max(Counter(i.text.split()[0] for i in bank).values()) < 0.15 * len(bank)


@pytest.mark.embedded
def test_no_two_of_the_bank_mean_the_same(scs):
    bank = read_bank()
    assert without_near_duplicates(bank, scs, 0.9) == (bank, [])


def test_the_bank_holds_no_prompt_of_the_starter_dataset():
    prompts = {normalise(e.rewrite_prompt) for e in starter().examples}
    assert prompts.isdisjoint(normalise(i.text) for i in read_bank())


def test_prompts_of_the_starter_leave_out_what_is_near_its_test(scs):
    found = [i.text for i in starter_instructions(scs)]
    train = [e.rewrite_prompt for e in split(starter(full=True)).train]
    assert len(found) > 4700 and set(found) < set(train)
    assert not any(near_held_out(found, scs))
    lost = sorted(set(train) - set(found))
    assert all(near_held_out(lost, scs)) and len(lost) < 50


def test_what_nearly_equals_a_held_out_prompt_is_told(scs):
    held = split(starter()).test[0].rewrite_prompt
    assert near_held_out([held, f" {held.upper()}!!", "Name three rivers of Bolivia"], scs) == [
        True, True, False
    ]  # fmt: skip


def test_instructions_from_a_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('text,family\n"Sing, please",music\nHum it,\n')
    assert read_bank(path) == [
        Instruction("Sing, please", "music", "file"),
        Instruction("Hum it", "other", "file"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}', r"a\.jsonl, row 1: column 'text' is missing \(columns here: prompt\)"),
        ('{"text": " "}', r"a\.jsonl, row 1: column 'text' is empty; correct or remove the row"),
        ("", r"a\.jsonl: is empty; give a file with rows"),
    ],
)
def test_bad_files_of_instructions(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(PromptRecoveryError, match=message):
        read_bank(path)
    with pytest.raises(PromptRecoveryError, match=r"none\.csv: no such file"):
        read_bank(tmp_path / "none.csv")


def test_composed_instructions_are_distinct_and_reproducible():
    composed = compose(3_000, seed=5)
    assert len({normalise(i.text) for i in composed}) == 3_000
    assert compose(3_000, seed=5) == composed
    assert compose(50, seed=5) == composed[:50]
    assert compose(0, seed=5) == []
    assert not {i.text for i in compose(50, seed=6)} & {i.text for i in composed[:50]}


def test_composed_instructions_say_what_they_are_made_of():
    formats, tones = read_parts("formats"), read_parts("tones")
    composed = compose(500, seed=0)
    for instruction in composed:
        assert any(f in instruction.text for f in formats) == ("format" in instruction.family)
        assert not any(brace in instruction.text for brace in "{}")
        assert instruction.text[0].isupper() and instruction.source == "composed"
    assert any("tone" in i.family and any(t in i.text for t in tones) for i in composed)
    assert len({i.family for i in composed}) >= 10


@pytest.mark.parametrize("kind", ["formats", "tones", "personas", "forms"])
def test_the_articles_of_parts_are_right(kind):
    for part in read_parts(kind):
        if part.startswith(("a ", "an ")):
            article, word = part.split()[:2]
            spoken_vowel = word[0] in "aeiouAEIOU" and not word.startswith(
                ("user", "one", "used", "eu")
            )
            assert (article == "an") == spoken_vowel, part


class _Words:
    """Embeddings with one axis a word: texts are near when they share words."""

    identity = "words"

    def embed(self, texts):
        words = sorted({w for t in texts for w in t.split()})
        rows = np.array([[w in t.split() for w in words] for t in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _of(*texts):
    return [Instruction(text, "f", "file") for text in texts]


def test_near_duplicates_go_and_name_their_nearest():
    instructions = _of("a b c d", "a b c e", "x y", "a b c d", "y x", "a b c d e")
    kept, dropped = without_near_duplicates(instructions, SCS(_Words()), 0.6)
    assert [i.text for i in kept] == ["a b c d", "a b c e", "x y"]  # cosine 0.75, SCS 0.42
    assert [(i.text, twin.text) for i, twin in dropped] == [
        ("a b c d", "a b c d"),
        ("y x", "x y"),
        ("a b c d e", "a b c d"),
    ]
    assert without_near_duplicates([], SCS(_Words()), 0.6) == ([], [])


def test_near_duplicates_across_blocks_agree_with_one_by_one_search(monkeypatch):
    monkeypatch.setattr("prompt_recovery.generation.instructions._BLOCK", 7)
    rng = np.random.default_rng(0)
    instructions = _of(*(" ".join(rng.choice(list("abcdefgh"), 4)) for _ in range(120)))
    scs = SCS(_Words())
    matrix = scs.matrix([i.text for i in instructions], [i.text for i in instructions])
    kept, twins = [], {}
    for row in range(len(instructions)):
        near = [other for other in kept if matrix[row, other] > 0.5]
        if near:
            twins[row] = max(near, key=lambda other: matrix[row, other])
        else:
            kept.append(row)
    stay, dropped = without_near_duplicates(instructions, scs, 0.5)
    assert stay == [instructions[i] for i in kept]
    assert dropped == [(instructions[i], instructions[t]) for i, t in twins.items()]
    assert len(kept) > 20 and len(dropped) > 20


@st.composite
def banks(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    made = [Instruction(f"{f}-{n}", f"f{f}", "file") for f, size in enumerate(sizes)
            for n in range(size)]  # fmt: skip
    return draw(st.permutations(made))


@settings(max_examples=60, deadline=None)
@given(banks(), st.integers(0, 120), st.integers(0, 5))
def test_assignment_is_balanced(bank, count, seed):
    chosen = [bank[i] for i in assign(bank, count, seed)]
    assert len(chosen) == count
    families = {i.family for i in bank}
    used = Counter(i.family for i in chosen)
    assert max(used.values(), default=0) - min(used[f] for f in families) <= 1
    for family in families:
        each = Counter(i.text for i in chosen if i.family == family)
        counts = [each[i.text] for i in bank if i.family == family]
        assert max(counts) - min(counts) <= 1
    for start in range(0, count - len(families) + 1, len(families)):
        assert {i.family for i in chosen[start : start + len(families)]} == families


@settings(max_examples=40, deadline=None)
@given(banks(), st.integers(0, 60), st.integers(0, 60), st.randoms(use_true_random=False))
def test_assignment_is_pure_and_heeds_neither_count_nor_order(bank, count, more, random):
    chosen = [bank[i] for i in assign(bank, count, 3)]
    assert [bank[i] for i in assign(bank, count + more, 3)][:count] == chosen
    shuffled = random.sample(bank, len(bank))
    assert [shuffled[i] for i in assign(shuffled, count, 3)] == chosen


def test_seeds_differ_and_nothing_cannot_be_assigned():
    bank = read_bank()
    assert assign(bank, 50, 0) != assign(bank, 50, 1)
    with pytest.raises(PromptRecoveryError, match="no instructions to assign"):
        assign([], 3, 0)


def test_the_files_of_the_bank_are_plain_json_lines():
    from importlib import resources

    folder = resources.files("prompt_recovery.generation") / "bank"
    files = [f for f in folder.iterdir() if f.name.endswith(".jsonl")]
    rows = [json.loads(line) for f in files for line in f.read_text("utf-8").splitlines()]
    assert all(set(row) == {"text", "family"} for row in rows)
