"""Prompt banks, and exact search in them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import bank
from prompt_recovery.recovery.bank import PromptBank, nearest, read_prompts
from prompt_recovery.storage import cache_dir


def units(count, dimension, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 7, 60, 500])
def test_search_in_blocks_is_exact(k, monkeypatch):
    monkeypatch.setattr(bank, "_BLOCK", 64)
    queries, vectors = units(5, 6, 0), units(200, 6, 1)
    vectors[150] = vectors[3]  # of equal ones, the first comes first
    found, cosines = nearest(queries, vectors, k)
    every = queries @ vectors.T
    expected = np.lexsort((np.broadcast_to(np.arange(200), every.shape), -every), axis=1)[:, :k]
    assert found.tolist() == expected.tolist()
    np.testing.assert_allclose(cosines, np.take_along_axis(every, expected, 1), rtol=1e-6)


def test_a_bank_holds_each_prompt_once_and_joins_with_another(scs):
    one = PromptBank.of(["Make it rhyme", "Shorten it", "Make it rhyme"], scs.encoder)
    other = PromptBank.of(["Shorten it", "Add a cat"], scs.encoder)
    both = one.joined(other)
    assert list(both.prompts) == ["Make it rhyme", "Shorten it", "Add a cat"]
    assert np.array_equal(both.vectors, scs.encoder.embed(both.prompts))
    assert both.joined(one) is both
    assert len({one.identity, other.identity, both.identity}) == 3


def test_a_large_bank_is_embedded_once_and_then_mapped_from_a_file(scs, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    monkeypatch.setattr(bank, "_KEPT_APART", 3)
    monkeypatch.setattr(bank, "_EMBEDDED", 2)
    prompts = [f"Make it rhyme, way {n}" for n in range(5)]
    told = []
    made = PromptBank.of(prompts, scs.encoder, lambda n, total: told.append((n, total)))
    assert told == [(2, 5), (2, 5), (1, 5)]
    again = PromptBank.of(prompts, scs.encoder, lambda *_: pytest.fail("embedded again"))
    assert np.array_equal(made.vectors, again.vectors)
    assert np.array_equal(made.vectors, scs.encoder.embed(prompts))
    [file] = cache_dir("banks").glob("*.npy")
    for damage in (b"", b"x", np.lib.format.magic(1, 0), file.read_bytes()[:200]):
        file.write_bytes(damage)
        assert np.array_equal(PromptBank.of(prompts, scs.encoder).vectors, made.vectors)
    other = made.vectors[::-1]
    for odd in (made.vectors[:3], made.vectors[:, :5], made.vectors.astype(str), other):
        np.save(file, odd)
        assert np.array_equal(PromptBank.of(prompts, scs.encoder).vectors, made.vectors)


def test_prompts_are_read_from_every_format(tmp_path):
    prompts = ["Make it\u2028rhyme, please", "Kürzer"]  # a line separator within a line
    (tmp_path / "a.txt").write_text("\n".join([prompts[0], "", f"  {prompts[1]} ", prompts[0]]))
    (tmp_path / "b.txt").write_text("\ufeff" + "\r\n".join(prompts), newline="")
    (tmp_path / "a.csv").write_text(f'id,text\n1,"{prompts[0]}"\n2,{prompts[1]}\n3,\n')
    lines = [json.dumps({"rewrite_prompt": p, "text": "-"}) for p in prompts]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({"other": prompts}), tmp_path / "a.parquet")
    for name in ("a.txt", "b.txt", "a.csv", "a.jsonl"):
        assert read_prompts(tmp_path / name) == prompts
    assert read_prompts(tmp_path / "a.parquet", "other") == prompts


def test_unusable_banks_say_what_to_do(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "a.csv").write_text("id,words\n1,x\n")
    (tmp_path / "a.doc").write_text("x")
    for name, said in {
        "none.txt": "no such file",
        "empty.txt": "holds no prompts",
        "bad.txt": "cannot be read as UTF-8",
        "a.csv": r"row 1.*'rewrite_prompt' is missing \(columns here: id, words\).*bank_column",
        "a.doc": "one prompt on each line",
    }.items():
        with pytest.raises(PromptRecoveryError, match=said):
            read_prompts(tmp_path / name)
