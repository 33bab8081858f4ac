"""What lies where in a run folder, whose it is, and what it was trained on."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from prompt_recovery.data import sources
from prompt_recovery.data.examples import COLUMNS, Dataset
from prompt_recovery.data.splits import split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import (
    RunFolder,
    adapter_folder,
    named_runs,
    require_adapter_folder,
    run_name,
    runs_in,
    weights_digest,
)
from tests.command_line import assert_one_line
from tests.runs.conftest import QUICK, command
from tests.tiny_run import write_rows

SHARES = {"by": "prompt", "val": 0.2, "test": 0.2, "seed": 0}


def with_checkpoint(run):
    run.checkpoint.parent.mkdir(parents=True)
    run.checkpoint.write_bytes(b"")
    return run


@pytest.mark.parametrize(
    "content", ["[]", '{"val/scs": "x"}', '{"a": [1]}', "{", "\x00", "[" * 9999]
)
def test_metrics_of_another_shape_are_those_of_a_run_that_is_not_finished(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    assert RunFolder(tmp_path).metrics() is None
    assert not RunFolder(tmp_path).is_finished


@pytest.mark.parametrize("line", ['{"step": "x", "val/scs": 1}', "[1]", '{"step": [1]}', "3"])
def test_a_curve_of_another_shape_is_empty(tmp_path, line):
    (tmp_path / "curve.jsonl").write_text(f'{{"step": 1, "val/scs": 0.5}}\n{line}\n')
    assert RunFolder(tmp_path).curve() == []


def test_folders_are_made_exclusively(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: RunFolder.create(tmp_path / "new", "a").path, range(16)))
    assert sorted(p.name for p in made) == sorted(["a", *(f"a_{n}" for n in range(2, 17))])
    assert set(made) == set((tmp_path / "new").iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for parent, name in ((tmp_path / "file", "a"), (tmp_path, "file")):
        with pytest.raises(PromptRecoveryError, match=r"hydra\.run\.dir"):
            RunFolder.create(parent, name)


def test_a_run_is_finished_when_it_has_metrics_whatever_its_checkpoints(tmp_path):
    run = RunFolder(tmp_path)
    assert not run.is_finished and not run.has_checkpoint and run.metrics() is None
    with_checkpoint(run.first_stage)
    assert run.has_checkpoint and run.last_checkpoint is None
    with_checkpoint(run)
    assert run.last_checkpoint == run.path / "checkpoints" / "last.ckpt"
    for odd in ("", "[1]", '{"a":', "null"):
        (tmp_path / "metrics.json").write_text(odd)
        assert not run.is_finished
    run.write_metrics({"val/scs": 0.5})
    assert run.is_finished and run.metrics() == {"val/scs": 0.5}


def test_what_is_written_is_read_back(tmp_path):
    run = RunFolder(tmp_path / "run")
    odd = "a\u2028b\x85c\x0bd 🐝"
    run.write_config({"name": odd, "seed": 1, "optim": {"learning_rate": 1e-5, "note": "1e-5"}})
    run.write_curve([{"step": 1, "val/scs": 0.25}, {"step": 2, "val/scs": 0.5}])
    run.write_predictions([{"id": "1", "prediction": odd}, {"id": "2", "prediction": "\ud83d"}])
    run.write_environment({"python": "3"})
    assert run.config() == {
        "name": odd, "seed": 1, "optim": {"learning_rate": 1e-5, "note": "1e-5"},
    }  # fmt: skip
    assert run.curve() == [{"step": 1, "val/scs": 0.25}, {"step": 2, "val/scs": 0.5}]
    assert [row["prediction"] for row in run.predictions()] == [odd, "\ud83d"]
    assert run.is_evaluated and not run.first_stage.is_evaluated
    assert {p.name for p in run.path.iterdir()} == {
        "config.yaml", "curve.jsonl", "predictions.jsonl", "environment.yaml",
    }  # fmt: skip


def test_a_run_without_a_curve_has_the_one_of_its_csv_logger(tmp_path):
    run = RunFolder(tmp_path)
    assert run.curve() == []
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "metrics.csv").write_text(
        "step,val/scs,test/scs\n1,,\n2,0.5,\n4,0.75,\n4,0.75,0.1\n"
    )
    assert run.curve() == [{"step": 2, "val/scs": 0.5}, {"step": 4, "val/scs": 0.75}]


@pytest.mark.parametrize("text", ["", "[1]", "a: [", "!!python/object/apply:os.system ['false']"])
def test_a_damaged_configuration_is_a_value_error(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="is not a YAML mapping"):
        RunFolder(tmp_path).config()


def test_a_finished_run_is_taken_over(tmp_path):
    one, other = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b").first_stage
    one.adapter.mkdir(parents=True)
    (one.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    one.write_config({"seed": 1})
    one.write_curve([{"step": 1, "val/scs": 0.5}])
    one.write_metrics({"train/seconds": 3.0})
    with_checkpoint(one)
    other.take_over(one)
    other.take_over(other)
    assert other.is_finished and other.curve() == one.curve() and other.config() == one.config()
    assert weights_digest(other.adapter) == weights_digest(one.adapter) != ""
    assert not other.checkpoint.parent.exists()


def test_runs_are_found_below_a_folder_and_their_parts_are_none(tmp_path):
    for path in ("b", "a", "a/first_stage", "a/.hydra", "a/wandb/offline-run-1/files", "c/d"):
        RunFolder(tmp_path / path).write_config({})
    names = [str(run.path.relative_to(tmp_path)) for run in runs_in(tmp_path)]
    assert names == ["a", "b", "c/d"]
    assert list(runs_in(tmp_path / "a")) == [RunFolder(tmp_path / "a")]


def test_an_adapter_is_that_of_a_run_or_itself(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(PromptRecoveryError, match="no such folder"):
        require_adapter_folder(run.path)
    run.adapter.mkdir(parents=True)
    with pytest.raises(PromptRecoveryError, match=r"holds no adapter/recoverer\.yaml"):
        require_adapter_folder(run.path)
    (run.adapter / "recoverer.yaml").write_text("data: {name: d}")
    assert adapter_folder(run.path) == adapter_folder(run.adapter) == run.adapter
    assert require_adapter_folder(run.path) == require_adapter_folder(run.adapter) == run.adapter
    assert run.recoverer() == {"data": {"name": "d"}}
    assert RunFolder.of_adapter(run.adapter) == run
    assert weights_digest(run.adapter) == ""


def test_a_run_has_the_name_of_its_folder_whichever_way_it_is_given(tmp_path):
    run = RunFolder(tmp_path / "runs" / "train" / "2026-11-29_10-00-00_tiny_sft")
    run.adapter.mkdir(parents=True)
    run.point_latest()
    assert {run_name(p) for p in (run.path, run.adapter, tmp_path / "runs" / "latest")} == {
        "2026-11-29_10-00-00_tiny_sft"
    }
    assert run_name(tmp_path / "moved_adapter") == "moved_adapter"


def test_latest_is_the_run_that_was_pointed_at_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PromptRecoveryError, match="there is no runs/latest here"):
        named_runs("latest")
    for name in ("b", "a"):
        RunFolder.create(tmp_path / "runs" / "train", name).point_latest()
        [latest] = named_runs("latest")
        assert latest.resolve() == tmp_path / "runs" / "train" / name
    assert [str(p) for p in named_runs(["latest", "x"])] == ["runs/latest", "x"]
    RunFolder.create(tmp_path / "elsewhere", "c").point_latest()
    assert named_runs("latest")[0].resolve().name == "a"
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"train", "latest"}


@pytest.fixture
def recorded(tmp_path, examples):
    """A run's folder and its dataset; call it with what the configuration says under `data`."""
    path = tmp_path / "data.jsonl"
    write_rows(path, examples)

    def record(data, dataset):
        config = {"data": data, "split": SHARES}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return RunFolder(tmp_path).splits(dataset.fingerprint())

    return record


