import json
import os
import random
import signal
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.preferences.candidates import (
    BATCH,
    CorruptedTruths,
    OtherPrompts,
    PreferenceCandidate,
    SampledCandidates,
    collect_candidates,
)
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.templates import Template
from tests.forks import PROCESSES
from tests.trees.test_forward import tiny_model


def rows(count):
    return [
        RewriteExample(f"e{n}", f"text {n}" * (n % 7), f"täxt {n}", f"p {n}") for n in range(count)
    ]


class Fake:
    """Answers that depend on the example alone; remembers what it was asked."""

    name = "fake"

    def __init__(self, answers=None):
        self.answers = answers or (lambda e: [f"guess at {e.id}", f"“überraschend {e.id} 🐝”"])
        self.asked = []

    def propose(self, examples):
        self.asked += [e.id for e in examples]
        return [self.answers(e) for e in examples]


@pytest.fixture(scope="module")
def writer(tokenizer):
    template = Template("t", "{{ original_text }} => {{ rewritten_text }}")
    return Writer(tiny_model("gemma2"), tokenizer, template, 80)


def sampled(writer, **changes):
    return replace(SampledCandidates(writer, (0.5, 1.0, 1.5), 12, seed=0), **changes)


def test_samples_depend_on_the_example_alone(writer, examples):
    mixed = [
        replace(e, original_text=e.original_text * (n % 3 + 1)) for n, e in enumerate(examples)
    ]
    together = sampled(writer).propose(mixed[:12])
    alone = [sampled(writer).propose([e])[0] for e in mixed[:12]]
    backwards = sampled(writer).propose(mixed[11::-1])[::-1]
    assert together == alone == backwards
    assert len({len(row) for row in together}) == 1 and len(together[0]) == 3
    assert sampled(writer, seed=1).propose(mixed[:12]) != together
    assert sampled(writer, name="zero_shot").propose(mixed[:12]) != together
    [one, other] = sampled(writer).propose([mixed[0], replace(mixed[0], id="other")])
    assert one != other


def test_samples_are_the_same_after_a_resume(writer, examples, tmp_path):
    whole = collect_candidates(examples, [sampled(writer)], tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:1]))
    resumed = collect_candidates(examples, [sampled(writer)], tmp_path / "cut.jsonl")
    assert resumed == whole
    assert (tmp_path / "cut.jsonl").read_bytes() == b"".join(lines)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """What an uninterrupted run over 40 examples leaves behind."""
    path = tmp_path_factory.mktemp("whole") / "store.jsonl"
    collect_candidates(rows(40), [Fake()], path)
    return path.read_bytes()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_file_cut_anywhere_is_completed(store, tmp_path_factory, data):
    before_newlines = [n for n, byte in enumerate(store) if byte == ord("\n")]
    end = data.draw(st.integers(0, len(store)) | st.sampled_from(before_newlines))
    path = tmp_path_factory.mktemp("cut") / "store.jsonl"
    path.write_bytes(store[:end])
    source = Fake()
    assert set(collect_candidates(rows(40), [source], path)) == {e.id for e in rows(40)}
    assert path.read_bytes() == store
    # Whole lines are kept; the torn one is asked again, once.
    kept = min(store[:end].count(b"\n") * BATCH, 40)
    assert len(source.asked) == len(set(source.asked)) == 40 - kept


def test_a_damaged_line_is_done_again(store, tmp_path):
    first, second, third = store.splitlines(keepends=True)
    path = tmp_path / "store.jsonl"
    path.write_bytes(first + b"\xff" * 9 + second[9:] + third)
    source = Fake()
    collect_candidates(rows(40), [source], path)
    assert path.read_bytes() == store
    assert len(source.asked) == 40 - BATCH
    for odd in (third, b"{}\n", b'{"r-0": [[1, 2]]}\n', b"7\n"):  # valid JSON of something else
        path.write_bytes(first + odd + third)
        source = Fake()
        collect_candidates(rows(40), [source], path)
        assert path.read_bytes() == store
        assert len(source.asked) == 40 - BATCH


