"""W&B sweep files: those of `sweeps/` are valid, and run here as they would there."""

import json
import os
import shutil
import signal
import sys
import time

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings.folder import config_folder
from tests import command_line
from tests.conftest import ROOT
from tests.forks import Fork
from tests.killing import assert_kills_change_nothing, run_files
from tests.runs.conftest import QUICK, RUN_FILES, command, starter_of

sweeps = pytest.importorskip("sweeps.config", reason="needs the extra [sweeps]")

from prompt_recovery.runs.sweep import Sweep, read_sweep  # noqa: E402
from prompt_recovery.runs.sweep import sweep as run_sweep  # noqa: E402

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))


def settings_of(command_line):
    return [part for part in command_line if "=" in part]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_files_are_valid_and_their_commands_compose(file, tmp_path):
    config = read_sweep(file)
    assert config["metric"] == {"name": "val/scs", "goal": "maximize"}
    assert "${args_no_hyphens}" in config["command"]
    sweep = Sweep(config, tmp_path)
    for _ in range(3):
        trial = sweep._next(None)
        line = sweep._command(trial)
        assert line[:3] == ["/usr/bin/env", "python", "train.py"]
        settings = settings_of(line)
        OverridesParser.create().parse_overrides(settings)
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = compose("train", settings)
        for name, value in trial.parameters.items():
            if "." in name:
                found = composed
                for key in name.split("."):
                    found = found[key]
                assert found == value


def test_a_file_that_wandb_would_refuse_is_refused_in_one_line(tmp_path):
    for text, part in [
        ("method: guess\nparameters: {a: {value: 1}}", "guess"),
        ("[1]", "is not a sweep"),
        ("a: [", "not valid YAML"),
    ]:
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(PromptRecoveryError, match=part):
            read_sweep(tmp_path / "x.yaml")
    with pytest.raises(PromptRecoveryError, match="no such file"):
        read_sweep(tmp_path / "none.yaml")


def quick_file(folder, source, **changes):
    """A file of `sweeps/`, on the tiny model."""
    config = yaml.safe_load((ROOT / "sweeps" / source).read_text())
    config["command"] = [
        part for part in config["command"] if "val_check_interval" not in part
    ] + QUICK[1:]
    config["parameters"].pop("model", None)
    config["command"].insert(3, "model=tiny")
    config |= changes
    (folder / source).write_text(yaml.safe_dump(config))
    return source


