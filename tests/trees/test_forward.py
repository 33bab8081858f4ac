"""Tree log-probabilities against one-by-one forward passes of the same model."""

import pytest
import torch

from prompt_recovery.backbones.adapters import add_adapter
from prompt_recovery.backbones.load import load_model
from prompt_recovery.backbones.locate import Backbone, Location
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.backbones.tiny import ARCHITECTURES, tiny_backbone
from prompt_recovery.kernels import attention, vocabulary
from prompt_recovery.trees import Tree, pack, score_completions
from tests.closeness import assert_close

PAD = 2
# Of a log-probability, which is a sum of up to 30 in fp32 (2^-24 each) over logits that round too.
ROUNDING = 3e-6


def tiny_model(architecture, dtype=torch.float32):
    backbone = Backbone("tiny", architecture=architecture)
    return load_model(backbone, Location(tiny_backbone(architecture)), dtype)


def random_trees(seed=0, prompts=(40, 7, 23), completions=((5, 30, 1), (9,), (3, 4)), shared=0):
    """Trees whose prompts begin with the same `shared` tokens."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(n):
        return torch.randint(6, 512, (n,), generator=generator).tolist()

    beginning = tokens(shared)
    return [
        Tree(beginning + tokens(p), [tokens(c) for c in cs])
        for p, cs in zip(prompts, completions, strict=True)
    ]


def one_by_one(model, trees):
    """log p(completion | prompt) from the model's own full logits, fp32."""
    values = []
    for tree in trees:
        for completion in tree.completions:
            ids = torch.tensor([[*tree.prompt, *completion]])
            logits = model(input_ids=ids).logits[0].float().log_softmax(-1)
            rows = torch.arange(len(tree.prompt) - 1, ids.shape[1] - 1)
            values.append(logits[rows, torch.tensor(completion)].sum())
    return torch.stack(values)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_one_by_one(architecture, together):
    model = tiny_model(architecture)
    trees = random_trees(shared=20)
    batch = pack(trees, PAD, together)
    whole = sum(map(len, trees))
    assert batch.input_ids.shape == ((1, whole - 40) if together else (3, max(map(len, trees))))
    with torch.no_grad():
        scores = score_completions(model, batch)
        expected = one_by_one(model, trees)
    torch.testing.assert_close(scores.log_probability, expected, atol=0, rtol=ROUNDING)
    assert scores.length.tolist() == [5, 30, 1, 9, 3, 4]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_single_completions_need_no_mask(architecture):
    model = tiny_model(architecture)
    trees = random_trees(prompts=(40, 7), completions=((5,), (9,)))
    batch = pack(trees, PAD)
    assert batch.is_causal
    with torch.no_grad():
        scores = score_completions(model, batch)
        expected = one_by_one(model, trees)
    torch.testing.assert_close(scores.log_probability, expected, atol=0, rtol=ROUNDING)


@pytest.mark.parametrize("together", [False, True])
def test_the_last_feed_forward_part_computes_only_what_is_predicted_from(together):
    model = tiny_model("llama")
    trees, mlp = random_trees(), model.get_decoder().layers[-1].mlp
    fused, seen = vars(mlp)["forward"], [set(), set()]
    for calls, layer in zip(seen, model.get_decoder().layers, strict=True):
        layer.mlp.gate_proj.register_forward_pre_hook(
            lambda _, given, calls=calls: calls.add(given[0].numel() // given[0].shape[-1])
        )
    batch = pack(trees, PAD, together)
    with torch.no_grad():
        score_completions(model, batch)
    assert seen == [{batch.input_ids.numel()}, {len(batch.predictors.unique())}]
    assert vars(mlp)["forward"] == fused, "it is itself again"


def test_siblings_do_not_matter():
    model = tiny_model("mistral")
    [tree] = random_trees(prompts=(30,), completions=((6, 8),))
    other = Tree(tree.prompt, [tree.completions[0], [9] * 8])
    with torch.no_grad():
        a, b = (
            score_completions(model, pack([t], PAD, True)).log_probability for t in (tree, other)
        )
    torch.testing.assert_close(a[0], b[0])
    assert abs(a[1] - b[1]) > 0.1


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mistral"])
def test_gradients_equal_one_by_one(architecture, together, monkeypatch):
    monkeypatch.setattr(attention, "_QUERIES", 16)  # several pieces
    monkeypatch.setattr(vocabulary, "_LOGITS", 8 * 512)  # several pieces
    model = add_adapter(tiny_model(architecture), Adapter(rank=4), torch.float32)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    trees = random_trees(shared=20)
    trained = [p for p in model.parameters() if p.requires_grad]
    batch = pack(trees, PAD, together)
    score_completions(model, batch).mean_log_probability.sum().backward()
    tree_gradients = [p.grad.clone() for p in trained]
    model.zero_grad()
    lengths = torch.tensor([len(c) for t in trees for c in t.completions])
    (one_by_one(model, trees) / lengths).sum().backward()
    for ours, parameter in zip(tree_gradients, trained, strict=True):
        assert_close(ours, parameter.grad, rtol=5e-5)


def test_layers_that_are_computed_again_have_the_same_gradients():
    """The backward pass computes the last layer when its context has long ended."""
    gradients = []
    for checkpointing in (False, True):
        base = tiny_model("llama")
        if checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(0)
        model = add_adapter(base, Adapter(rank=4, dropout=0.0), torch.float32).train()
        score_completions(model, pack(random_trees(), PAD, True)).log_probability.sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for again, plain in zip(*gradients, strict=True):
        assert_close(again, plain, rtol=5e-5)


def test_bf16_stays_near_fp32():
    trees = random_trees()
    batch = pack(trees, PAD, True)
    with torch.no_grad():
        exact = score_completions(tiny_model("llama"), batch).mean_log_probability
        model = tiny_model("llama", torch.bfloat16)
        tree = score_completions(model, batch).mean_log_probability
        lengths = torch.tensor([len(c) for t in trees for c in t.completions])
        alone = one_by_one(model, trees) / lengths
    tree_error = (tree - exact).abs().max()
    assert tree_error < 0.1
    assert tree_error < 3 * (alone - exact).abs().max() + 1e-3
