"""Rounds of preference optimisation: what they hand on, when they stop, and how they go on."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import wandb
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.settings.checking import check
from prompt_recovery.training import module, rounds
from prompt_recovery.training import run as training
from prompt_recovery.training.job import TrainSettings
from prompt_recovery.training.rounds import Round, train_rounds
from prompt_recovery.training.stages import train_stages
from prompt_recovery.training.trees import reference_model
from tests.objectives.test_objectives import adapted
from tests.runs.offline import offline_run, records
from tests.settings.composing import composed
from tests.tiny_run import TINY_RUN, write_rows

SETTINGS = (
    "objective=dpo",
    *TINY_RUN,
    "precision=fp32",
    "trainer=cpu",
    "preferences.mix.sampled=4",
    "preferences.mix.corrupted=0",
    "preferences.mix.others=0",
    "preferences.mix.max_new_tokens=5",
    "preferences.pairing.margin=0.0001",
    "batching.batch_size=4",
    "decoding.max_new_tokens=4",
    "checkpoint_minutes=0",
    "name=mine",
    "group=null",
    "rounds=3",
    "round_patience=3",
)


@pytest.fixture
def run(tmp_path, examples, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path / "own.jsonl", examples[:24])

    def run(name, *settings):
        folder = RunFolder(tmp_path / "runs" / "train" / name)
        folder.path.mkdir(parents=True, exist_ok=True)
        config = check(composed("train", *SETTINGS, *settings), TrainSettings)
        train_stages(config, folder)
        return folder

    return run


def weights(folder):
    return load_file(folder.adapter / "adapter_model.safetensors")


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_rounds_build_on_each_other_also_after_a_kill(run, monkeypatch):
    whole = run("whole")
    check_rounds(whole)
    first, second, _ = (each.metrics()["train/steps"] for each in whole.rounds)
    assert second > 1
    step, done = module.RecovererModule.training_step, []

    def broken(self, batch, index):
        done.append(index)
        if len(done) > first + 1:  # in the second round
            raise RuntimeError("broken off")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(module.RecovererModule, "training_step", broken)
        with pytest.raises(RuntimeError, match="broken off"):
            run("broken")
    resumed = run("resumed", "ckpt_path=last")
    assert same(whole, resumed)
    assert [same(a, b) for a, b in zip(whole.rounds, resumed.rounds, strict=True)] == [True] * 3
    names = "val_scs", "candidates", "mean_scs", "best_scs", "diversity"
    a, b = (json.loads(r.rounds_record.read_text()) for r in (whole, resumed))
    assert [[r[k] for k in names] for r in a] == [[r[k] for k in names] for r in b]


def test_rounds_are_one_wandb_run_also_after_a_kill(run, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_DISABLED", "WANDB_SILENT", "WANDB_INIT_TIMEOUT",
                 "WANDB_ERROR_REPORTING"):  # fmt: skip
        monkeypatch.setenv(name, "")  # restored at the end, whatever is set meanwhile
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = ["logger=wandb", "rounds=2", "trainer.log_every_n_steps=1", "trainer.max_steps=3"]
    step, done = module.RecovererModule.training_step, []

    def broken(self, batch, index):
        done.append(index)
        if len(done) > 4:  # in the second round
            raise RuntimeError("broken off")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(module.RecovererModule, "training_step", broken)
        with pytest.raises(RuntimeError, match="broken off"):
            run("broken", *settings)
    wandb.finish(1)  # what the end of the process does
    resumed = run("resumed", *settings, "ckpt_path=last")
    assert wandb.run is None
    wandb.teardown()  # waits until the files are written
    files = sorted((tmp_path / "runs").rglob("run-*.wandb"), key=lambda f: f.stat().st_mtime)
    assert [f.parents[2].name for f in files] == ["broken", "resumed"]
    begun, gone_on = map(offline_run, files)
    assert begun.id == gone_on.id
    assert gone_on.config["rounds"] == 2, "the settings are those of the whole run"
    rows = [*begun.history, *gone_on.history]
    assert {r["round"] for r in rows if "train/loss" in r and "epoch" in r} == {1, 2}
    ends = {r["round"]: r["trainer/global_step"] for r in rows if "val/scs" in r and "round" in r}
    assert ends == {1: 3, 2: 6}, "steps are counted over rounds"
    record = json.loads(resumed.rounds_record.read_text())
    assert {r["round"]: r["round/val_scs"] for r in rows if "round/val_scs" in r} == {
        r["number"]: pytest.approx(r["val_scs"]) for r in record
    }
    assert "test/scs" in gone_on.summary
    axes = {r.metric.name: r.metric.step_metric for r in records(files[0]) if r.HasField("metric")}
    assert axes["round/val_scs"] == "round"


def check_rounds(whole):
    """Each round builds on the last, and the best one is kept."""
    record = json.loads(whole.rounds_record.read_text())
    assert [r["number"] for r in record] == [1, 2, 3]
    assert [len(whole.rounds), whole.rounds_chart.stat().st_size > 5000] == [3, True]
    # The dataset grows, and the model samples anew from what the last round left.
    assert record[0]["candidates"] < record[1]["candidates"] < record[2]["candidates"]
    pools = [
        {json.loads(line)["id"]: json.loads(line)["candidates"] for line in
         (r.preferences / "candidates.jsonl").read_text().splitlines()}
        for r in whole.rounds
    ]  # fmt: skip
    for before, after in pairwise(pools):
        for id_, candidates in before.items():
            kept = {normalise(text) for text, *_ in after[id_]}
            assert {normalise(text) for text, *_ in candidates} <= kept
    assert not same(whole.round(1), whole.round(2)) and not same(whole.round(2), whole.round(3))
    best = max(record, key=lambda r: (r["val_scs"], r["number"]))
    assert same(whole, whole.round(best["number"]))
    metrics = whole.metrics()
    assert metrics["val/scs"] == best["val_scs"] and "test/scs" in metrics
    assert whole.is_finished and whole.is_evaluated
    for r in record:
        assert 0 < r["diversity"] <= 1 and r["mean_scs"] <= r["best_scs"] <= 1


def test_rounds_end_when_validation_does_not_rise(run, monkeypatch):
    scores = iter([0.3, 0.5, 0.4, 0.45, 0.6])
    original = rounds.round_of

    def scored(*given):
        return replace(original(*given), val_scs=next(scores))

    monkeypatch.setattr(rounds, "round_of", scored)
    folder = run("early", "rounds=5", "round_patience=2", "trainer.max_steps=1")
    assert len(folder.rounds) == 4
    assert same(folder, folder.round(2))


def test_rounds_end_with_metric_hacking_if_that_stops_a_run(tmp_path, monkeypatch):
    config = check(composed("train", *SETTINGS), TrainSettings)
    monkeypatch.setattr(
        rounds, "round_of", lambda number, *_: Round(number, 0.1 * number, 1, 0, 0, 1, 0)
    )

    def train_stage(stage, number, *given):
        folder = RunFolder(tmp_path / str(number))
        folder.path.mkdir(exist_ok=True)
        folder.write_curve(
            [{"step": 0, "val/scs": 0.05, "val/second_scs": 0.5, "val/words": 7.0},
             {"step": 9, "val/scs": 0.1, "val/hacking": float(number == 2)}]
        )  # fmt: skip
        return folder

    for hacking, last in (("warn", 3), ("stop", 2)):
        best, done = train_rounds(config | {"hacking": hacking}, None, train_stage)
        assert best.path.name == str(last)
        assert [r.number for r in done] == [*range(last + 1)], "after what they started from"
        assert (done[0].val_scs, done[0].second_scs, done[0].words) == (0.05, 0.5, 7.0)


def test_each_round_starts_where_the_last_one_ended(tmp_path, monkeypatch):
    config = check(composed("train", *SETTINGS), TrainSettings)
    scores = {1: 0.1, 2: 0.3, 3: 0.3}  # of equally good rounds, the last one is taken

    def done(number, folder, stage):
        return Round(number, scores[number], 1, 0, 0, 1, 0)

    monkeypatch.setattr(rounds, "round_of", done)
    folders = {number: RunFolder(tmp_path / str(number)) for number in scores}
    adapters = [folders[n].adapter for n in scores]
    pools = [str(folders[n].preferences) for n in scores]
    start = tmp_path / "start"
    for reference, begun, expected in (
        ("previous", None, "start"),
        ("previous", start, "start"),
        ("first", None, "backbone"),
        ("first", start, start),
    ):
        called = []

        def train_stage(stage, number, *given, called=called):
            called.append((number, *given, stage["preferences"]["earlier"]))
            return folders[number]

        best, _ = train_rounds(config | {"round_reference": reference}, begun, train_stage)
        assert called == [
            (1, begun, expected, None),
            (2, adapters[0], expected, pools[0]),
            (3, adapters[1], expected, pools[1]),
        ]
        assert best == folders[3]


def test_the_stages_of_rounds_have_their_reference_and_the_best_one_is_taken(run, monkeypatch):
    trained = []

    def train(job):
        trained.append(job)
        job.run.preferences.mkdir(parents=True)
        (job.run.preferences / "candidates.jsonl").touch()
        return {"val/scs": 0.5}

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(
        rounds, "round_of", lambda number, *_: Round(number, 1 / number, 1, 0, 0, 1, 0)
    )
    folder = run("mine", "rounds=2", "round_reference=first")
    first, second, last = trained
    assert [first.reference, second.reference] == ["backbone", "backbone"]
    assert [first.start, second.start] == [None, folder.round(1).adapter]
    assert (last.run, last.trained) == (folder, folder.round(1).adapter)


def test_the_reference_of_later_rounds(tmp_path):
    """The first one, the adapter of a folder, or what training starts from."""
    model, other = adapted().eval(), adapted()
    for name, parameter in other.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(-2)
    other.save_pretrained(tmp_path)
    ids = torch.tensor([[5, 9, 31, 7]])

    def said(model):
        with torch.no_grad():
            return model(ids).logits

    base = AutoModelForCausalLM.from_pretrained(tiny_backbone("llama"), dtype=torch.float32)
    before = said(model)
    expected = {
        "backbone": said(base.eval()),
        tmp_path: said(PeftModel.from_pretrained(base, tmp_path).eval()),
        "start": before,
    }
    for reference, logits in expected.items():
        with reference_model(model, reference, started=True):
            torch.testing.assert_close(said(model), logits)
        assert torch.equal(said(model), before), "it is itself again"
    with reference_model(model, "start", started=False):
        torch.testing.assert_close(said(model), expected["backbone"])
    assert (expected["backbone"] - before).abs().max() > 0.01
    assert (expected[tmp_path] - before).abs().max() > 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["objective=sft"], "give one such as objective=dpo"),
        (["objective=grpo"], "give one such as objective=dpo"),
        (["preferences=file", "preferences.path=pairs.jsonl"], "give preferences=sample"),
        (["split.val=0"], "rounds=3 .*highest val/scs, and split.val=0 leaves out"),
        (["+trainer.limit_val_batches=0"], "and trainer.limit_val_batches=0 leaves out"),
    ],
)
def test_what_has_no_rounds_is_one_line(run, tmp_path, settings, message):
    row = {"prompt": "Say it.", "chosen": "so", "rejected": "not so"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(PromptRecoveryError, match=message):
        run("refused", *settings)