def test_three_trials_and_the_best_is_reported(folder):
    file = quick_file(folder, "random.yaml")
    result = command("sweep", f"file={file}", "count=3", "parallel=2", cwd=folder)
    assert result.returncode == 0, result.stderr
    found = {p.parent: json.loads(p.read_text()) for p in folder.rglob("metrics.json")}
    assert len(found) == 3
    best = max(m["val/scs"] for m in found.values())
    [line] = [x for x in result.stderr.splitlines() if x.startswith("best trial: ")]
    assert f"val/scs {best:.4f}" in line
    assert (folder / "runs" / "sweep" / "random" / "summary.md").read_text().count("finished") == 3
    again = command("sweep", f"file={file}", "count=3", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "3 earlier trials are in" in again.stderr
    assert "started" not in again.stderr


def test_a_killed_sweep_goes_on(folder):
    file = quick_file(folder, "random.yaml")
    text = (folder / file).read_text()
    slower = "- model=tiny\n- trainer.max_epochs=3\n- checkpoint_minutes=0"
    (folder / file).write_text(text.replace("- model=tiny", slower))
    arguments = ["sweep", f"file={file}", "count=3"]
    with (folder / "stderr").open("w") as said:
        process = Fork(command_line.command(*arguments), folder, stderr=said, forks_trials=True)
    deadline = time.monotonic() + 200
    while len(list(folder.rglob("last.ckpt"))) < 2:
        assert process.poll() is None, (folder / "stderr").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    record = folder / "runs" / "sweep" / "random" / "trials.jsonl"
    before = record.read_text()
    record.write_text(before + '{"trial": 1, "sta')  # as a kill in the middle of a line leaves it
    result = command(*arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert record.read_text().startswith(before)
    events = [json.loads(line) for line in record.read_text().splitlines()]
    assert [e["trial"] for e in events if "parameters" in e] == [0, 1, 2]
    ended = [(e["state"], e["reason"]) for e in events if "state" in e]
    assert [state for state, _ in ended] == ["finished"] * 3, ended
    assert len(list(folder.rglob("metrics.json"))) == 3


def test_kills_change_no_sweep(folder):
    file = quick_file(folder, "random.yaml")
    arguments = ["sweep", f"file={file}", "count=2"]

    def prepare(where):
        for path in (file, "own.jsonl", "train.py"):
            shutil.copy(folder / path, where)

    def left(where):
        made = where / "runs" / "sweep" / "random"
        trials = [json.loads(line) for line in (made / "trials.jsonl").read_text().splitlines()]
        runs = {run.name: run_files(run, *RUN_FILES) for run in made.glob("0*")}
        return runs, sorted(map(str, trials))

    assert_kills_change_nothing(folder / "kills", prepare, starter_of(arguments), left)


def test_another_file_in_the_same_folder_is_refused(tmp_path):
    Sweep(read_sweep(ROOT / "sweeps" / "random.yaml"), tmp_path)
    with pytest.raises(PromptRecoveryError, match="another file"):
        Sweep(read_sweep(ROOT / "sweeps" / "grid.yaml"), tmp_path)


def fake_program(folder):
    """A program that measures 0.1·x each time, and takes a while."""
    (folder / "train.py").write_text(
        "import json, pathlib, sys, time\n"
        "given = dict(a.split('=', 1) for a in sys.argv[1:])\n"
        "run = pathlib.Path(given['hydra.run.dir'].strip(\"'\")); run.mkdir(exist_ok=True)\n"
        "x = float(given['x'])\n"
        "for step in range(8):\n"
        "    with (run / 'curve.jsonl').open('a') as file:\n"
        "        file.write(json.dumps({'step': step, 'val/scs': 0.1 * x}) + '\\n')\n"
        "    time.sleep(0 if x > 5 else 1)\n"
        "(run / 'metrics.json').write_text(json.dumps({'val/scs': 0.1 * x}))\n"
    )


def test_hyperband_ends_what_falls_behind(folder):
    fake_program(folder)
    config = {
        "program": "train.py",
        "method": "grid",
        "metric": {"name": "val/scs", "goal": "maximize"},
        "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 2},
        "parameters": {"x": {"values": [9, 8, 1, 10]}},
        "command": ["${env}", "python", "train.py", "${args_no_hyphens}"],
    }
    (folder / "x.yaml").write_text(yaml.safe_dump(config))
    result = command("sweep", "file=x.yaml", cwd=folder)
    assert result.returncode == 0, result.stderr
    record = (folder / "runs" / "sweep" / "x" / "trials.jsonl").read_text()
    states = [e["state"] for e in map(json.loads, record.splitlines()) if "state" in e]
    assert states == ["finished", "finished", "stopped", "finished"]
    assert "val/scs 1.0000 with x=10" in result.stderr
    stopped = next((folder / "runs").rglob("002_*"))
    assert not (stopped / "metrics.json").exists()
    assert 1 <= len((stopped / "curve.jsonl").read_text().splitlines()) < 8


def test_bayes_learns_from_what_was_measured(tmp_path):
    """With the best at x = 0.8, later choices come nearer than the first ones."""
    config = {
        "method": "bayes",
        "metric": {"name": "val/scs", "goal": "maximize"},
        "parameters": {"x": {"min": 0.0, "max": 1.0}},
    }
    sweep = Sweep(config, tmp_path)
    for _ in range(10):
        trial = sweep._next(None)
        trial.folder.mkdir()
        value = -((trial.parameters["x"] - 0.8) ** 2)
        (trial.folder / "metrics.json").write_text(json.dumps({"val/scs": value}))
        sweep._over(trial, sweep._outcome(trial, "finished", ""))
    distances = [abs(t.parameters["x"] - 0.8) for t in sweep.trials]
    assert min(distances[5:]) < 0.05
    resumed = Sweep(config, tmp_path)
    assert resumed._next(None).parameters == sweep._next(None).parameters


def arguments_of(sweep, form="${args_no_hyphens}"):
    sweep.config["command"] = [form]
    return sweep._command(sweep._next(None))


@pytest.mark.parametrize(
    ("parameters", "settings"),
    [
        ("a: {value: 1e-5}", ["a=1e-05"]),
        ("start: {values: [null]}", ["start=null"]),
        ("name: {value: 'x, y [1]'}", ["name='x, y [1]'"]),
        ("tags: {value: [a, 'b c', null]}", ["tags=[a,'b c',null]"]),
        ("optim: {parameters: {learning_rate: {value: 1.0}, beta1: {value: 0.5}}}",
         ["optim.beta1=0.5", "optim.learning_rate=1.0"]),
        ("'optim.learning_rate': {value: 2}", ["optim.learning_rate=2"]),
        ("flag: {value: true}", ["flag=True"]),
    ],
)  # fmt: skip
def test_values_mean_what_they_say(tmp_path, parameters, settings):
    (tmp_path / "x.yaml").write_text(f"method: grid\nparameters: {{{parameters}}}\n")
    config = read_sweep(tmp_path / "x.yaml")
    [*given, folder, group] = arguments_of(Sweep(config, tmp_path / "a"))
    assert sorted(given) == settings
    OverridesParser.create().parse_overrides([*given, folder, group])
    plus = arguments_of(Sweep(config, tmp_path / "b"), "${args_append_hydra}")
    assert sorted(plus[:-2]) == [f"+{setting}" for setting in settings]


def test_numbers_may_be_written_as_in_yaml_1_2(tmp_path):
    text = (
        "method: random\nparameters: {a: {distribution: log_uniform_values, min: 1e-5, max: 1E+3}}"
    )
    (tmp_path / "x.yaml").write_text(text)
    config = read_sweep(tmp_path / "x.yaml")
    assert config["parameters"]["a"]["min"] == 1e-5
    assert 1e-5 <= Sweep(config, tmp_path / "s")._next(None).parameters["a"] <= 1000
    Sweep(config, tmp_path / "s")  # the copy of the file in the folder is the same sweep


@pytest.mark.parametrize("name", ["lr (1)", "it's, a [x]", "${x}", "été"])
def test_folders_of_any_name(tmp_path, name):
    config = {"method": "grid", "parameters": {"seed": {"values": [1]}}}
    [_, run, group] = arguments_of(Sweep(config, tmp_path / name))
    [folder, named] = OverridesParser.create().parse_overrides([run, group])
    composed = OmegaConf.create({"run": folder.value(), "group": named.value()})
    assert composed.group == name
    assert composed.run.startswith(str(tmp_path / name))


def test_a_copy_of_the_file_that_is_damaged_is_one_line(tmp_path):
    config = {"method": "grid", "parameters": {"seed": {"values": [1]}}}
    Sweep(config, tmp_path)
    (tmp_path / "sweep.yaml").write_bytes(b"\xff: [")
    with pytest.raises(PromptRecoveryError, match=r"sweep\.yaml: is damaged, .* remove the file"):
        Sweep(config, tmp_path)


def instant_program(folder, measured="val/scs"):
    (folder / "fake.py").write_text(
        "import json, pathlib, sys\n"
        "run = next(a for a in sys.argv if a.startswith('hydra.run.dir=')).split('=', 1)[1]\n"
        f"pathlib.Path(run.strip(\"'\"), 'metrics.json').write_text('{{\"{measured}\": 0.5}}')\n"
    )
    return {
        "program": "fake.py",
        "command": [sys.executable, str(folder / "fake.py"), "${args_no_hyphens}"],
        "method": "random",
        "parameters": {"x": {"min": 0.0, "max": 1.0}},
    }


def test_the_cap_on_runs_ends_a_sweep(tmp_path):
    config = instant_program(tmp_path) | {"run_cap": 2}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
    for count, wanted in ((1, 1), (5, 2), (None, 2)):
        assert len(run_sweep(tmp_path / "x.yaml", count, 1, tmp_path / "s", 0)) == wanted


def test_a_metric_that_is_not_measured_ends_a_sweep_after_its_first_trial(tmp_path):
    config = instant_program(tmp_path) | {"metric": {"name": "val_scs", "goal": "maximize"}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
    said = r"metric\.name=val_scs: trial 0 has not measured it; it has measured val/scs"
    for _ in range(2):
        with pytest.raises(PromptRecoveryError, match=said):
            run_sweep(tmp_path / "x.yaml", 5, 1, tmp_path / "s", 0)
    assert not list((tmp_path / "s").glob("001_*"))


def test_a_record_is_cut_at_an_event_that_makes_no_sense(tmp_path):
    config = {"method": "random", "parameters": {"x": {"min": 0.0, "max": 1.0}}}
    sweep = Sweep(config, tmp_path)
    chosen = [sweep._next(None).parameters for _ in range(3)]
    record = tmp_path / "trials.jsonl"
    whole = record.read_bytes()
    lines = whole.split(b"\n")
    for odd in (
        b"[]",
        b'{"trial": 7, "state": "failed", "reason": ""}',
        b'{"trial": -1, "state": "failed", "reason": ""}',
        b'{"trial": false, "state": "failed", "reason": ""}',
        b'{"trial": 0, "state": "banana", "reason": ""}',
        b'{"trial": 0, "state": ["failed"], "reason": ""}',
        b'{"trial": 0, "state": "failed", "reason": {}}',
        lines[2],
        b"\xff",
    ):
        record.write_bytes(b"\n".join([lines[0], odd, *lines[1:]]))
        again = Sweep(config, tmp_path)
        assert [t.parameters for t in again.trials] == chosen[:1]
        assert [again._next(None).parameters for _ in range(2)] == chosen[1:]
        assert record.read_bytes() == whole


def test_counts_and_mistakes_are_one_line(folder):
    file = quick_file(folder, "random.yaml")
    endless = command("sweep", f"file={file}", cwd=folder)
    assert endless.returncode == 1
    assert "give count=" in endless.stderr
    assert "Traceback" not in endless.stderr
    broken = quick_file(folder, "grid.yaml", parameters={"adapter.rank": {"values": [0]}})
    failed = command("sweep", f"file={broken}", cwd=folder)
    assert failed.returncode == 1
    assert "adapter.rank=0" in failed.stderr
    assert os.environ.get("WANDB_API_KEY") is None