def test_a_run_finds_its_data_again(recorded, tmp_path):
    path = tmp_path / "data.jsonl"
    dataset = sources.file(path)
    ours = "prompt_recovery.data."
    columns = {"_target_": f"{ours}examples.ColumnNames", **{c: c for c in COLUMNS}}
    for options in ({}, {"columns": None}, {"columns": columns, "drop_invalid": False}):
        found = recorded({"_target_": f"{ours}sources.file", "path": str(path), **options}, dataset)
        assert found == split(dataset, **SHARES)
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "1.jsonl").write_bytes(path.read_bytes())
    found = recorded({"_target_": f"{ours}sources.folder", "path": str(shards)}, dataset)
    assert found == split(dataset, **SHARES)
    starter = sources.starter()
    assert recorded({"_target_": f"{ours}sources.starter"}, starter) == split(starter, **SHARES)


def test_data_that_is_gone_is_one_line_that_says_what_it_was_for(recorded, tmp_path):
    path = tmp_path / "data.jsonl"
    dataset = sources.file(path)
    path.unlink()
    data = {"_target_": "prompt_recovery.data.sources.file", "path": str(path)}
    with pytest.raises(PromptRecoveryError, match="what the run was trained on cannot") as raised:
        recorded(data, dataset)
    message = str(raised.value)
    assert str(path) in message and str(tmp_path / "config.yaml") in message
    assert "\n" not in message and "data.path=" not in message


