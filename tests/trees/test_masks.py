import pytest
import torch
from transformers import AutoModelForCausalLM

from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.trees import pack, score_completions
from prompt_recovery.trees.masks import FLEX, attention_mask
from tests.trees.test_forward import PAD, random_trees


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize("row_tokens", [0, 200])
def test_block_masks_show_what_dense_masks_show(architecture, row_tokens):
    model = AutoModelForCausalLM.from_pretrained(tiny_backbone(architecture), dtype=torch.float32)
    batch = pack(random_trees(), PAD, row_tokens)
    dense = attention_mask(model, batch)
    model.config._attn_implementation = FLEX
    block = attention_mask(model, batch)
    for kind in dense if isinstance(dense, dict) else [None]:
        visible = (dense if kind is None else dense[kind])[:, 0] == 0
        mod = (block if kind is None else block[kind]).mask_mod
        rows, length = batch.input_ids.shape
        index = torch.arange(length)
        shown = mod(
            torch.arange(rows)[:, None, None], torch.tensor(0), index[:, None], index[None, :]
        )
        assert torch.equal(shown, visible)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's kernels need a CUDA GPU")
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3"])
def test_flex_equals_sdpa(architecture):
    folder = tiny_backbone(architecture)
    batch = pack(random_trees(), PAD, 200).to("cuda")
    values = []
    for attention in ("sdpa", FLEX):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        ).to("cuda")
        with torch.no_grad():
            values.append(score_completions(model, batch).log_probability)
    torch.testing.assert_close(*values, atol=1e-3, rtol=1e-3)
