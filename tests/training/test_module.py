"""What all kinds of training share: the optimiser with its schedule, and exact resumption."""

import io
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import DPO, SFT, ScoredCompletions
from prompt_recovery.training import module as modules
from prompt_recovery.training.job import Optimisation
from prompt_recovery.training.loading import Batch
from prompt_recovery.training.module import RecovererModule, TrainedModule
from prompt_recovery.trees import CompletionScores


class Small(TrainedModule):
    """One layer, whose bias is frozen."""

    def __init__(self, optimisation, **trainer):
        super().__init__(optimisation, "fingerprint")
        self.model = torch.nn.Linear(3, 2)
        self.model.bias.requires_grad_(False)
        self._trainer = SimpleNamespace(world_size=1, global_rank=0, callback_metrics={}, **trainer)


def test_the_optimiser_has_its_settings_and_a_rate_for_each_step():
    options = Optimisation(learning_rate=0.5, warmup=0.2, weight_decay=0.1, beta1=0.8, beta2=0.95)
    module = Small(options, estimated_stepping_batches=10)
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]
    [group] = optimizer.param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.8, 0.95), 0.1)
    assert [p is module.model.weight for p in group["params"]] == [True]
    assert schedule["interval"] == "step"
    rates = []
    for _ in range(11):
        rates.append(group["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    assert rates == pytest.approx([0.5 * options.factor(step, 10) for step in range(11)])


def test_a_resumed_run_has_the_random_numbers_and_the_progress_of_the_checkpoint():
    def drawn():
        return float(torch.rand(())), random.random(), float(np.random.rand())

    first, again = Small(Optimisation()), Small(Optimisation())
    first.train_tokens = 7
    first.trainer.callback_metrics = {"train/loss": torch.tensor(2.0), "val/scs": 0.1}
    first._began -= 5
    checkpoint = {}
    first.on_save_checkpoint(checkpoint)
    expected = drawn()
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    again.on_load_checkpoint(torch.load(file, weights_only=True))
    drawn()
    again.on_train_start()
    assert drawn() == expected
    again.on_train_start()  # the next fit of the same module goes on
    assert drawn() != expected
    assert again.train_tokens == 7
    assert 5 < again.progress.seconds < 60
    assert again.progress.metrics == {"train/loss": 2.0}


def test_the_margin_is_that_of_the_best_completion_over_each_other_one_of_its_prompt():
    scored = ScoredCompletions(
        log_probability=torch.tensor([-4.0, -6.0, -3.0, -9.0, -8.0]),
        length=torch.tensor([2.0, 3.0, 1.0, 3.0, 4.0]),
        tree=torch.tensor([0, 0, 0, 1, 1]),
        reference=torch.tensor([-5.0, -6.0, -5.0, -9.0, -7.0]),
    )
    found = RecovererModule._watch(SimpleNamespace(objective=DPO()), scored)
    ratios = [1.0, 0.0, 2.0, 0.0, -1.0]
    margins = [ratios[0] - ratios[1], ratios[0] - ratios[2], ratios[3] - ratios[4]]
    assert found["train/margin"].item() == pytest.approx(sum(margins) / 3)
    assert found["train/accuracy"].item() == pytest.approx(2 / 3)
    assert found["train/chosen_log_probability"].item() == pytest.approx((-4 / 2 - 9 / 3) / 2)
    assert RecovererModule._watch(SimpleNamespace(objective=SFT()), scored) == {}


def test_gradients_of_low_precision_weights_reach_their_masters_before_they_are_clipped():
    module = Small(Optimisation(), estimated_stepping_batches=10)
    module.model.to(torch.bfloat16)
    optimizer = module.configure_optimizers()["optimizer"]
    for wrapped in (optimizer, SimpleNamespace(optimizer=optimizer)):  # as strategies wrap it
        module.model.weight.grad = torch.full_like(module.model.weight, 2.0)
        module.on_before_optimizer_step(wrapped)
        [master] = optimizer.param_groups[0]["params"]
        assert master.dtype == master.grad.dtype == torch.float32
        assert (master.grad == 2).all() and module.model.weight.grad is None
        optimizer.zero_grad()


def test_validation_scores_what_the_model_writes_for_real_examples(scs, monkeypatch):
    written = ["Make it rhyme", "", "Shorten it"]
    writer = SimpleNamespace(
        model=torch.nn.Linear(1, 1),
        write_greedily=lambda *_: [SimpleNamespace(text=text) for text in written],
    )
    module = RecovererModule(writer, SFT(), scs, Optimisation(), "f", 4, "Improve the text")
    values = torch.tensor([-3.0, -8.0, float("nan")])
    scores = CompletionScores(values, torch.tensor([3.0, 2.0, 1.0]), values)
    monkeypatch.setattr(modules, "score_completions", lambda *_: scores)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    truths = ["Turn it into a poem", "Fix the grammar", "Be brief"]
    examples = [RewriteExample(str(n), "o", "r", truth) for n, truth in enumerate(truths)]
    batch = Batch(None, [[1]] * 3, examples, real=2)  # the third one is a filler
    module.validation_step(batch, 0)
    expected = scs(["Make it rhyme", "Improve the text"], truths[:2]).mean()
    assert float(module.val_scs.compute()) == pytest.approx(float(expected), abs=1e-6)
    assert float(module.val_nll.compute()) == pytest.approx((3 / 3 + 8 / 2) / 2)
    with pytest.raises(PromptRecoveryError, match="has diverged"):
        module.validation_step(Batch(None, [[1]] * 3, examples, real=3), 0)


def test_trained_weights_come_back_all_of_them_or_none():
    module = Small(Optimisation())
    bias = module.model.bias.clone()
    weights = {name: weight + 1 for name, weight in module.state_dict().items()}
    assert list(weights) == ["model.weight"], "the bias is frozen"
    module.load_state_dict(weights)
    assert torch.equal(module.model.weight, weights["model.weight"])
    assert torch.equal(module.model.bias, bias)
    for other in ({}, {"model.weight": torch.ones(2, 2)}, weights | {"model.bias": bias}):
        with pytest.raises(PromptRecoveryError, match="resume with the same model and adapter"):
            module.load_state_dict(other)


def test_a_loss_counts_as_much_as_its_examples_and_tokens_are_those_of_all_processes(
    scs, monkeypatch
):
    writer = SimpleNamespace(model=torch.nn.Linear(1, 1))
    module = RecovererModule(writer, SFT(), scs, Optimisation(), "f", 4, "Improve the text")
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    batch = Batch(SimpleNamespace(tokens=50), [], [], real=3)

    def reduced(counts, reduce_op):
        assert reduce_op == "sum"
        return counts + torch.tensor([2, 30])  # of the other process

    module._trainer = SimpleNamespace(world_size=1)
    assert float(module.log_training(torch.tensor(2.0), {}, batch)) == 2.0
    assert module.train_tokens == 50
    module._trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=reduced))
    shared = module.log_training(torch.tensor(2.0), {}, batch)
    assert float(shared) == pytest.approx(2.0 * 3 / 2.5), "3 examples of 2.5 on average"
    assert module.train_tokens == 50 + 80
