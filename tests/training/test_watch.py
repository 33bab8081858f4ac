"""Metric hacking in validation: when it is noticed, and what happens then."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prompt_recovery.metrics.answers import AnswerScores
from prompt_recovery.metrics.e5 import E5Encoder, second_opinion
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.objectives import GRPO, SFT
from prompt_recovery.training import run as run_module
from prompt_recovery.training.results import watch_table
from prompt_recovery.training.rounds import Round, rounds_table
from prompt_recovery.training.run import train
from prompt_recovery.training.watch import hacking_signs
from tests.training.test_policy import STEPS, job


def validation(scs, second, words, n=200, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    columns = [
        scs + noise * rng.standard_normal(n),
        second + noise * rng.standard_normal(n),
        words + rng.integers(-2, 3, n),
    ]
    return torch.from_numpy(np.stack(columns, 1))


FIRST = validation(0.05, 0.5, 10)


@pytest.mark.parametrize(
    ("now", "signs"),
    [
        ((0.10, 0.45, 10), ["second encoder"]),
        ((0.10, 0.55, 6), ["length"]),
        ((0.10, 0.45, 6), ["second encoder", "length"]),
        ((0.10, 0.55, 10), []),  # all is well
        ((0.10, 0.50, 10), []),  # no more than chance
        ((0.10, 0.55, 9), []),  # shorter, but not by much
        ((0.02, 0.40, 5), []),  # it is worse, which is no hacking
    ],
)
def test_a_fall_counts_while_the_score_rises(now, signs):
    assert hacking_signs(FIRST, validation(*now, seed=1)) == signs


def test_a_missing_second_encoder_still_leaves_the_length():
    first, now = FIRST.clone(), validation(0.1, 0.1, 5, seed=1)
    first[:, 1] = now[:, 1] = torch.nan
    assert hacking_signs(first, now) == ["length"]
    assert hacking_signs(first[:0], now[:0]) == []


def test_answer_scores_are_per_answer(scs):
    metric = AnswerScores(scs, SCS(scs.encoder, 1.0))
    prompts = ["Make it rhyme", "Shorten this text"]
    metric.update(["a"], ["b"], [2])  # in another order than the examples, as processes leave them
    metric.update(prompts, ["Make it rhyme", "Turn it into a poem"], [0, 1])
    metric.update([], [], [])
    rows = metric.compute()
    assert rows.shape == (3, 3) and rows[:, 2].tolist() == [3, 3, 1]
    assert rows[0, 0] == pytest.approx(1, abs=1e-5)
    assert rows[:, 0].numpy() == pytest.approx(rows[:, 1].numpy() ** 3, abs=1e-5)
    metric.reset()
    metric.update([], [], [])
    assert metric.compute().shape == (0, 3)
    alone = AnswerScores(scs, None)
    alone.update(["a"], ["b"], [0])
    assert torch.isnan(alone.compute()[0, 1]) and alone.compute()[0, 2] == 1


def test_the_second_opinion_is_of_another_family(scs, monkeypatch):
    second = second_opinion(scs)
    assert isinstance(second.encoder, E5Encoder) and second.exponent == scs.exponent
    assert not isinstance(second_opinion(second).encoder, E5Encoder)
    monkeypatch.setattr("prompt_recovery.settings.extras._is_there", lambda _: False)
    assert second_opinion(scs) is None


OFTEN = STEPS | {"val_check_interval": 2}


def worse_each_time(monkeypatch):
    """Scores of validations in which the SCS rises and the second encoder's falls."""
    times = []

    def compute(self):
        times.append(None)
        return validation(0.05 * len(times), 0.5 / len(times), 10, n=20)

    monkeypatch.setattr(AnswerScores, "compute", compute)


@pytest.mark.parametrize("hacking", ["warn", "stop"])
def test_hacking_is_told_and_ends_a_run_that_asks_for_it(
    hacking, tmp_path, examples, scs, monkeypatch, caplog, capsys
):
    worse_each_time(monkeypatch)
    monkeypatch.setattr(run_module, "second_opinion", lambda scs: scs)
    with caplog.at_level(logging.WARNING):
        metrics = train(
            job(tmp_path, examples, scs, GRPO(samples=2), trainer=OFTEN, hacking=hacking)
        )
    assert metrics["train/steps"] == (6 if hacking == "warn" else 4)
    told = [r.getMessage() for r in caplog.records if "metric hacking" in r.getMessage()]
    assert len(told) == (2 if hacking == "warn" else 1)
    assert "SCS under the second encoder from 0.50" in told[0]
    points = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [p["val/hacking"] for p in points] == ([0, 1, 1] if hacking == "warn" else [0, 1])
    assert points[1]["val/second_scs"] == pytest.approx(0.25, abs=0.05)
    if hacking == "stop":  # the weights from before are kept
        assert metrics["val/scs"] == points[0]["val/scs"]
    assert "a sign of it" in capsys.readouterr().out


