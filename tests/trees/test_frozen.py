"""Hidden states below the lowest adapter, kept and used again."""

import pytest
import torch

from prompt_recovery.backbones.adapters import add_adapter
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.backbones.tiny import ARCHITECTURES
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.trees import causal_lm_of, frozen, pack, score_completions
from prompt_recovery.trees.frozen import FrozenStates, frozen_layers
from tests.closeness import assert_close
from tests.kernels.test_lora import randomised
from tests.trees.test_forward import PAD, ROUNDING, random_trees, tiny_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    return tmp_path


def adapted(architecture="llama", layers=0.5, dtype=torch.float32):
    torch.manual_seed(0)
    model = add_adapter(tiny_model(architecture, dtype), Adapter(rank=4, layers=layers), dtype)
    return randomised(model)


def step(model, states, trees, chosen, together):
    """The values and the gradients of a batch of some of the trees."""
    batch = pack([trees[i] for i in chosen], PAD, together)
    with states.used(batch, chosen):
        values = score_completions(model, batch).log_probability
    trained = [p for p in model.parameters() if p.requires_grad]
    return values.detach(), torch.autograd.grad(values.sum(), trained)


def count_calls(model):
    """Notes each call of the first layer's attention."""
    calls = []
    layer = causal_lm_of(model).get_decoder().layers[0]
    layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_are_the_same_and_begin_at_the_lowest_adapter(architecture, together):
    model = adapted(architecture)
    trees = random_trees(shared=20)
    states = FrozenStates(model, trees, "identity")
    calls = count_calls(model)
    first = step(model, states, trees, [0, 1, 2], together)
    assert len(calls) == 1
    for chosen in ([0, 1, 2], [2, 0]):  # other batches have the same hidden states
        batch = pack([trees[i] for i in chosen], PAD, together)
        plain = score_completions(model, batch).log_probability.detach()
        calls.clear()
        values, gradients = step(model, states, trees, chosen, together)
        assert not calls
        torch.testing.assert_close(values, plain, atol=0, rtol=ROUNDING)
        if chosen == [0, 1, 2]:
            for a, b in zip(gradients, first[1], strict=True):
                assert_close(a, b, rtol=2e-5)


def test_a_new_process_goes_on_where_the_last_one_stopped():
    model, trees = adapted(), random_trees()
    step(model, FrozenStates(model, trees, "identity"), trees, [0, 2], True)
    states, calls = FrozenStates(model, trees, "identity"), count_calls(model)
    step(model, states, trees, [2, 0], True)
    assert not calls
    step(model, states, trees, [1, 0], True)
    assert len(calls) == 1
    step(model, states, trees, [0, 1, 2], True)
    assert len(calls) == 1


def test_a_damaged_entry_is_computed_again():
    model, trees = adapted(), random_trees()
    states, calls = FrozenStates(model, trees, "identity"), count_calls(model)
    good, _ = step(model, states, trees, [0, 1, 2], True)
    with states.path.open("rb+") as file:
        file.seek(1000)
        file.write(b"damage")
    again, _ = step(model, states, trees, [0, 1, 2], True)
    assert len(calls) == 2
    torch.testing.assert_close(again, good)
    step(model, states, trees, [0, 1, 2], True)
    assert len(calls) == 2


def test_other_weights_tokens_layers_and_dtypes_have_files_of_their_own():
    trees = random_trees()
    paths = {
        FrozenStates(adapted(), trees, "identity").path,
        FrozenStates(adapted(), trees, "other").path,
        FrozenStates(adapted(), trees[:2], "identity").path,
        FrozenStates(adapted(), random_trees(1), "identity").path,
        FrozenStates(adapted(dtype=torch.bfloat16), trees, "identity").path,
    }
    assert len(paths) == 5
    assert FrozenStates(adapted(), trees, "identity").path in paths


def test_the_size_is_that_of_the_hidden_states():
    trees = random_trees()
    tokens = sum(map(len, trees))
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        states = FrozenStates(adapted(dtype=dtype), trees, "identity")
        assert states.size == tokens * 32 * size + 4 * len(trees) == states.path.stat().st_size


def test_what_is_trained_or_random_is_not_frozen():
    assert frozen_layers(adapted(layers=0.5)) == 1
    assert frozen_layers(adapted(layers=1.0)) == 0
    model = adapted(layers=0.5)
    causal_lm_of(model).get_input_embeddings().weight.requires_grad_(True)
    assert frozen_layers(model) == 0
    model = adapted(layers=0.5)
    causal_lm_of(model).config.attention_dropout = 0.1
    assert frozen_layers(model) == 0


def test_too_little_disk_is_one_line(monkeypatch):
    usage = frozen.shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(frozen.shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(PromptRecoveryError, match="keep_hidden_states needs .* GB free") as caught:
        FrozenStates(adapted(), random_trees(), "identity")
    assert "\n" not in str(caught.value)