def test_every_source_that_the_configuration_offers_can_be_recorded():
    from prompt_recovery.settings.folder import config_folder

    options = (config_folder() / "data").glob("*.yaml")
    targets = {yaml.safe_load(path.read_text("utf-8"))["_target_"] for path in options}
    assert targets and targets <= set(sources._SOURCES)


def test_a_new_source_is_a_marked_function(recorded, examples, monkeypatch):
    monkeypatch.setattr(sources, "_SOURCES", dict(sources._SOURCES))

    @sources.data_source
    def repeated(times):
        return Dataset("r", examples[:times])

    data = {"_target_": f"{__name__}.repeated", "times": 30}
    assert recorded(data, repeated(30)) == split(repeated(30), **SHARES)


@pytest.mark.parametrize(
    "data",
    [
        {"_target_": "os.system", "command": "touch pwned"},
        {"_target_": "prompt_recovery.data.sources.read_rows", "path": "x"},
        {"path": "x"},
        {"_target_": "prompt_recovery.data.sources.file", "pfad": "x"},
        {"_target_": "prompt_recovery.data.sources.file", "path": 7},
        {"_target_": "prompt_recovery.data.sources.file", "path": "x", "columns": ["id"]},
        None,
        [],
    ],
)
def test_a_record_that_names_no_source_of_ours_is_refused(
    recorded, data, examples, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PromptRecoveryError, match=r"config\.yaml does not say what") as raised:
        recorded(data, Dataset("d", examples))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "pwned").exists()


def test_what_a_newer_version_recorded_of_the_data_is_ignored(recorded, examples, tmp_path, caplog):
    path = str(tmp_path / "data.jsonl")
    columns = {"_target_": "prompt_recovery.data.examples.ColumnNames", "tone": "t"}
    data = {"_target_": "prompt_recovery.data.sources.file", "path": path, "mood": "good"}
    found = recorded(data | {"columns": columns}, Dataset("d", examples))
    assert found.train == split(Dataset("d", examples), **SHARES).train
    assert "ignored what this version does not know: mood" in caplog.text
    assert "ignored what this version does not know: tone" in caplog.text


def test_a_split_of_a_newer_version_is_one_line(tmp_path):
    (tmp_path / "config.yaml").write_text("data: {}\nsplit: {by: prompt, folds: 5}\n")
    with pytest.raises(PromptRecoveryError, match=r"does not know \(folds\); update prom"):
        RunFolder(tmp_path).splits("x")


