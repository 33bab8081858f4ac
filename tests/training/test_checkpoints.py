import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import load_file

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.mean_scs import SCSMetric
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.training.checkpoints import (
    BestWeights,
    WholeCheckpointIO,
    last_checkpoint_callback,
)
from prompt_recovery.training.job import Optimisation
from prompt_recovery.training.run import train
from tests.training.test_run import make_job


def test_one_flipped_byte_of_a_checkpoint_is_one_line(tmp_path):
    path = tmp_path / "last.ckpt"
    state = {"weights": torch.arange(2000, dtype=torch.float32), "step": 3}
    WholeCheckpointIO().save_checkpoint(state, path)
    assert WholeCheckpointIO().load_checkpoint(path)["step"] == 3
    whole = path.read_bytes()
    with ZipFile(path) as file:
        places = [record.header_offset + len(record.filename) + 100 for record in file.infolist()]
    middle = whole.index(state["weights"].numpy().tobytes()[:64])
    for place in (middle + 5, middle + 4000, whole.index(b"weights"), *places):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            found = WholeCheckpointIO().load_checkpoint(path)
        except PromptRecoveryError as error:
            assert "last.ckpt: is damaged" in str(error) and "\n" not in str(error)
        else:  # a byte that only fills a gap
            assert place not in (middle + 5, middle + 4000)
            assert found["step"] == 3 and torch.equal(found["weights"], state["weights"])
    for content in (b"", b"no checkpoint", whole[:-200], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(PromptRecoveryError, match="is damaged or not a checkpoint"):
            WholeCheckpointIO().load_checkpoint(path)


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


def test_checkpoints_are_written_after_each_step_or_after_some_minutes(tmp_path):
    run = RunFolder(tmp_path)
    often, seldom = (last_checkpoint_callback(run, minutes) for minutes in (0, 2.5))
    assert (often._every_n_train_steps, often._train_time_interval) == (1, None)
    assert (seldom._every_n_train_steps, seldom._train_time_interval) == (0, timedelta(minutes=2.5))
    for callback in (often, seldom):
        assert Path(callback.dirpath, f"{callback.filename}.ckpt") == run.checkpoint
        assert callback.save_top_k == 1 and callback._save_on_train_epoch_end is False
        assert not callback._enable_version_counter, "a resumed run replaces the file"


def test_the_first_of_equally_good_weights_are_kept_as_they_were():
    weight, saved = torch.zeros(2), []
    best = BestWeights(lambda weights: saved.append(weights["w"].tolist()))
    module = SimpleNamespace(trained_weights=lambda: {"w": weight})

    def validated(score, best=best, first=True, **changes):
        weight.add_(1)
        trainer = SimpleNamespace(
            sanity_checking=False, is_global_zero=first, callback_metrics={"val/scs": score}
        )
        vars(trainer).update(changes)
        best.on_validation_end(trainer, module)
        return best.best, best.weights["w"].tolist()

    assert validated(0.5) == (0.5, [1, 1])
    assert validated(0.5) == (0.5, [1, 1])
    assert validated(0.9, sanity_checking=True) == (0.5, [1, 1])
    assert validated(0.6) == (0.6, [4, 4])
    assert saved == [[1, 1], [4, 4]]
    assert validated(0.7, first=False) == (0.7, [5, 5]), "as in the other processes"
    assert len(saved) == 2, "which write nothing"
    refusing = BestWeights(best.save, lambda: True)
    refusing.load_state_dict(best.state_dict())
    assert validated(0.8, refusing) == (0.7, [5, 5])


def test_weights_from_before_the_training_are_kept_if_all_later_ones_are_refused():
    saved = []
    before, after = ({"w": torch.full((1,), float(n))} for n in (1, 2))

    def validated(best, weights, **changes):
        trainer = SimpleNamespace(
            sanity_checking=False, is_global_zero=True, callback_metrics={"val/scs": 0.5}
        )
        vars(trainer).update(changes)
        best.on_validation_end(trainer, SimpleNamespace(trained_weights=lambda: weights))

    best = BestWeights(saved.append, lambda: True)
    validated(best, before, sanity_checking=True)
    assert not best.weights and not saved
    resumed = BestWeights(saved.append, lambda: True)
    resumed.load_state_dict(best.state_dict())
    for one in (best, resumed):
        validated(one, after)
        assert (one.best, one.weights, saved.pop()) == (0.5, before, before)
        assert one.state_dict()["before"] is None
