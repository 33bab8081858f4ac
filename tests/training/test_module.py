"""What all kinds of training share: the optimiser with its schedule, and exact resumption."""

import io
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prompt_recovery.objectives import DPO, SFT, ScoredCompletions
from prompt_recovery.training.job import Optimisation
from prompt_recovery.training.module import RecovererModule, TrainedModule


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
