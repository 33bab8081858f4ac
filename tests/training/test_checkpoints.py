import json

import pytest
import torch
from safetensors.torch import load_file

from prompt_recovery.metrics.mean_scs import SCSMetric
from prompt_recovery.training.job import Optimisation
from prompt_recovery.training.run import train
from tests.training.test_run import make_job


@pytest.mark.parametrize(("later", "kept"), [(0.25, True), (0.75, False)])
def test_a_resumed_run_knows_the_best_score_and_keeps_its_adapter_from_worse_ones(
    later, kept, tmp_path, examples, scs, monkeypatch
):
    validated = []

    def run(name, epochs, score, **changes):
        monkeypatch.setattr(SCSMetric, "compute", lambda _: torch.tensor(score))
        trainer = {"accelerator": "cpu", "max_epochs": epochs, "enable_progress_bar": False}
        changes |= {"trainer": trainer, "optim": Optimisation(learning_rate=1e-2)}
        folder = tmp_path / name
        metrics = train(
            make_job(folder, examples, scs, evaluate=False, checkpoint_minutes=0, **changes)
        )
        validated.append(
            [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
        )
        return metrics, load_file(folder / "adapter" / "adapter_model.safetensors")

    _, best = run("first", 1, 0.5)
    checkpoint = str(tmp_path / "first" / "checkpoints" / "last.ckpt")
    metrics, adapter = run("resumed", 2, later, ckpt_path=checkpoint)
    assert [point["val/scs"] for point in validated[1]] == [0.5, later]
    assert metrics["val/scs"] == max(0.5, later)
    assert all(torch.equal(adapter[name], best[name]) for name in best) == kept
