"""From a dataset and a tiny model to preferences."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from prompt_recovery.data.examples import Dataset
from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import normalise, split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.preferences import (
    ChatApi,
    Mix,
    Pairing,
    PreferenceExample,
    Preferences,
    build,
    prepare_preferences,
    read_preferences,
    require_preferences,
    write_preferences,
)
from prompt_recovery.preferences.pool import read_pool
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.templates import Template, render
from tests.trees.test_forward import tiny_model

TEMPLATE = Template("t", "{{ original_text }} => {{ rewritten_text }}")
APART = (0.5, 0.1)
MIX = Mix(sampled=2, corrupted=1, others=1, max_new_tokens=4)


@pytest.fixture(scope="module")
def writer(tokenizer):
    return Writer(tiny_model("llama"), tokenizer, TEMPLATE, 80)


@pytest.fixture
def prepare(examples, writer, scs, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path / "cache"))

    def prepare(settings, dataset="d", identity="x", group=False, seed=0, writer=writer, share=1.0):
        splits = split(Dataset("d", examples), val=0.2, test=0.2, train_share=share)
        folder = tmp_path / "preferences"
        return prepare_preferences(
            settings, dataset, splits, writer, scs, identity, group, seed, folder
        )

    return prepare


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Preferences(path="nowhere.jsonl"), "nowhere.jsonl: no such file; give preferences.path="),
        (Preferences(path=None, mix=Mix(0, 0, 0, 0)), r"preferences\.mix asks for no candidates"),
        (Preferences(path="auto", mix=Mix(api=1)), "preferences.api needs OPENAI_API_KEY"),
        (
            Preferences(mix=Mix(api=1), api=ChatApi(base_url="http://localhost:1/v1")),
            "preferences.api.model: name the endpoint's model",
        ),
        (Preferences(earlier="nowhere"), "preferences.earlier=nowhere: holds no readable"),
    ],
)
def test_what_will_be_missing_is_found_at_once(settings, message, examples, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    splits = split(Dataset("d", examples), val=0.2, test=0.2)
    with pytest.raises(PromptRecoveryError, match=message):
        require_preferences(settings, "d", splits)
    require_preferences(Preferences(path="auto"), "d", splits)
    require_preferences(Preferences(path="auto"), "starter", splits)
    of_a_retriever = Preferences(path=None, mix=Mix(0, 0, 0, 0, retrieved=1))
    require_preferences(of_a_retriever, "d", splits)


def test_a_file_of_other_splits_is_found_at_once(examples, tmp_path):
    splits = split(Dataset("d", examples), val=0.2, test=0.2)
    held_out = [
        PreferenceExample(e.id, prompt_of(e), ("a", "b"), APART)
        for e in (*splits.val, *splits.test)
    ]
    path = write_preferences(held_out, tmp_path, {})
    with pytest.raises(PromptRecoveryError, match="holds no row of the training split"):
        require_preferences(Preferences(path=str(path)), "d", splits)


def prompt_of(example):
    return f"{example.original_text} => {example.rewritten_text}"


@pytest.fixture
def path(examples, tmp_path):
    """A file with three completions for each example, and one pair that is nobody's."""
    rows = [
        PreferenceExample(e.id, prompt_of(e), (e.rewrite_prompt, "near", "far"), (1.0, 0.5, 0.0))
        for e in examples
    ]
    rows.append(PreferenceExample("foreign", "p", ("good", "bad"), (math.nan, math.nan)))
    return str(write_preferences(rows, tmp_path / "given", {}))


def test_rows_of_other_splits_are_left_out(examples, prepare, path, caplog):
    splits = split(Dataset("d", examples), val=0.2, test=0.2)
    assert splits.val
    assert splits.test
    with caplog.at_level(logging.INFO):
        made = prepare(Preferences(path))
    assert [e.id for e in made] == [
        *(e.id for e in examples if e in splits.train),
        "foreign",
    ]
    held_out = len(splits.val) + len(splits.test)
    assert f"left out {held_out} rows of the validation and test splits" in caplog.text


def test_ids_that_are_the_same_by_chance_belong_to_no_example(examples, prepare, tmp_path, caplog):
    difference = Template("d", "{{ difference(original_text, rewritten_text) }}", chat=False)
    texts = {
        "original_text": examples[0].original_text,
        "rewritten_text": examples[0].rewritten_text,
    }
    splits = split(Dataset("d", examples), val=0.2, test=0.2)
    rows = [
        PreferenceExample(e.id, f"Which colour has a banana? ({e.id})", ("yellow", "blue"), APART)
        for e in examples
    ]
    rows.append(PreferenceExample(examples[0].id, render(difference, **texts), ("a", "b"), APART))
    loud = prompt_of(examples[0]).upper()
    rows.append(PreferenceExample(examples[0].id, loud, ("a", "b"), APART))
    path = str(write_preferences(rows, tmp_path / "given", {}))
    made = prepare(Preferences(path))
    assert [e.prompt for e in made[: len(examples)]] == [e.prompt for e in rows[: len(examples)]]
    assert {e.id for e in made[: len(examples)]} == {""}
    assert f"{len(examples)} rows have an id of the dataset, but a prompt without" in caplog.text
    assert {e.id for e in made[len(examples) :]} <= {examples[0].id}
    assert len(made) == len(examples) + 2 * (examples[0] in splits.train)