def test_training_from_a_trained_model_is_compared_with_it(tmp_path, examples, scs, monkeypatch):
    """Also by the only validation at its end, and what the start answered is kept if need be."""
    train(job(tmp_path / "start", examples, scs, SFT()))
    worse_each_time(monkeypatch)
    monkeypatch.setattr(run_module, "second_opinion", lambda scs: scs)
    ours = {"start": tmp_path / "start" / "adapter", "hacking": "stop"}
    metrics = train(job(tmp_path / "run", examples, scs, GRPO(samples=2), **ours))
    assert metrics["train/steps"] == 6
    curve = (tmp_path / "run" / "curve.jsonl").read_text().splitlines()
    before, after = map(json.loads, curve)
    assert (before["step"], before["val/hacking"]) == (0, 0)
    assert (after["step"], after["val/hacking"]) == (6, 1)
    assert before["val/second_scs"] == pytest.approx(0.5, abs=0.05)
    assert metrics["val/scs"] == before["val/scs"]
    kept, start = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("run", "start")
    )
    assert all(torch.equal(kept[name], start[name]) for name in start)


def test_a_resumed_run_compares_with_the_first_validation(tmp_path, examples, scs, monkeypatch):
    worse_each_time(monkeypatch)
    monkeypatch.setattr(run_module, "second_opinion", lambda scs: scs)
    objective = GRPO(samples=2)
    first = tmp_path / "first"
    train(job(first, examples, scs, objective, trainer=OFTEN | {"max_steps": 2}))
    checkpoint = str(first / "checkpoints" / "last.ckpt")
    again = tmp_path / "again"
    train(job(again, examples, scs, objective, trainer=OFTEN, ckpt_path=checkpoint))
    points = [json.loads(line) for line in (again / "curve.jsonl").read_text().splitlines()]
    assert [p["val/hacking"] for p in points] == [0, 1, 1]


def test_a_run_that_hacking_has_ended_stays_ended_when_it_is_resumed(
    tmp_path, examples, scs, monkeypatch
):
    """As after a kill between the last validation and the end of the run."""
    worse_each_time(monkeypatch)
    monkeypatch.setattr(run_module, "second_opinion", lambda scs: scs)
    objective, stop = GRPO(samples=2), {"trainer": OFTEN, "hacking": "stop"}
    ended = train(job(tmp_path / "first", examples, scs, objective, **stop))
    checkpoint = str(tmp_path / "first" / "checkpoints" / "last.ckpt")
    again = train(job(tmp_path / "again", examples, scs, objective, **stop, ckpt_path=checkpoint))
    assert again["train/steps"] == ended["train/steps"] == 4
    assert again["val/scs"] == ended["val/scs"]
    assert (tmp_path / "again" / "adapter" / "adapter_model.safetensors").is_file()


def test_what_does_not_learn_from_the_score_is_not_watched(tmp_path, examples, scs):
    metrics = train(job(tmp_path, examples, scs, SFT(), trainer=OFTEN))
    assert "val/words" not in metrics and "val/scs" in metrics


def test_tables_name_what_to_look_at():
    table = watch_table(
        [
            {"step": 2, "val/scs": 0.05, "val/second_scs": 0.5, "val/words": 9, "val/hacking": 0},
            {"step": 4, "val/scs": 0.06, "val/words": 4, "val/hacking": 1},
        ]
    )
    assert table.rows[0] == ["2", "0.0500", "0.5000", "9.0", "no sign"]
    assert table.rows[1] == ["4", "0.0600", "–", "4.0", "a sign of it"]
    nan = float("nan")
    table = rounds_table(
        [
            Round(1, 0.05, 4, 0.02, 0.1, 0.9, -1.0, 0.5, 10),
            Round(2, 0.07, 8, nan, nan, nan, nan, 0.4, 7),
            Round(3, 0.06, 9, 0.03, 0.1, 0.9, -0.8, 0.6, 10),
        ]
    )
    assert [row[-1] for row in table.rows] == [
        "–",
        "second encoder falls, answers are shorter",
        "–",
    ]
    assert table.best == 1 and table.rows[1][4] == "–"
    start = Round(0, 0.06, nan, nan, nan, nan, nan, 0.5, 9)
    table = rounds_table([start, Round(1, 0.05, 4, 0.02, 0.1, 0.9, -1.0, 0.4, 10)])
    assert table.best == 1, "what rounds start from is none of them"
    assert table.rows[0] == ["start", "0.0600", "0.5000", "9.0", *["–"] * 6]
