"""Objectives against TRL on the same batch, and against formulas in float64."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from prompt_recovery.backbones.load import load_tokenizer
from prompt_recovery.backbones.locate import Backbone, Location
from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import (
    DPO,
    IPO,
    ORPO,
    SFT,
    Hinge,
    Listwise,
    ScoredCompletions,
    SimPO,
)
from prompt_recovery.trees import Tree, pack, score_completions
from tests.trees.test_forward import PAD, random_trees, tiny_model


@pytest.fixture(scope="module")
def policy():
    """A tiny model whose adapter changes what it says."""
    return adapted()


def adapted():
    """A tiny model with a random adapter."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_backbone("llama"), dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


ROWS = [
    {"prompt": "A ferry leaves.", "chosen": " Be merry about it.", "rejected": " No."},
    {"prompt": "Two hives.", "chosen": " As a pirate", "rejected": " Make a table of all of it"},
    {"prompt": "x", "chosen": " shorter", "rejected": " much longer, please, and in verse"},
]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DPO(beta=0.3, sft_weight=0), {"loss_type": "sigmoid", "beta": 0.3}),
        # TRL smooths labels in `aot`, which on a batch of one pair is DPO.
        (
            DPO(beta=0.3, label_smoothing=0.1, sft_weight=0),
            {"loss_type": "aot", "beta": 0.3, "label_smoothing": 0.1},
        ),
        (Hinge(beta=0.3, sft_weight=0), {"loss_type": "hinge", "beta": 0.3}),
        (IPO(beta=0.3, sft_weight=0), {"loss_type": "ipo", "beta": 0.3}),
        # TRL's SFT term is a mean over all tokens of a batch: ours, where it has one pair.
        (
            DPO(beta=0.3, sft_weight=0.7),
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7], "beta": 0.3},
        ),
    ],
)
def test_equals_trl_on_the_same_batch(ours, theirs, policy, tmp_path):
    from trl import DPOConfig, DPOTrainer

    size = 3 if theirs["loss_type"] in ("sigmoid", "hinge", "ipo") else 1
    tokenizer = load_tokenizer(
        Backbone("tiny", architecture="llama"), Location(tiny_backbone("llama"))
    )
    options = DPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=size,
        use_cpu=True,
        bf16=False,
        report_to=[],
        precompute_ref_log_probs=False,
        gradient_checkpointing=False,
        **theirs,
    )
    data = Dataset.from_list(ROWS)
    trainer = DPOTrainer(policy, args=options, train_dataset=data, processing_class=tokenizer)
    if "ref" in policy.peft_config:  # a copy of the adapter; here the reference is the base
        policy.delete_adapter("ref")
    batch = next(iter(trainer.get_train_dataloader()))
    policy.eval()
    with torch.no_grad():
        expected = trainer.compute_loss(policy, batch)

    ids, masks = batch["input_ids"].tolist(), batch["completion_mask"].tolist()
    attention = batch["attention_mask"].tolist()

    def parts(row):
        kept = [(i, m) for i, m, a in zip(ids[row], masks[row], attention[row], strict=True) if a]
        return [i for i, m in kept if not m], [i for i, m in kept if m]

    trees = [Tree(parts(n)[0], [parts(n)[1], parts(n + size)[1]]) for n in range(size)]
    packed = pack(trees, PAD)
    with torch.no_grad():
        said = score_completions(policy, packed)
        with policy.disable_adapter():
            reference = score_completions(policy, packed).log_probability
    assert (said.log_probability - reference).abs().max() > 0.1
    loss = ours(
        ScoredCompletions(said.log_probability, said.length, packed.tree_of_completion, reference)
    )
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-5)