class Slow(Fake):
    """Some milliseconds a batch; hangs after so many batches, to be killed there at the latest."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def propose(self, examples):
        self.batches -= 1
        time.sleep(0.004 if self.batches >= 0 else 600)
        return super().propose(examples)


def _collect_slowly(path, count, batches, started):
    started.set()
    collect_candidates(rows(count), [Slow(batches)], path)


def test_a_run_killed_again_and_again_loses_nothing(tmp_path):
    count, kills = 100 * 4, 12
    whole = collect_candidates(rows(count), [Fake()], tmp_path / "whole.jsonl")
    path = tmp_path / "killed.jsonl"
    rng = random.Random(0)
    sizes = []
    for _ in range(kills):
        started = PROCESSES.Event()
        batches = rng.randint(0, 2)
        life = PROCESSES.Process(target=_collect_slowly, args=(path, count, batches, started))
        life.start()
        assert started.wait(120)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(life.pid, signal.SIGKILL)
        life.join()
        assert life.exitcode == -signal.SIGKILL
        sizes.append(path.stat().st_size if path.exists() else 0)
    assert sizes == sorted(sizes)
    assert 0 < sizes[-1] < (tmp_path / "whole.jsonl").stat().st_size
    assert collect_candidates(rows(count), [Fake()], path) == whole
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    ids = [i for line in path.read_text().splitlines() for i in json.loads(line)]
    assert sorted(ids) == sorted(e.id for e in rows(count))


def _collect_and_report(folder, together, name):
    source = Slow(100)
    together.wait(120)
    found = collect_candidates(rows(100), [source], folder / "store.jsonl")
    (folder / name).write_text(json.dumps([source.asked, {k: len(v) for k, v in found.items()}]))


def test_two_processes_at_once_make_one_file(tmp_path):
    together = PROCESSES.Barrier(2)
    pair = [
        PROCESSES.Process(target=_collect_and_report, args=(tmp_path, together, name))
        for name in "ab"
    ]
    for process in pair:
        process.start()
    for process in pair:
        process.join(120)
        assert process.exitcode == 0
    (asked_a, a), (asked_b, b) = (json.loads((tmp_path / name).read_text()) for name in "ab")
    assert sorted(asked_a + asked_b) == sorted(e.id for e in rows(100))
    assert a == b == {e.id: 2 for e in rows(100)}
    collect_candidates(rows(100), [Fake()], tmp_path / "alone.jsonl")
    assert (tmp_path / "store.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_candidates_are_distinct_clean_and_in_order(tmp_path):
    first = Fake(lambda e: ['The prompt was: "Make it rhyme"', "  ", "make it rhyme!", "Be brief"])
    second = Fake(lambda e: ["BE BRIEF", "“Sing”\n\nI hope this helps.", ""])
    second.name = "second"
    done = []
    found = collect_candidates(rows(33), [first, second], tmp_path / "s.jsonl", done.append)
    assert list(found) == [e.id for e in rows(33)]
    assert done == [16, 16, 1]
    for candidates in found.values():
        assert [(c.text, c.source) for c in candidates] == [
            ("Make it rhyme", "fake"),
            ("Be brief", "fake"),
            ("Sing", "second"),
        ]
        assert all(c.scs != c.scs for c in candidates)  # NaN: not scored yet


texts = st.text("abcdef ", min_size=1, max_size=40).filter(str.strip)


@settings(deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.integers(0, 9))
def test_corruptions_depend_on_the_example_alone(prompts, seed):
    examples = [RewriteExample(str(n), "a", "b", p) for n, p in enumerate(prompts)]
    source = CorruptedTruths(prompts, 3, seed)
    corrupted = source.propose(examples)
    assert corrupted == [source.propose([e])[0] for e in examples]
    assert corrupted == source.propose(examples[::-1])[::-1]
    words = {w for p in prompts for w in p.split()}
    for texts in corrupted:
        assert len(texts) == 3
        assert all(t.split() and set(t.split()) <= words for t in texts)


def test_most_corruptions_are_not_the_truth():
    examples = starter().examples[::3]
    prompts = sorted({e.rewrite_prompt for e in examples})
    corrupted = CorruptedTruths(prompts, 2, seed=0).propose(examples)
    pairs = [(t, e.rewrite_prompt) for e, row in zip(examples, corrupted, strict=True) for t in row]
    other = [normalise(text) != normalise(truth) for text, truth in pairs]
    assert sum(other) / len(other) > 0.95
    shared = [bool(set(text.split()) & set(truth.split())) for text, truth in pairs]
    assert sum(shared) / len(shared) > 0.95  # and yet they are near it
    assert CorruptedTruths(prompts, 2, seed=1).propose(examples) != corrupted


def test_other_prompts_are_near_and_never_the_truth(scs):
    prompts = [
        *(f"Rewrite this as a {kind}" for kind in ("poem", "song", "letter", "speech", "recipe")),
        "rewrite THIS as a poem!",
        *(f"Shorten the text to {n} words" for n in range(40)),
    ]
    examples = [RewriteExample(f"e{n}", "a", "b", p) for n, p in enumerate(prompts[:5])]
    source = OtherPrompts(prompts, scs, count=4, seed=0, nearest=5)
    chosen = source.propose(examples)
    for example, row in zip(examples, chosen, strict=True):
        assert len(row) == len(set(row)) == 4
        assert normalise(example.rewrite_prompt) not in map(normalise, row)
        ranked = sorted(prompts, key=lambda p: -scs([p], [example.rewrite_prompt])[0])
        assert all(ranked.index(text) < 5 + 4 for text in row)
    assert chosen == [source.propose([e])[0] for e in examples]
    assert replace(source, seed=1).propose(examples) != chosen
    for example, row in zip(examples, replace(source, count=9).propose(examples), strict=True):
        assert len(row) >= 9
        assert normalise(example.rewrite_prompt) not in map(normalise, row)
    few = OtherPrompts(prompts[:2], scs, count=9, seed=0)
    assert few.propose(examples[:1]) == [[prompts[1]]]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for store in (tmp_path / "file" / "s.jsonl", tmp_path / "file" / "folder" / "s.jsonl"):
        with pytest.raises(PromptRecoveryError, match="PROMPT_RECOVERY_CACHE") as raised:
            collect_candidates(rows(2), [Fake()], store)
        assert str(store) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_full_disk_is_one_line(monkeypatch, tmp_path):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(PromptRecoveryError, match="No space"):
        patched.setattr(os, "fsync", full)
        collect_candidates(rows(20), [Fake()], tmp_path / "s.jsonl")
    found = collect_candidates(rows(20), [Fake()], tmp_path / "s.jsonl")
    assert found["e3"][0] == pytest.approx(PreferenceCandidate("guess at e3", "fake"), nan_ok=True)


def test_the_model_is_left_as_it_was(writer, examples):
    writer.model.train()
    state = torch.get_rng_state()
    sampled(writer).propose(examples[:2])
    assert writer.model.training
    assert torch.equal(torch.get_rng_state(), state)
    writer.model.eval()