def test_the_shipped_preferences_belong_to_the_starter():
    examples = {e.id: e for e in starter().examples}
    rows = read_preferences(build.SHIPPED)
    assert all(build._holds(row.prompt, examples[row.id]) for row in rows)


def test_a_file_of_other_splits_alone_is_an_error(examples, prepare, tmp_path):
    splits = split(Dataset("d", examples), val=0.2, test=0.2)
    rows = [PreferenceExample(e.id, prompt_of(e), ("a", "b"), (1.0, 0.0)) for e in splits.test]
    path = write_preferences(rows, tmp_path, {})
    with pytest.raises(PromptRecoveryError, match="no row of the training split"):
        prepare(Preferences(str(path)))


def test_groups_or_pairs(prepare, path):
    def completions(strategy="truth_best", group=False):
        made = prepare(Preferences(path, pairing=Pairing(strategy, truth=True)), group=group)
        assert made[-1].completions == ("good", "bad")  # a pair stays itself
        return {e.completions[1:] for e in made[:-1]}, made[0].scores

    assert completions(group=True) == ({("near", "far")}, (1.0, 0.5, 0.0))
    assert completions("truth_best") == ({("near",)}, (1.0, 0.5))
    assert completions("truth_worst") == ({("far",)}, (1.0, 0.0))
    assert completions("best_worst") == ({("far",)}, (0.5, 0.0))


def test_auto_is_the_shipped_file_for_the_starter_alone(prepare, path, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "SHIPPED", Path(path))
    shipped = prepare(Preferences(mix=MIX), dataset="starter")
    assert shipped[-1].id == "foreign"
    assert not (tmp_path / "preferences").exists()
    made = prepare(Preferences(mix=MIX), dataset="another")
    assert (tmp_path / "preferences" / "preferences.parquet").is_file()
    assert made != shipped
    monkeypatch.setattr(build, "SHIPPED", tmp_path / "none")
    assert prepare(Preferences(mix=MIX), dataset="starter") == made


def test_a_share_of_the_training_examples_has_their_preferences_only(examples, prepare, path):
    few = prepare(Preferences(path), share=0.5)
    train = split(Dataset("d", examples), val=0.2, test=0.2, train_share=0.5).train
    assert [e.id for e in few] == [*(e.id for e in train), "foreign"]
    assert len(few) < len(prepare(Preferences(path)))


def test_made_anew_they_are_written_with_a_card(examples, prepare, tmp_path):
    made = prepare(Preferences(mix=MIX, pairing=Pairing("truth_random")))
    folder = tmp_path / "preferences"
    assert read_preferences(folder / "preferences.parquet") == made
    truths = {e.id: e.rewrite_prompt for e in examples}
    for example in made:
        chosen, rejected = example.completions
        assert chosen == truths[example.id]
        assert normalise(rejected) != normalise(chosen)
        assert example.scores[0] == 1.0
        assert example.scores[1] <= 0.95
        assert example.prompt[-1]["role"] == "user"
        assert "ferry" in example.prompt[-1]["content"]
    card = (folder / "README.md").read_text()
    assert f"| rows | {len(made)} |" in card
    assert "| sampled from | recoverer |" in card
    for source in ("sampled", "corrupted", "others"):
        assert f"{source}: candidates, mean score" in card
    assert (folder / "scores.png").read_bytes()[:4] == b"\x89PNG"


def test_groups_made_anew_hold_the_models_own_words(examples, prepare):
    mix = Mix(sampled=3, corrupted=0, others=1, max_new_tokens=4)
    made = prepare(Preferences(mix=mix, pairing=Pairing(size=3, margin=0.01)), group=True)
    assert {len(e.completions) for e in made} <= {2, 3}
    assert max(len(e.completions) for e in made) == 3
    truths = {e.id: e.rewrite_prompt for e in examples}
    assert all(e.completions[0] != truths[e.id] for e in made)


def test_candidates_are_sampled_once(prepare, monkeypatch, writer):
    made = prepare(Preferences(mix=MIX))
    calls = []
    write = Writer.write
    monkeypatch.setattr(Writer, "write", lambda *args: calls.append(0) or write(*args))
    assert prepare(Preferences(mix=MIX)) == made
    assert prepare(Preferences(mix=MIX, pairing=Pairing("truth_worst")))  # only pairs are new
    assert not calls
    for changes in ({"identity": "y"}, {"seed": 1}):
        calls.clear()
        assert prepare(Preferences(mix=MIX), **changes)
        assert calls
    calls.clear()
    assert prepare(Preferences(mix=Mix(sampled=3, corrupted=1, others=1, max_new_tokens=4)))
    assert calls


