"""Policy gradients against TRL on the same batch, and against their formulas one by one."""

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_recovery.backbones.load import load_tokenizer
from prompt_recovery.backbones.locate import Backbone, Location
from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import GRPO, RLOO, SampledCompletions
from prompt_recovery.trees import Tree, pack
from prompt_recovery.trees.forward import score_completions
from tests.objectives.test_objectives import adapted
from tests.trees.test_forward import PAD

PROMPTS = [[5, 9, 31, 7], [8, 12]]
COMPLETIONS = [[[20, 21, 22], [23], [24, 25, 26, 27, 28], [29, 30]],
               [[31, 32], [33, 34, 35], [36], [37, 38, 39, 40]]]  # fmt: skip
REWARDS = [0.1, 0.5, 0.02, 0.3, 0.9, 0.9, 0.4, 0.0]
MOST = 6


def padded(rows, side):
    width = max(map(len, rows))
    fill = [[PAD] * (width - len(r)) for r in rows]
    ids = [f + r if side == "left" else r + f for r, f in zip(rows, fill, strict=True)]
    mask = [[0] * len(f) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * len(f)
            for r, f in zip(rows, fill, strict=True)]  # fmt: skip
    return torch.tensor(ids), torch.tensor(mask)


def their_batch(values, mask):
    """Values of tokens in our order as TRL's [C, T]."""
    result = torch.zeros(mask.shape)
    result[mask.bool()] = values
    return result


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (GRPO(samples=4, clip=0.1), {"loss_type": "grpo"}),
        (GRPO(samples=4, clip=0.1, beta=0.2), {"loss_type": "grpo", "beta": 0.2}),
        (
            GRPO(samples=4, clip=0.1, beta=0.2, scale_rewards=False, average="constant"),
            {"loss_type": "dr_grpo", "beta": 0.2, "scale_rewards": "none"},
        ),
        (RLOO(samples=4, clip=0.1), {}),
    ],
)
def test_equals_trl_on_the_same_batch(ours, theirs, tmp_path):
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    policy = adapted()
    kinds = (RLOOConfig, RLOOTrainer) if isinstance(ours, RLOO) else (GRPOConfig, GRPOTrainer)
    options = kinds[0](
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, epsilon=0.1,
        max_completion_length=MOST, use_cpu=True, bf16=False, report_to=[],
        gradient_checkpointing=False, **theirs,
    )  # fmt: skip
    trainer = kinds[1](
        policy,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=options,
        train_dataset=Dataset.from_list([{"prompt": "x"}] * 4),
        processing_class=load_tokenizer(
            Backbone("tiny", architecture="llama"), Location(tiny_backbone("llama"))
        ),
    )
    if "ref" in policy.peft_config:  # a copy of the adapter; here the reference is the base
        policy.delete_adapter("ref")
    policy.eval()
    packed = pack([Tree(p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)], PAD)
    generator = torch.Generator().manual_seed(0)
    said = score_completions(policy, packed)
    # The policy that wrote the completions was another one, so that some ratios are clipped.
    old = said.tokens.detach() + 0.15 * torch.randn(len(said.tokens), generator=generator)
    with torch.no_grad(), policy.disable_adapter():
        reference = score_completions(policy, packed).tokens
    rewards = torch.tensor(REWARDS)
    advantage = ours.advantages(rewards, torch.zeros(8))
    loss = ours(SampledCompletions(said.tokens, old, packed.completion, advantage, MOST, reference))
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad}
    policy.zero_grad()

    flat = [c for group in COMPLETIONS for c in group]
    prompt_ids, prompt_mask = padded([p for p in PROMPTS for _ in range(4)], "left")
    completion_ids, completion_mask = padded(flat, "right")
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": advantage,
        "old_per_token_logps": their_batch(old, completion_mask),
        "old_logps": their_batch(old, completion_mask).sum(1),
        "ref_per_token_logps": their_batch(reference, completion_mask),
    }
    trainer.current_gradient_accumulation_steps = 1
    expected = trainer._compute_loss(policy, inputs)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
    policy.zero_grad()
    assert any(g.abs().max() > 1e-3 for g in gradients.values())


def test_advantages_are_those_of_trl():
    from trl.trainer.utils import nanstd

    rewards, kl = torch.tensor(REWARDS), torch.linspace(-0.3, 0.4, 8)
    groups = rewards.view(2, 4)
    centred = groups - groups.mean(1, keepdim=True)
    deviation = nanstd(groups, dim=1).unsqueeze(1)
    scaled = GRPO(samples=4).advantages(rewards, kl)
    torch.testing.assert_close(scaled, (centred / (deviation + 1e-4)).flatten())
    plain = GRPO(samples=4, scale_rewards=False).advantages(rewards, kl)
    torch.testing.assert_close(plain, centred.flatten())
    penalised = (rewards - 0.5 * kl).tolist()
    expected = [
        penalised[i] - sum(penalised[j] for j in range(8) if j // 4 == i // 4 and j != i) / 3
        for i in range(8)
    ]
    torch.testing.assert_close(
        RLOO(samples=4, beta=0.5).advantages(rewards, kl), torch.tensor(expected)
    )


@given(
    st.lists(st.integers(1, 5), min_size=4, max_size=4),
    st.floats(0.05, 0.5),
    st.floats(0, 1),
    st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_losses_are_their_formulas_token_by_token(lengths, clip, beta, seed):
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    new, old, reference = (torch.randn(count, generator=generator) for _ in range(3))
    advantage = torch.randn(4, generator=generator)
    completion = torch.arange(4).repeat_interleave(torch.tensor(lengths))
    sampled = SampledCompletions(new, old, completion, advantage, 9, reference)
    by_completion = [[] for _ in lengths]
    for n in range(count):
        i = int(completion[n])
        ratio = float((new[n] - old[n]).exp())
        a = float(advantage[i])
        gained = min(ratio * a, min(max(ratio, 1 - clip), 1 + clip) * a)
        away = float(reference[n] - new[n])
        kl = torch.tensor(away).exp().item() - away - 1
        by_completion[i].append(-gained + beta * ratio * kl)
    means = [sum(values) / len(values) for values in by_completion]
    loss = GRPO(samples=2, clip=clip, beta=beta)(sampled)
    assert loss.item() == pytest.approx(sum(means) / 4, rel=1e-4, abs=1e-5)
    loss = GRPO(samples=2, clip=clip, beta=beta, average="constant")(sampled)
    assert loss.item() == pytest.approx(sum(map(sum, by_completion)) / 36, rel=1e-4, abs=1e-5)
    whole = []
    for i in range(4):
        ratio = float((new - old)[completion == i].sum().exp())
        a = float(advantage[i])
        whole.append(-min(ratio * a, min(max(ratio, 1 - clip), 1 + clip) * a))
    loss = RLOO(samples=2, clip=clip, beta=beta)(sampled)
    assert loss.item() == pytest.approx(sum(whole) / 4, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"samples": 1}, {"updates": 0}, {"clip": 0.0}, {"clip": 1.0}, {"beta": -0.1}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(PromptRecoveryError):
        GRPO(**options)