@st.composite
def batches(draw, pairs_only=False):
    sizes = draw(st.lists(st.just(2) if pairs_only else st.integers(2, 6), min_size=1, max_size=5))
    count = sum(sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    length = rng.integers(1, 40, count).astype(float)
    return {
        "sizes": sizes,
        "log_probability": -rng.uniform(0.05, 3, count) * length,
        "reference": -rng.uniform(0.05, 3, count) * length,
        "length": length,
        "score": rng.uniform(-0.2, 1, count),
    }


def completions(batch, **changes):
    def tensor(name):
        return torch.tensor(changes.get(name, batch[name]), dtype=torch.float32)

    tree = torch.tensor([t for t, n in enumerate(batch["sizes"]) for _ in range(n)])
    return ScoredCompletions(
        tensor("log_probability"), tensor("length"), tree, tensor("reference"), tensor("score")
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@settings(deadline=None)
@given(batches(pairs_only=True))
def test_pair_objectives_equal_their_formulas(batch):
    p, n, r = batch["log_probability"], batch["length"], batch["reference"]
    margin = (p - r)[::2] - (p - r)[1::2]
    mean = p / n
    odds = mean - np.log1p(-np.exp(mean))
    nll = -mean[::2].mean()
    cases = {
        DPO(0.2, 0.1, 0): -(
            0.9 * np.log(sigmoid(0.2 * margin)) + 0.1 * np.log(sigmoid(-0.2 * margin))
        ),
        Hinge(0.2, 0): np.maximum(0, 1 - 0.2 * margin),
        IPO(0.2, 0): (((p - r) / n)[::2] - ((p - r) / n)[1::2] - 2.5) ** 2,
        SimPO(2.0, 0.5, 0): -np.log(sigmoid(2 * (mean[::2] - mean[1::2]) - 0.5)),
        ORPO(0.3): -0.3 * np.log(sigmoid(odds[::2] - odds[1::2])) + nll,
        DPO(0.2, sft_weight=0.7): -np.log(sigmoid(0.2 * margin)) + 0.7 * nll,
    }
    # Log-probabilities down to -120 in fp32 are right to 4e-6, and so is what is left of two.
    for objective, expected in cases.items():
        value = objective(completions(batch)).item()
        assert value == pytest.approx(expected.mean(), rel=1e-5, abs=1e-5), objective.name


@settings(deadline=None)
@given(batches())
def test_listwise_equals_its_formula(batch):
    expected, start = [], 0
    for size in batch["sizes"]:
        part = slice(start, start + size)
        target = np.exp(batch["score"][part] / 0.2)
        policy = 0.3 * (batch["log_probability"] - batch["reference"])[part]
        expected.append(-(target / target.sum() * (policy - np.log(np.exp(policy).sum()))).sum())
        start += size
    objective = Listwise(beta=0.3, temperature=0.2, sft_weight=0)
    assert objective(completions(batch)).item() == pytest.approx(
        np.mean(expected), rel=1e-5, abs=1e-5
    )
    # What all completions of a prompt have in common says nothing.
    same = objective(completions(batch, score=batch["score"] + 0.5)).item()
    assert same == pytest.approx(np.mean(expected), rel=1e-4, abs=1e-5)
    first = [sum(batch["sizes"][:t]) for t in range(len(batch["sizes"]))]
    assert completions(batch).first.tolist() == first


@settings(deadline=None)
@given(batches(pairs_only=True))
def test_cold_listwise_on_pairs_is_dpo(batch):
    scores = np.tile([1.0, 0.0], len(batch["sizes"]))
    listwise = Listwise(beta=0.3, temperature=0.01, sft_weight=0)(completions(batch, score=scores))
    torch.testing.assert_close(
        listwise, DPO(beta=0.3, sft_weight=0)(completions(batch)), atol=1e-5, rtol=1e-4
    )


def pair(value=(-4.0, -6.0), reference=(-4.0, -6.0), score=(1.0, 0.0)):
    log_probability = torch.tensor(value, requires_grad=True)
    return ScoredCompletions(
        log_probability,
        torch.tensor([2.0, 3.0]),
        torch.tensor([0, 0]),
        torch.tensor(reference),
        torch.tensor(score),
    )


@pytest.mark.parametrize("objective", [DPO(sft_weight=0), Listwise(temperature=1e-3, sft_weight=0)])
def test_a_policy_that_is_its_reference_is_undecided(objective):
    assert objective(pair()).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "objective", [DPO(), IPO(), Hinge(), SimPO(), ORPO(), Listwise(temperature=0.05)]
)
def test_gradients_prefer_the_chosen(objective):
    completions = pair()
    objective(completions).backward()
    chosen, rejected = completions.log_probability.grad.tolist()
    assert chosen < 0 < rejected


def test_sft_equals_the_formula():
    scores = ScoredCompletions(
        torch.tensor([-4.0, -9.0]), torch.tensor([2.0, 3.0]), torch.tensor([0, 1])
    )
    assert SFT()(scores).item() == (2 + 3) / 2
    assert SFT(length_power=0)(scores).item() == (4 + 9) / 2


def test_sft_equals_the_models_own_loss_on_one_example():
    model = tiny_model("llama")
    [tree] = random_trees(prompts=(20,), completions=((7,),))
    ids = torch.tensor([[*tree.prompt, *tree.completions[0]]])
    labels = ids.clone()
    labels[:, :20] = -100
    batch = pack([tree], PAD)
    with torch.no_grad():
        said = score_completions(model, batch)
        ours = SFT()(ScoredCompletions(said.log_probability, said.length, batch.tree_of_completion))
        theirs = model(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(ours, theirs, atol=0, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: DPO(beta=0), "beta"),
        (lambda: DPO(label_smoothing=0.5), "label_smoothing"),
        (lambda: DPO(sft_weight=-1), "sft_weight"),
        (lambda: IPO(beta=float("nan")), "beta"),
        (lambda: Hinge(beta=-1), "beta"),
        (lambda: SimPO(gamma=-1), "gamma"),
        (lambda: ORPO(weight=-1), "weight"),
        (lambda: Listwise(temperature=0), "temperature"),
        (lambda: SFT(length_power=1.5), "length_power"),
    ],
)
def test_bad_options_are_named(make, option):
    with pytest.raises(PromptRecoveryError, match=f"objective.{option}="):
        make()


def test_listwise_needs_scores():
    with pytest.raises(PromptRecoveryError, match="needs a score for every completion"):
        Listwise()(pair(score=(1.0, float("nan"))))


def test_a_missing_reference_is_an_error():
    completions = ScoredCompletions(torch.zeros(2), torch.ones(2), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="reference"):
        DPO()(completions)
