import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.kernels import attention
from prompt_recovery.trees import pack, score_completions
from prompt_recovery.trees.masks import attention_mask, block_mask, visible
from tests.trees.test_forward import PAD, random_trees, tiny_model


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("window", [None, 16])
def test_block_masks_show_what_dense_masks_show(together, window):
    batch = pack(random_trees(shared=20), PAD, together)
    mod = block_mask(batch, window).mask_mod
    rows, length = batch.input_ids.shape
    index = torch.arange(length)
    shown = mod(torch.arange(rows)[:, None, None], torch.tensor(0), index[:, None], index[None, :])
    assert torch.equal(shown, visible(batch, window))


@pytest.mark.parametrize("queries", [128, 7])
@pytest.mark.parametrize("gap", [64, 0])
@pytest.mark.parametrize("window", [None, 16])
def test_plans_show_what_dense_masks_show(window, gap, queries, monkeypatch):
    monkeypatch.setattr(attention, "_QUERIES", queries)
    monkeypatch.setattr(attention, "_GAP", gap)
    batch = pack(random_trees(shared=20), PAD, together=True)
    runs = attention.plan(
        batch.until[0], batch.position_ids[0], batch.tree[0], window, torch.float32
    )
    shown = torch.zeros(1, *[batch.input_ids.shape[1]] * 2, dtype=torch.bool)
    for columns, piece in [(r.columns, p) for r in runs for p in r.pieces]:
        assert piece.end - piece.start <= queries
        gathered = [c for start, end in columns for c in range(start, end)]
        keys = [gathered[c] for start, end in piece.keys for c in range(start, end)]
        assert len(keys) == piece.clear + piece.mask.shape[1]
        seen = torch.ones(piece.end - piece.start, len(keys), dtype=torch.bool)
        seen[:, piece.clear :] = piece.mask == 0
        shown[0, piece.start : piece.end, keys] = seen
        # No tree's keys are multiplied with another's queries.
        theirs = set(batch.tree[0, keys].tolist()) | {-1}
        assert theirs <= {-1, *batch.tree[0, piece.start : piece.end].tolist()}
    assert torch.equal(shown, visible(batch, window))


def test_only_the_plain_causal_mask_is_left_to_the_model():
    model = tiny_model("llama")
    [single] = random_trees(prompts=(9,), completions=((5,),))
    assert attention_mask(model, pack([single, single], PAD)) is None
    assert attention_mask(model, pack([single], PAD)) is not None, "a plan, which skips work"
    branching = pack(random_trees(), PAD)
    assert attention_mask(model, branching).shape[-2:] == (branching.input_ids.shape[1],) * 2


def test_whoever_reads_the_values_of_a_planned_mask_gets_nan():
    model = tiny_model("gemma3")
    for mask in attention_mask(model, pack(random_trees(), PAD, together=True)).values():
        assert mask.shape[-1] == sum(map(len, random_trees()))
        assert math.isnan((torch.zeros(()) + mask[0, 0, 3, 2]).item())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's kernels need a CUDA GPU")
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3"])
def test_flex_equals_sdpa(architecture):
    attention.register()
    folder = tiny_backbone(architecture)
    batch = pack(random_trees(shared=20), PAD, together=True).to("cuda")
    values = []
    for implementation in ("sdpa", attention.NAME):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=implementation
        ).to("cuda")
        with torch.no_grad():
            values.append(score_completions(model, batch).log_probability)
    torch.testing.assert_close(*values, atol=1e-3, rtol=1e-3)
