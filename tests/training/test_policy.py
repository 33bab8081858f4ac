"""Runs that train on what the model samples meanwhile."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import GRPO, RLOO
from prompt_recovery.recovery.cleaning import clean_prompt
from prompt_recovery.recovery.mbr import expected_under
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.training import language_model, policy
from prompt_recovery.training.job import Batching, Logging, Optimisation
from prompt_recovery.training.policy import PolicyModule, Rollout
from prompt_recovery.training.run import train
from prompt_recovery.trees.forward import score_completions
from prompt_recovery.trees.frozen import FrozenLayers
from tests.closeness import assert_close
from tests.training.test_run import make_job

STEPS = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "max_steps": 6,
    "log_every_n_steps": 1,
    "gradient_clip_val": 1.0,
    "enable_progress_bar": False,
}


def job(folder, examples, scs, objective, **changes):
    options = {
        "objective": objective,
        "adapter": Adapter(rank=4, dropout=0.0),
        "batching": Batching(batch_size=4, max_prompt_tokens=80),
        "optim": Optimisation(learning_rate=0.01),
        "trainer": STEPS,
        "logger": Logging("csv"),
        "evaluate": False,
    }
    return make_job(folder, examples, scs, **{**options, **changes})


class StoppedError(Exception):
    pass


def seen(monkeypatch, stop=None):
    """The rollouts of all training steps, in order; the step with number `stop` fails."""
    rollouts = []
    original = PolicyModule.training_step

    def step(self, batch, index):
        if len(rollouts) == stop:
            raise StoppedError
        loss = original(self, batch, index)
        rollouts.append((self._rollout, float(loss.detach())))
        return loss

    monkeypatch.setattr(PolicyModule, "training_step", step)
    return rollouts


@pytest.mark.parametrize(
    "objective",
    [GRPO(samples=3), GRPO(samples=3, updates=2, beta=0.1), RLOO(samples=3, updates=2, beta=0.1)],
    ids=["grpo", "grpo_updates_kl", "rloo"],
)
def test_a_run_samples_rewards_and_trains(objective, tmp_path, examples, scs, monkeypatch):
    rollouts = seen(monkeypatch)
    metrics = train(job(tmp_path, examples, scs, objective))
    assert metrics["train/steps"] == 6
    for rollout, _ in rollouts:
        assert len(rollout.tokens) == len(rollout.rewards) == 3 * 4
        assert (rollout.reference is None) == (objective.beta == 0)
    batches = [rollout.step for rollout, _ in rollouts]
    assert batches == [n // objective.updates for n in range(6)]
    # Repeated updates are on the same samples, and each batch has new ones.
    assert len({id(rollout) for rollout, _ in rollouts}) == 6 // objective.updates
    text = json.loads((tmp_path / "metrics.json").read_text())
    assert -1 <= text["train/reward"] <= text["train/best_reward"] <= 1
    assert ("train/kl" in text) == (objective.beta > 0)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(w.abs().max() > 0 for n, w in weights.items() if "lora_B" in n)


def test_what_is_rewarded_becomes_more_likely(tmp_path, examples, scs, monkeypatch):
    """The mean log-probability of samples with positive advantage rises against the others."""
    gains = []
    original = PolicyModule.training_step

    def step(self, batch, index):
        if self._rollout is not None and index % 2:
            rollout, trees = self._rollout, self._trees(batch, self._rollout)
            with torch.no_grad():
                now = score_completions(self.model, trees).tokens - rollout.old
            groups = rollout.rewards.view(-1, 4)
            advantage = (groups - groups.mean(1, keepdim=True)).flatten()[trees.completion]
            gains.append(float((now * advantage.sign()).mean()))
        return original(self, batch, index)

    monkeypatch.setattr(PolicyModule, "training_step", step)
    train(job(tmp_path, examples, scs, GRPO(samples=4, updates=2)))
    assert len(gains) == 3 and all(gain > 0 for gain in gains)


def test_rewards_are_those_of_the_samples_and_the_reference_has_no_dropout(
    tmp_path, examples, scs, monkeypatch
):
    rollouts, modes = [], []
    sampled, score = PolicyModule._sampled, policy.score_completions

    def sample(self, batch, step):
        rollout = sampled(self, batch, step)
        truths = [self.examples[i].rewrite_prompt for i in batch.indices for _ in range(2)]
        texts = [clean_prompt(self.writer.decoded(tokens)) for tokens in rollout.tokens]
        rollouts.append((texts, truths, rollout.rewards.tolist()))
        return rollout

    def scored(model, trees):
        modes.append(model.training)
        return score(model, trees)

    monkeypatch.setattr(PolicyModule, "_sampled", sample)
    monkeypatch.setattr(policy, "score_completions", scored)
    train(
        job(
            tmp_path, examples, scs, GRPO(samples=2, beta=0.1),
            adapter=Adapter(rank=4, dropout=0.5), trainer=STEPS | {"max_steps": 2},
        )
    )  # fmt: skip
    for texts, truths, rewards in rollouts:
        assert rewards == pytest.approx(scs(texts, truths), abs=1e-5)
    assert len(rollouts) == 2
    assert modes == [False, True] * 2, "the reference in evaluation, the policy in training mode"


def test_a_penalty_for_leaving_the_reference_lowers_the_advantage():
    objective = RLOO(samples=2, beta=0.5)
    rollout = Rollout(
        0, [[5, 6], [7]], torch.tensor([True, True]), torch.tensor([0.3, 0.1]),
        reference=torch.tensor([-2.0, -3.0, -1.0]), old=torch.tensor([-1.0, -2.5, -1.5]),
    )  # fmt: skip
    made = PolicyModule._completions(
        SimpleNamespace(objective=objective, max_new_tokens=4),
        tokens := torch.tensor([-1.1, -2.4, -1.5]),
        SimpleNamespace(completion=torch.tensor([0, 0, 1])),
        rollout,
    )
    kept = 0.3 - 0.5 * 1.5, 0.1 + 0.5 * 0.5
    expected = torch.tensor([kept[0] - kept[1], kept[1] - kept[0]])
    torch.testing.assert_close(made.advantage, expected)
    assert made.log_probability is tokens and made.old is rollout.old


def test_a_blank_sample_has_no_reward_and_an_unlabelled_pair_the_expected_one(scs):
    known, unlabelled = (
        RewriteExample("a", "o", "r", "Make it rhyme"),
        RewriteExample("b", "o", "r", ""),
    )
    posterior = Posterior.of_weights(["Shorten it", "Add a joke"], [3, 1])
    texts = ["Shorten it", "Make it rhyme", "", "Make it rhyme", "", "Be brief"]
    rewards = PolicyModule._rewards(
        SimpleNamespace(posteriors={"b": posterior}, scs=scs),
        texts,
        [unlabelled, known, known, unlabelled, unlabelled, known],
    )
    expected = expected_under(["Shorten it", "Make it rhyme"], posterior, scs)
    truths = scs(["Make it rhyme", "Be brief"], ["Make it rhyme"] * 2)
    wanted = [expected[0], truths[0], 0, expected[1], 0, truths[1]]
    assert rewards == pytest.approx(np.array(wanted), abs=1e-6)


def test_frozen_layers_are_computed_once_for_the_reference_and_all_updates(
    tmp_path, examples, scs, monkeypatch
):
    def run(name, objective=GRPO(samples=3, updates=2, beta=0.1)):  # noqa: B008  # frozen
        with monkeypatch.context() as patch:
            steps = seen(patch)
            options = {"adapter": Adapter(rank=4, layers=0.5), "trainer": STEPS | {"max_steps": 4}}
            train(job(tmp_path / name, examples, scs, objective, **options))
        return steps, load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")

    used = []
    for method in ("watched", "skipped"):
        original = getattr(FrozenLayers, method)
        monkeypatch.setattr(
            FrozenLayers, method, lambda *a, m=method, o=original: used.append(m) or o(*a)
        )
    steps, weights = run("once")
    assert used == ["watched", "skipped", "skipped"] * 2
    run("scored_once", GRPO(samples=3, updates=1, beta=0))
    assert len(used) == 6
    monkeypatch.setattr(language_model, "frozen_layers", lambda _: 0)
    plain, expected = run("again")
    assert len(used) == 6
    assert [r.tokens for r, _ in steps] == [r.tokens for r, _ in plain]
    assert [loss for _, loss in steps] == pytest.approx([loss for _, loss in plain], rel=1e-5)
    for name, weight in weights.items():
        assert_close(weight, expected[name], rtol=1e-4)


@pytest.mark.parametrize(("stop", "layers"), [(2, 1.0), (3, 1.0), (3, 0.5)])
def test_a_broken_off_run_goes_on_with_the_same_samples(
    stop, layers, tmp_path, examples, scs, monkeypatch
):
    """Also between two updates on the same samples, which are then in the checkpoint."""
    objective = GRPO(samples=3, updates=2, beta=0.1)
    options = {"adapter": Adapter(rank=4, layers=layers), "checkpoint_minutes": 0}
    with monkeypatch.context() as patch:
        whole = seen(patch)
        train(job(tmp_path / "whole", examples, scs, objective, **options))
    with monkeypatch.context() as patch:
        seen(patch, stop)
        with pytest.raises(StoppedError):
            train(job(tmp_path / "broken", examples, scs, objective, **options))
    checkpoint = str(tmp_path / "broken" / "checkpoints" / "last.ckpt")
    with monkeypatch.context() as patch:
        rest = seen(patch)
        folder = tmp_path / "resumed"
        train(job(folder, examples, scs, objective, ckpt_path=checkpoint, **options))
    assert [loss for _, loss in rest] == [loss for _, loss in whole[stop:]]
    assert [r.tokens for r, _ in rest] == [r.tokens for r, _ in whole[stop:]]
    a, b = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("whole", "resumed")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_resumed_run_goes_on_with_the_last_rewards(tmp_path, examples, scs, monkeypatch):
    """A batch without a true or an expected reward repeats the last one."""
    told = []
    original = PolicyModule.training_step

    def step(self, batch, index):
        told.append(list(self._last_rewards))
        self._last_rewards = [0.25, 0.5]
        return original(self, batch, index)

    monkeypatch.setattr(PolicyModule, "training_step", step)
    checkpoint = tmp_path / "1" / "checkpoints" / "last.ckpt"
    for steps, ckpt_path in ((1, None), (2, str(checkpoint))):
        options = {"trainer": STEPS | {"max_steps": steps}, "checkpoint_minutes": 0}
        folder = tmp_path / str(steps)
        train(job(folder, examples, scs, GRPO(samples=2), ckpt_path=ckpt_path, **options))
    assert told == [[0.0, 0.0], [0.25, 0.5]]


def test_samples_do_not_depend_on_the_batch(tmp_path, examples, scs, monkeypatch):
    """An example has the same samples alone and with others, before the first update."""

    def first(folder, size):
        with monkeypatch.context() as patch:
            rollouts = []
            original = PolicyModule._sampled

            def sampled(self, batch, step):
                rollout = original(self, batch, step)
                rollouts.append((batch, rollout))
                return rollout

            patch.setattr(PolicyModule, "_sampled", sampled)
            train(
                job(
                    folder, examples, scs, GRPO(samples=3),
                    batching=Batching(batch_size=size, max_prompt_tokens=80),
                    trainer=STEPS | {"max_steps": 1 if size > 1 else 8},
                    optim=Optimisation(learning_rate=1e-12),
                )
            )  # fmt: skip
        return {
            index: rollout.tokens[3 * n : 3 * n + 3]
            for batch, rollout in rollouts
            for n, index in enumerate(batch.indices)
        }

    many, alone = first(tmp_path / "many", 16), first(tmp_path / "alone", 1)
    both = many.keys() & alone.keys()
    assert len(both) > 2
    assert all(many[i] == alone[i] for i in both)


def test_what_does_not_go_together_is_one_line(tmp_path, examples, scs):
    with pytest.raises(PromptRecoveryError, match="keep_hidden_states=false"):
        job(tmp_path, examples, scs, GRPO(), keep_hidden_states=True)
    with pytest.raises(PromptRecoveryError, match="set one of them to 1"):
        job(
            tmp_path, examples, scs, GRPO(updates=2), trainer=STEPS | {"accumulate_grad_batches": 2}
        )
