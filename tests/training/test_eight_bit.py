"""Runs whose frozen layers compute in 8 bits."""

import json

import pytest
import torch

from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.kernels.eight_bit import eight_bits_work
from prompt_recovery.recovery import MBR, Pair, load_recoverer
from prompt_recovery.training.run import train
from prompt_recovery.trees.frozen import FrozenStates
from tests.training.test_run import make_job

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="8 bits are for CPUs"),
    pytest.mark.skipif(not eight_bits_work(), reason="needs a processor with VNNI"),
]


def test_a_run_is_nearly_that_in_fp32_and_its_recoverer_answers_in_both(
    tmp_path, examples, scs, monkeypatch
):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path / "cache"))
    adapter = Adapter(rank=4, layers=0.5)
    found, kept = {}, []
    opened = FrozenStates._opened
    monkeypatch.setattr(FrozenStates, "_opened", lambda s: kept.append(s.path) or opened(s))
    for precision in ("fp32", "int8"):
        job = make_job(
            tmp_path / precision, examples, scs, adapter=adapter, precision=precision,
            keep_hidden_states=True, evaluate=False,
        )  # fmt: skip
        found[precision] = train(job)
    assert found["int8"]["train/loss"] != found["fp32"]["train/loss"]
    assert found["int8"]["train/loss"] == pytest.approx(found["fp32"]["train/loss"], rel=0.01)
    assert kept[0] != kept[1], "each precision has its own hidden states"
    weights = json.loads((tmp_path / "int8" / "adapter" / "adapter_config.json").read_text())
    assert weights["r"] == 4
    pairs = [Pair(e.id, e.original_text, e.rewritten_text) for e in job.splits.test[:2]]
    for precision in ("fp32", "int8"):
        recoverer = load_recoverer(tmp_path / "int8", MBR(4), precision)
        assert all(p.rewrite_prompt for p in recoverer.recover(pairs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": Adapter(dora=True, name="dora")}, "adapter=dora needs the weights themselves"),
        ({"trainer": {"strategy": "fsdp", "accelerator": "cpu"}}, "fsdp cannot shard 8-bit"),
    ],
)
def test_what_needs_the_weights_is_refused(changes, message, tmp_path, examples, scs):
    with pytest.raises(PromptRecoveryError, match=message):
        train(make_job(tmp_path, examples, scs, precision="int8", **changes))
