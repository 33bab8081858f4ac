"""Probes, on synthetic hidden states and on a tiny language model."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import MBR, Greedy, Pair
from prompt_recovery.recovery.bank import PromptBank
from prompt_recovery.recovery.load import kind_of, sources_of
from prompt_recovery.recovery.probe import Probe, ProbeEncoder, hidden_states
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import Retriever
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.templates import Template

PAIRS = [Pair(str(n), f"The ferry {n} leaves.", f"Oh joy, ferry {n}!" * (n + 1)) for n in range(5)]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def data(seed, count=120, noise=0.0):
    """Hidden states of very different sizes, and embeddings that depend linearly on them."""
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((count, 12)) * rng.uniform(0.1, 50, 12) + rng.standard_normal(12)
    clean = (states / np.maximum(states.std(axis=0), 1e-3)) @ rng.standard_normal((12, 4))
    vectors = clean + noise * rng.standard_normal(clean.shape)
    return states.astype(np.float32), unit(vectors), [f"prompt {n}" for n in range(count)]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_linear_relation_is_found(seed):
    states, vectors, prompts = data(seed)
    probe = Probe.fit(states[:100], vectors[:100], prompts[:100])
    found = probe(states[100:])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    # The embeddings have length 1, so that the relation isn't quite linear.
    assert (found * vectors[100:]).sum(axis=1).mean() > 0.9


def test_noise_asks_for_a_larger_penalty():
    def size(noise):
        states, vectors, prompts = data(0, noise=noise)
        return np.linalg.norm(Probe.fit(states, vectors, prompts).weight * states.std(axis=0))

    assert size(noise=30.0) < 0.5 * size(noise=0.0)


def test_examples_of_one_prompt_are_not_in_two_folds(monkeypatch):
    """Otherwise, the penalty would be chosen by how well prompts are known by heart."""
    import sklearn.linear_model

    states, vectors, _ = data(0, count=40)
    prompts = [f"Prompt {n % 8}{' ' * (n // 8)}" for n in range(40)]
    fit, sizes = sklearn.linear_model.Ridge.fit, []

    def counted(self, inputs, wanted):
        sizes.append(len(inputs))
        return fit(self, inputs, wanted)

    monkeypatch.setattr(sklearn.linear_model.Ridge, "fit", counted)
    Probe.fit(states, vectors, prompts)
    assert set(sizes[:-1]) == {30, 35} and sizes[-1] == 40, "8 prompts are dealt out to 5 folds"


@pytest.mark.parametrize("prompts", [["one"], ["same", "same", "same"]])
def test_one_prompt_is_enough(prompts):
    states, vectors, _ = data(0, count=len(prompts))
    vectors[:] = vectors[0]
    found = Probe.fit(states, vectors, prompts)(states)
    np.testing.assert_allclose(found, vectors, atol=1e-5)


def test_it_is_written_and_read(tmp_path):
    states, vectors, prompts = data(0)
    probe = Probe.fit(states, vectors, prompts)
    probe.write(tmp_path / "probe.safetensors")
    again = Probe.read(tmp_path / "probe.safetensors", 4, 12)
    np.testing.assert_array_equal(again(states), probe(states))
    assert again.identity == probe.identity


@pytest.mark.parametrize(
    "arrays",
    [
        {"weight": np.zeros((4, 12), np.float32)},
        {"weight": np.zeros((3, 12), np.float32), "bias": np.zeros(3, np.float32)},
        {"weight": np.zeros((4, 12), np.float32), "bias": np.zeros(5, np.float32)},
        {"weight": np.zeros((4, 11), np.float32), "bias": np.zeros(4, np.float32)},
        {"weight": np.full((4, 12), np.nan, np.float32), "bias": np.zeros(4, np.float32)},
        None,
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, arrays):
    path = tmp_path / "probe.safetensors"
    path.write_bytes(b"nothing") if arrays is None else save_file(arrays, path)
    with pytest.raises(PromptRecoveryError, match=r"probe.safetensors: is damaged .* delete this"):
        Probe.read(path, 4, 12)


@pytest.fixture
def writer(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_backbone("llama"), dtype=torch.float32)
    template = Template("t", "{{ original_text }} => {{ rewritten_text }}")
    return Writer(model.eval(), tokenizer, template, 80, batch_tokens=400)


def test_hidden_states_are_kept_batch_by_batch(writer, monkeypatch):
    expected = hidden_states(writer, PAIRS)
    one_by_one = [writer.last_states([writer.prompt_tokens(pair)])[0] for pair in PAIRS]
    np.testing.assert_allclose(expected, one_by_one, rtol=1e-3, atol=1e-4)

    writer.identity, read, seen = "one", writer.last_states, []

    def interrupted(prompts):
        seen.extend(prompts)
        if len(seen) > 2:
            raise KeyboardInterrupt
        return read(prompts)

    monkeypatch.setattr(writer, "last_states", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hidden_states(writer, PAIRS)
    assert 0 < len(seen) < len(PAIRS) + 1
    again = []
    monkeypatch.setattr(writer, "last_states", lambda p: again.extend(p) or read(p))
    np.testing.assert_allclose(hidden_states(writer, PAIRS), expected, rtol=1e-3, atol=1e-4)
    assert 0 < len(again) < len(PAIRS), "what was read before isn't read again"
    monkeypatch.setattr(writer, "last_states", lambda _: pytest.fail("it is kept"))
    hidden_states(writer, PAIRS[::-1])


def test_what_is_read_for_samples_is_not_read_again(writer, scs, monkeypatch):
    prompts = ["Make it joyful", "Make it sad", "Write a list"]
    bank = PromptBank.of(prompts, scs.encoder)
    states = hidden_states(writer, PAIRS[:3])
    probe = Retriever(ProbeEncoder(writer, Probe.fit(states, bank.vectors, prompts)), bank, 0.05)
    model, own = sources = sources_of(writer, probe)
    assert [kind_of(source) for source in sources] == ["model", "probe"]
    expected = own.posteriors(PAIRS, MBR(2))
    monkeypatch.setattr(writer.__class__, "last_states", lambda *_: pytest.fail("it was read"))
    recoverer = PosteriorRecoverer([(s, 1.0) for s in sources], MBR(2, 1.0, 4), "fallback", scs)
    said = recoverer.said(PAIRS)
    for index, found in expected.items():
        assert said[index][1].texts == found.texts
        np.testing.assert_allclose(said[index][1].votes, found.votes, rtol=1e-3)
    assert said[0][0] == sources_of(writer, None)[0].posteriors(PAIRS, MBR(2, 1.0, 4))[0]
    assert not own.encoder.states, "nothing is kept in memory"
    assert any(c.log_probability is None for c in recoverer.recover(PAIRS)[0].candidates)
    assert model.writer.identity == writer.identity
    assert Greedy.uses_metric is False
