import pytest
import torch
from transformers import AutoModelForCausalLM

from prompt_recovery.backbones.tiny import ARCHITECTURES, tiny_backbone
from prompt_recovery.kernels.norms import fuse_norms

PER_LAYER = {"gemma2": 4, "gemma3": 6, "phi": 0}  # phi has LayerNorm


def loaded(architecture, dtype):
    model = AutoModelForCausalLM.from_pretrained(tiny_backbone(architecture), dtype=dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name and parameter.dim() == 1:  # random ones, not all equal
            torch.nn.init.uniform_(parameter, 0.5, 1.5, torch.Generator().manual_seed(1))
    return model.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_values_and_gradients_equal_those_of_transformers(architecture, dtype):
    results = []
    for fuse in (False, True):
        model = loaded(architecture, dtype)
        count = fuse_norms(model) if fuse else 0
        embedded = model.get_input_embeddings()(torch.arange(20)[None]).requires_grad_()
        logits = model(inputs_embeds=embedded).logits
        logits.float().logsumexp(-1).sum().backward()
        results.append((logits.detach(), embedded.grad))
    per_layer = PER_LAYER.get(architecture, 2)
    assert count == (per_layer and 2 * per_layer + 1)
    assert torch.equal(results[0][0], results[1][0])
    scale = results[0][1].abs().max()
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    assert (results[0][1] - results[1][1]).abs().max() <= tolerance * scale


def test_a_norm_that_computes_otherwise_is_left_alone():
    class OddRMSNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8), requires_grad=False)
            self.eps = 1e-6

        def forward(self, x):
            return 2 * x

    assert fuse_norms(torch.nn.Sequential(OddRMSNorm())) == 0
