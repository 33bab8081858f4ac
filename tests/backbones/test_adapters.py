import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from prompt_recovery.backbones.adapters import add_adapter, require_low_rank
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.errors import PromptRecoveryError


def small():
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, attention_bias=True,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({}, None),
        ({"use_dora": True}, None),
        ({"bias": "lora_only"}, "q_proj"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_B.bias"),
        ({"modules_to_save": ["norm"]}, "norm"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_only_low_rank_weights_are_trained_further(options, refused, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **options)
    get_peft_model(small(), config).save_pretrained(tmp_path)
    if refused is None:
        require_low_rank(tmp_path)
    else:
        with pytest.raises(PromptRecoveryError, match=refused) as raised:
            require_low_rank(tmp_path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("share", "adapted"), [(0.4, {3, 4}), (1.0, {0, 1, 2, 3, 4}), (0.05, {4}), (0.5, {3, 4})]
)
def test_a_share_of_the_layers_is_counted_from_the_output(share, adapted):
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=5,
        num_attention_heads=2,
    )
    model = add_adapter(
        AutoModelForCausalLM.from_config(config), Adapter(rank=2, layers=share), torch.float32
    )
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {int(re.search(r"\.layers\.(\d+)\.", name)[1]) for name in trained} == adapted
    # Gradients reach all that is trained, and no layer below.
    model(input_ids=torch.arange(6)[None]).logits.logsumexp(-1).sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == set(trained)
