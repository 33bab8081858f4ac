import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.recovery import kept
from prompt_recovery.recovery.decoding import MBR, Choice, Greedy
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.kept import KeptPosteriors
from prompt_recovery.recovery.posterior import Completion, Posterior
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.sources import WriterSource
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.storage import cache_dir
from prompt_recovery.templates import Template
from tests.trees.test_forward import tiny_model

PAIRS = [Pair("1", "one text", "another text"), Pair("2", "one text", "another text")]
MBR_2 = MBR(samples=2, max_new_tokens=4, temperature=5.0)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))


@pytest.fixture
def source(tokenizer):
    template = Template("t", "{{ original_text }} => {{ rewritten_text }}")
    writer = Writer(tiny_model("llama"), tokenizer, template, 60, identity="a writer")
    return WriterSource(writer, keeps=True)


@pytest.fixture
def sampled(monkeypatch):
    """The number of prompts of each call that samples."""
    calls = []
    write = Writer.write

    def counted(self, prompts, *rest):
        calls.append(len(prompts))
        return write(self, prompts, *rest)

    monkeypatch.setattr(Writer, "write", counted)
    return calls


def test_samples_that_are_kept_equal_those_that_are_drawn_again(source, sampled):
    drawn = replace(source, keeps=False).posteriors(PAIRS, MBR_2)
    first = source.posteriors(PAIRS[:1], MBR_2)
    both = source.posteriors(PAIRS, MBR_2)
    assert first[0] == both[0]
    assert source.posteriors(PAIRS, MBR_2) == both
    assert sampled == [2, 1, 1]  # the second pair alone, then none
    # Log-probabilities differ by the rounding in batches of different sizes.
    assert {i: (p.texts, p.votes) for i, p in both.items()} == {
        i: (p.texts, p.votes) for i, p in drawn.items()
    }


def test_a_choice_finds_the_samples_of_mbr(source, sampled):
    drawn = source.posteriors(PAIRS, MBR_2)
    choice = Choice(samples=2, max_new_tokens=4, temperature=5.0, candidates=3)
    assert source.posteriors(PAIRS, choice) == drawn
    assert sampled == [2]


@pytest.mark.parametrize(
    "change",
    [
        {"decoding": replace(MBR_2, seed=1)},
        {"decoding": replace(MBR_2, temperature=1.0)},
        {"decoding": Greedy(max_new_tokens=4)},
        {"member": 1},
        {"identity": "another writer"},
        {"pairs": [Pair("3", "one text", "another text")]},
        {"pairs": [Pair("1", "one text", "a third text")]},
    ],
)
def test_what_is_asked_otherwise_is_sampled(source, sampled, change):
    source.posteriors(PAIRS[:1], MBR_2)
    writer = replace(source.writer, identity=change.get("identity", "a writer"))
    other = WriterSource(writer, change.get("member", 0), keeps=True)
    other.posteriors(change.get("pairs", PAIRS[:1]), change.get("decoding", MBR_2))
    assert sampled == [1, 1]


def test_a_writer_without_an_identity_keeps_nothing(source, sampled):
    nameless = replace(source, writer=replace(source.writer, identity=""))
    for _ in range(2):
        nameless.posteriors(PAIRS, MBR_2)
    assert sampled == [2, 2]


def test_a_damaged_value_is_sampled_again(source, sampled):
    drawn = source.posteriors(PAIRS, MBR_2)
    [file] = cache_dir("posteriors").glob("*.sqlite")
    with sqlite3.connect(file) as database:
        database.execute("UPDATE blobs SET value = ?", (b'[2, ["a"]]',))
    database.close()
    assert source.posteriors(PAIRS, MBR_2) == drawn
    assert sampled == [2, 2]


@given(
    st.lists(
        st.builds(
            lambda text, value: Completion(text, text.strip(), value, value / 3),
            st.text(st.characters()),
            st.floats(-1e6, 0),
        ),
        min_size=1,
    ),
    st.booleans(),
)
def test_a_posterior_is_read_as_it_was_written(completions, by_probability):
    posterior = Posterior.of_completions(completions, by_probability)
    assert kept._read(kept._written(posterior, 1.5)) == (posterior, 1.5)


def test_samples_from_the_cache_count_with_the_time_that_they_took(source, monkeypatch):
    clock = SimpleNamespace(perf_counter=iter((10.0, 14.0)).__next__)
    monkeypatch.setattr(kept, "time", clock)
    recoverer = PosteriorRecoverer([(source, 1.0)], Greedy(max_new_tokens=4), "fallback")
    recoverer.recover(PAIRS)
    assert source.saved == 0 and recoverer.seconds["recoverer"] < 2
    recoverer.recover(PAIRS[:1])
    assert source.saved == 2 <= recoverer.seconds["recoverer"]


def test_tokens_and_ids_are_not_mixed_up():
    store = KeptPosteriors("a name")

    def ask(prompts, ids):
        return [Posterior.of_texts([f"{p} {i}"]) for p, i in zip(prompts, ids, strict=True)]

    number = (49).to_bytes(8, "little").decode()  # what the token 49 is stored as
    for prompt, id_ in (([1], number + "x"), ([1, 49], "x")):
        assert store.completed([prompt], [id_], ask)[0].texts == (f"{prompt} {id_}",)