def test_a_template_without_chat_gives_texts(prepare, tokenizer):
    template = Template("plain", TEMPLATE.text, chat=False, prefill=" The prompt:")
    model = Writer(tiny_model("llama"), tokenizer, template, 80)
    [first, *_] = prepare(Preferences(mix=MIX), writer=model)
    assert isinstance(first.prompt, str)
    assert first.prompt.endswith(" The prompt:")


def test_no_preferences_are_an_error(prepare, path):
    with pytest.raises(PromptRecoveryError, match=r"lower preferences\.pairing\.margin"):
        prepare(Preferences(mix=MIX, pairing=Pairing(margin=1.9)))
    with pytest.raises(PromptRecoveryError, match=r"preferences\.mix asks for no candidates"):
        prepare(Preferences(mix=Mix(sampled=0, corrupted=0, others=0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampled": -1}, "mix.sampled=-1: must be ≥ 0"),
        ({"api": -2}, "mix.api=-2"),
        ({"max_new_tokens": 0}, "mix.max_new_tokens=0"),
        ({"temperatures": [0.5, 0]}, r"mix.temperatures=\[0.5, 0\]: must be .* in"),
        ({"temperatures": []}, r"mix.temperatures=\[\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(PromptRecoveryError, match=message):
        Mix(**options)


def test_a_file_whose_rows_differ_too_little_is_an_error(examples, prepare, tmp_path, caplog):
    groups = [("near", "far", "farther"), ("a", "b", "c")]
    rows = [
        PreferenceExample("", "p", group, (0.5, 0.45, last))
        for group, last in zip(groups, (0.4, 0.0), strict=True)
    ]
    path = str(write_preferences(rows, tmp_path / "given", {}))
    with caplog.at_level(logging.INFO):
        [made] = prepare(Preferences(path, pairing=Pairing("best_worst", margin=0.3)))
    assert made.completions == ("a", "c")
    assert "1 row gave none" in caplog.text
    with pytest.raises(PromptRecoveryError, match=r"lower preferences\.pairing\.margin"):
        prepare(Preferences(path, pairing=Pairing("best_worst", margin=0.6)))


def test_in_a_file_without_truths_the_best_is_one_of_the_models_own(examples, prepare, tmp_path):
    rows = [
        PreferenceExample(e.id, prompt_of(e), ("a", "b", "c"), (0.5, 0.3, 0.1)) for e in examples
    ]
    path = str(write_preferences(rows, tmp_path / "given", {}))

    def made(strategy="truth_best", group=False, truth=False):
        read = prepare(Preferences(path, pairing=Pairing(strategy, truth=truth)), group=group)
        [completions] = {e.completions for e in read}
        return completions

    assert made(group=True) == made(group=True, truth=True) == ("a", "b", "c")
    assert made("best_worst") == made("truth_worst") == ("a", "c")
    assert made("truth_best") == ("a", "b")


def test_answers_that_were_paid_for_are_kept(prepare, monkeypatch):
    asked = []

    def propose(self, examples):
        asked.extend(examples)
        return [[f"answer {n} for {e.id}" for n in range(len(self.temperatures))] for e in examples]

    monkeypatch.setattr(build.ApiCandidates, "propose", propose)
    mix = Mix(sampled=0, corrupted=0, others=0, api=2)

    def made(**options):
        asked.clear()
        return prepare(Preferences(mix=mix, api=ChatApi(model="m", **options)))

    first = made()
    assert asked
    assert made(concurrency=1, retries=9, timeout_s=5) == first
    assert not asked
    assert made(base_url="http://localhost:1/v1") == first
    assert asked


def test_earlier_candidates_are_added_to_new_ones(examples, prepare, tmp_path, scs):
    settings = Preferences(None, MIX, Pairing("listwise", margin=0.0, size=16))
    first = {e.id: e for e in prepare(settings, group=True)}
    (tmp_path / "preferences").rename(tmp_path / "before")
    more = replace(settings, earlier=str(tmp_path / "before"))
    second = {e.id: e for e in prepare(more, identity="y", seed=1, group=True)}
    assert first.keys() <= second.keys()
    longer = 0
    for id_, row in second.items():
        texts = set(map(normalise, row.completions))
        assert texts >= set(map(normalise, first[id_].completions if id_ in first else ()))
        longer += len(texts) > len(first[id_].completions if id_ in first else ())
        assert list(row.scores) == sorted(row.scores, reverse=True)
    assert longer > len(second) / 2
    pool = read_pool(tmp_path / "preferences")
    assert all(len(candidates) >= len(second[id_].completions) for id_, candidates in pool.items()
               if id_ in second)  # fmt: skip
    few = prepare(replace(more, most=2), identity="y", seed=1, group=True)
    assert all(len(row.completions) <= 2 for row in few)
