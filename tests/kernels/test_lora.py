import pytest
import torch
from peft import LoraConfig, get_peft_model

from prompt_recovery.backbones.adapters import add_adapter
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.kernels.lora import fuse_lora
from prompt_recovery.trees import pack, score_completions
from tests.closeness import assert_close
from tests.trees.test_forward import PAD, ROUNDING, random_trees, tiny_model


def randomised(model):
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    return model


def result(model):
    scores = score_completions(model, pack(random_trees(), PAD)).log_probability
    trained = [p for p in model.parameters() if p.requires_grad]
    return scores.detach(), torch.autograd.grad(scores.sum(), trained)


@pytest.mark.parametrize("architecture", ["llama", "phi"])  # phi's layers have biases
def test_values_and_gradients_are_pefts(architecture):
    model = randomised(add_adapter(tiny_model(architecture), Adapter(rank=4), torch.float32))
    fused = [m for m in model.modules() if "forward" in vars(m)]
    assert len(fused) >= 8
    ours, our_gradients = result(model)
    for module in fused:
        del module.forward  # PEFT's own comes back
    theirs, their_gradients = result(model)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=ROUNDING)
    for a, b in zip(our_gradients, their_gradients, strict=True):
        assert_close(a, b, rtol=2e-5)


def test_an_adapter_that_is_off_or_merged_is_left_to_peft():
    model = randomised(add_adapter(tiny_model("llama"), Adapter(rank=4), torch.float32))
    batch = pack(random_trees(), PAD)
    with torch.no_grad():
        on = score_completions(model, batch).log_probability
        with model.disable_adapter():
            off = score_completions(model, batch).log_probability
        plain = score_completions(tiny_model("llama"), batch).log_probability
        model.merge_adapter()
        merged = score_completions(model, batch).log_probability
    torch.testing.assert_close(off, plain)
    torch.testing.assert_close(merged, on, atol=0, rtol=ROUNDING)
    assert (on - off).abs().max() > 0.1


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_dropout": 0.1}])
def test_other_kinds_are_left_to_peft(options):
    config = LoraConfig(r=4, target_modules=["q_proj"], **options)
    assert fuse_lora(get_peft_model(tiny_model("llama"), config)) == 0
