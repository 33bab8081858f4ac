import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_recovery.data.examples import Dataset, RewriteExample
from prompt_recovery.data.splits import normalise, split
from prompt_recovery.errors import PromptRecoveryError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Réécris comme poète", "Réécris comme poète"),
        ("Ça, c’est l’été!", unicodedata.normalize("NFD", "ça c’est L’ÉTÉ")),
        ("한국어로 써라", unicodedata.normalize("NFD", "한국어로 써라")),
        ("İSTANBUL", unicodedata.normalize("NFD", "İstanbul")),
        ("…É?", unicodedata.normalize("NFD", "é")),
        ("❤️ love", "love"),
    ],
)
def test_forms_of_one_text_are_equal(one, other):
    assert normalise(one) == normalise(other) == normalise(normalise(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("इसे दान के बारे में लिखो", "इसे दीन के बोरी मा लोखि"),
        ("दीन", "दान"),
        ("กิน", "กัน"),
        ("שָׁלוֹם", "שלום"),
        ("résumé", "resume"),
        ("👍", "👎"),
    ],
)
def test_marks_belong_to_letters(one, other):
    assert normalise(one) != normalise(other)
    assert not any(unicodedata.category(word[0])[0] == "M" for word in normalise(one).split())


def test_forms_of_one_prompt_stand_on_one_side_of_a_split():
    prompts = [f"Réécris le texte comme élève {n}" for n in range(30)]
    rows = [
        RewriteExample(f"{form}{n}", f"text {n} {form}", "r", unicodedata.normalize(form, prompt))
        for n, prompt in enumerate(prompts)
        for form in ("NFC", "NFD")
    ]
    splits = split(Dataset("d", rows), val=0.2, test=0.2)
    for side in (splits.train, splits.val, splits.test):
        assert {e.id[3:] for e in side if e.id[:3] == "NFC"} == {
            e.id[3:] for e in side if e.id[:3] == "NFD"
        }


def make(pairs):
    return Dataset(
        "d",
        [
            RewriteExample(str(n), f"text {text}", "r", f"prompt {prompt}")
            for n, (text, prompt) in enumerate(pairs)
        ],
    )


def ids(splits):
    return [sorted(e.id for e in side) for side in (splits.train, splits.val, splits.test)]


pairs = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=80)


@settings(max_examples=60)
@given(pairs, st.sampled_from(["prompt", "text", "both"]), st.integers(0, 5))
def test_groups_stay_together_and_order_does_not_matter(rows, by, seed):
    dataset = make(rows)
    try:
        splits = split(dataset, by, 0.2, 0.2, seed)
    except PromptRecoveryError:
        return  # too few groups for three sides
    shuffled = list(dataset.examples)
    random.Random(1).shuffle(shuffled)
    assert ids(split(Dataset("d", shuffled), by, 0.2, 0.2, seed)) == ids(splits)
    assert sorted(i for side in ids(splits) for i in side) == sorted(e.id for e in dataset.examples)
    keys = {"prompt": ["rewrite_prompt"], "text": ["original_text"]}
    for key in keys.get(by, ["rewrite_prompt", "original_text"]):
        sides = [{getattr(e, key) for e in s} for s in (splits.train, splits.val, splits.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


@pytest.mark.parametrize(
    ("by", "apart", "shared"),
    [
        ("prompt", ["rewrite_prompt"], ["original_text"]),
        ("text", ["original_text"], ["rewrite_prompt"]),
        ("both", ["rewrite_prompt", "original_text"], []),
    ],
)
def test_sides_share_nothing_of_what_they_are_split_by(by, apart, shared):
    # Each prompt with two texts and each text with two prompts; forty rows hang together.
    rows = [
        (t, p) for n in range(0, 600, 20) for t in range(n, n + 20) for p in (t, n + (t + 1) % 20)
    ]
    splits = split(make(rows), by, 0.2, 0.2)

    def overlap(key):
        sides = [{getattr(e, key) for e in s} for s in (splits.train, splits.val, splits.test)]
        return sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]

    assert not any(overlap(key) for key in apart)
    assert all(overlap(key) for key in shared)


def test_shares_are_as_asked_and_seeds_differ():
    dataset = make([(n, n) for n in range(2000)])
    splits = split(dataset, val=0.1, test=0.2)
    assert 150 < len(splits.val) < 250
    assert 330 < len(splits.test) < 470
    assert ids(splits) != ids(split(dataset, val=0.1, test=0.2, seed=1))


def test_new_rows_move_no_old_row():
    rows = [(n, n) for n in range(200)]
    before = split(make(rows))
    after = split(make([*rows, *((n, n) for n in range(500, 700))]))
    assert {e.id for e in before.test} <= {e.id for e in after.test}
    assert {e.id for e in before.train} <= {e.id for e in after.train}


def test_case_and_punctuation_do_not_make_another_prompt():
    assert normalise("Make it  RHYME!") == normalise("make it rhyme") == "make it rhyme"
    assert normalise("…") == "…"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "row"}, "must be prompt, text or both"),
        ({"val": 0.6, "test": 0.5}, "must add up to less than 1"),
        ({"val": -0.1}, r"split.val=-0.1: must be in \[0, 1\)"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(PromptRecoveryError, match=message):
        split(make([(1, 1)]), **options)


def test_an_empty_side_is_an_error_that_says_why():
    with pytest.raises(
        PromptRecoveryError, match=r"split is empty \(50 rows in 1 groups by prompt"
    ):
        split(make([(n, 0) for n in range(50)]))


def test_a_share_of_the_training_data_is_part_of_a_larger_share_and_leaves_the_rest_alone():
    dataset = make([(n, n % 500) for n in range(1000)])
    shares = [split(dataset, val=0.1, test=0.2, train_share=s) for s in (0.25, 0.5, 1.0)]
    quarter, half, whole = ({e.id for e in s.train} for s in shares)
    assert quarter < half < whole
    assert len(quarter) == pytest.approx(len(whole) / 4, rel=0.2)
    assert len(half) == pytest.approx(len(whole) / 2, rel=0.2)
    assert whole == {e.id for e in split(dataset, val=0.1, test=0.2).train}
    assert all(s.val == shares[0].val and s.test == shares[0].test for s in shares)
    for share in (0.0, 1.5):
        with pytest.raises(PromptRecoveryError, match="train_share"):
            split(dataset, train_share=share)
