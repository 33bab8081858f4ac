import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prompt_recovery.runs.differences import difference, read_weights, restored, write_weights


@pytest.fixture
def weights():
    values = np.random.default_rng(0)
    base = {
        "words": values.normal(size=(40, 8)).astype(np.float32),
        "bias": values.normal(size=8).astype(np.float32),
        "dropped": np.arange(3, dtype=np.float32),
    }
    changed = {
        "words": base["words"] + 0.02 * values.normal(size=(40, 8)).astype(np.float32),
        "bias": base["bias"] + 0.5,
        "new": values.normal(size=(2, 3)).astype(np.float32),
    }
    changed["words"][10:20] = base["words"][10:20]
    return changed, base


def test_matrices_are_kept_in_eight_bits_and_the_rest_as_it_is(weights):
    changed, base = weights
    packed = difference(changed, base)
    assert packed["words"].dtype == np.int8 and packed["bias"].dtype == np.float32
    assert not packed["words"][10:20].any(), "rows that were not trained are zeros"
    again = restored(packed, base)
    assert set(again) == {"words", "bias", "new"}
    largest = np.abs(changed["words"] - base["words"]).max(axis=1, keepdims=True)
    assert (np.abs(again["words"] - changed["words"]) <= largest / 254 + 1e-6).all()
    assert np.array_equal(again["words"][10:20], base["words"][10:20])
    assert np.allclose(again["bias"], changed["bias"], atol=1e-6)
    assert np.array_equal(again["new"], changed["new"])
    assert all(weight.dtype == np.float32 for weight in again.values())


def test_a_file_has_the_same_bytes_for_the_same_weights_and_any_library_reads_it(weights, tmp_path):
    packed = difference(*weights) | {"half": np.ones((3, 1), np.float16)}
    write_weights(tmp_path / "one", packed)
    write_weights(tmp_path / "two", dict(reversed(packed.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    theirs = load_file(tmp_path / "one")
    assert set(theirs) == set(packed) == set(read_weights(tmp_path / "one"))
    assert all(torch.equal(theirs[n], torch.from_numpy(packed[n])) for n in packed)