def test_data_that_has_changed_is_refused(recorded, examples, tmp_path):
    data = {"_target_": "prompt_recovery.data.sources.file", "path": str(tmp_path / "data.jsonl")}
    with pytest.raises(PromptRecoveryError, match="no longer what the run was trained on"):
        recorded(data, Dataset("d", examples[:-1]))


HOLDER = """
import sys, time
from pathlib import Path
from prompt_recovery.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_live_folder_is_refused_in_one_line_and_a_dead_one_is_free(folder):
    run = RunFolder(folder / "mine")
    words = [sys.executable, "-c", HOLDER, str(run.path)]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        result = command("train", *QUICK, f"hydra.run.dir={run.path}", cwd=folder)
        assert_one_line(result, "another process trains in this run folder", str(run.path))
        assert not run.adapter.exists() and not (run.path / "config.yaml").exists()
        with pytest.raises(PromptRecoveryError, match="another process"), run.held():
            pass
    finally:
        holder.kill()
    with run.held(wait=True):
        pass
    holder.communicate()
    with run.held():
        pass


def test_runs_that_begin_in_the_same_second_have_a_folder_each(tmp_path, monkeypatch):
    from prompt_recovery.runs import resolvers

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resolvers, "_start_time", lambda: "2026-01-31_12-00-00")
    monkeypatch.delenv("PROMPT_RECOVERY_RUN_FOLDER", raising=False)
    made = [resolvers._new_run_folder.__wrapped__("runs/train", "tiny_sft") for _ in range(2)]
    monkeypatch.delenv("PROMPT_RECOVERY_RUN_FOLDER")
    name = "runs/train/2026-01-31_12-00-00_tiny_sft"
    assert made == [name, f"{name}_2"]
    assert all((tmp_path / path).is_dir() for path in made)


def unfinished(path, *settings):
    run = RunFolder.create(path.parent, path.name)
    run.write_config({"seed": 1})
    (run.path / ".hydra").mkdir()
    (run.path / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(settings)))
    run.point_latest()
    return run


def test_an_unfinished_latest_run_is_named_with_what_may_be_used_instead(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    train = tmp_path / "runs" / "train"
    run = unfinished(train / "new", "model=tiny", "name=a b", "ckpt_path=last")
    begun = (
        r"run=runs/latest \(which is runs/train/new\): is unfinished and holds no adapter/.*, "
        r"because it has not been validated yet; "
    )
    again = "prompt-recovery train model=tiny 'name=a b'"
    with pytest.raises(PromptRecoveryError, match=f"{begun}unless .*, begin again, .*: {again}$"):
        require_adapter_folder("runs/latest")
    with_checkpoint(run)
    for name in ("older", "old"):
        finished = RunFolder.create(train, name)
        finished.adapter.mkdir()
        (finished.adapter / "recoverer.yaml").write_text("{}")
        finished.write_metrics({})
        os.utime(finished.path / "metrics.json", (len(name),) * 2)
    said = (
        f"use run=runs/train/older, the newest finished run, or, unless it is under way, "
        f"continue with: {again} ckpt_path=last$"
    )
    with pytest.raises(PromptRecoveryError, match=begun + said):
        require_adapter_folder("runs/latest")
    with pytest.raises(PromptRecoveryError, match="did you mean run=runs/train/older"):
        require_adapter_folder("runs/train/oldr")
    with pytest.raises(PromptRecoveryError, match=r"did you mean run=shipped\?"):
        require_adapter_folder("shiped")
    assert not caplog.messages
    run.adapter.mkdir()
    (run.adapter / "recoverer.yaml").write_text("{}")
    named_runs("latest")
    assert "runs/latest is runs/train/new, which is unfinished: its best weights" in caplog.text


@pytest.mark.parametrize("kept", [None, "config.yaml"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_folder_is_left_in_which_no_training_began(tmp_path, kept, error):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(error, match="x"), run.begun():
        assert run.path.is_dir()
        if kept is not None:
            (run.path / kept).write_text("{}")
        raise error("x")
    assert run.path.exists() == (kept is not None)
    with run.begun():
        pass
    assert run.path.is_dir()
