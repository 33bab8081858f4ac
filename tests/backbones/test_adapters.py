import re

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from prompt_recovery.backbones.adapters import add_adapter
from prompt_recovery.backbones.low_rank import Adapter


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
