"""Multiruns as a user meets them."""

import json
import shutil

import pytest
from hydra import compose, initialize_config_dir

from prompt_recovery.runs.multirun import group_of
from prompt_recovery.settings.folder import config_folder
from tests.conftest import ROOT
from tests.killing import assert_kills_change_nothing, run_files
from tests.runs.conftest import QUICK, RUN_FILES, command, command_anew, starter_of
from tests.runs.offline import offline_run

FACTORS = ["adapter.rank=2,0", "seed=1,2"]


def test_failures_stay_alone_and_a_rerun_does_what_is_missing(folder):
    first = command("train", "-m", *QUICK, "trainer.max_steps=2", *FACTORS, cwd=folder)
    assert first.returncode == 1
    [line] = [x for x in first.stderr.splitlines() if x.startswith("error: ")]
    assert "2 of 4 trials failed" in line
    assert "adapter.rank=0" in line
    assert "Traceback" not in first.stderr
    group = folder / "runs" / "multirun" / "rank-seed"
    finished = {p.parent: p.stat().st_mtime_ns for p in group.glob("*/metrics.json")}
    assert len(finished) == 2
    assert len({(f / "config.yaml").read_text() for f in finished}) == 2
    table = (group / "summary.md").read_text()
    assert table.count("| finished |") == 2
    assert table.count("| failed") == 2
    assert not (folder / "runs" / "latest").exists(), "trials don't become runs/latest"

    second = command(
        "train", "-m", *QUICK, "trainer.max_steps=2", "adapter.rank=2", "seed=1,2,3",
        "group=rank-seed", cwd=folder,
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("finished before") == 2
    now = {p.parent: p.stat().st_mtime_ns for p in group.glob("*/metrics.json")}
    assert len(now) == 3
    assert finished.items() <= now.items(), "what was done stays as it is"
    value = json.loads((next(iter(finished)) / "metrics.json").read_text())["val/scs"]
    assert f"{value:.4f}" in second.stdout


def test_in_parallel_offline_wandb_runs_are_separate_and_whole(folder):
    quick = [q for q in QUICK if not q.startswith("logger")]
    result = command_anew(
        "train", "-m", "hydra/launcher=joblib", *quick, "trainer.max_steps=2", "seed=1,2",
        "tags=[ablation,tiny]", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert_separate_runs(folder, seeds={1, 2}, group="seed")


def test_in_order_offline_wandb_runs_of_a_named_ablation_are_separate_and_whole(folder):
    quick = [q for q in QUICK if not q.startswith("logger")]
    result = command(
        "train", "-m", "+experiment=rank", *quick, "trainer.max_steps=2", "adapter.rank=4",
        "seed=1,2", "tags=[ablation,tiny]", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert_separate_runs(folder, seeds={1, 2}, group="rank")


def test_trials_of_an_ablation_of_experiments_share_their_first_stage(folder):
    result = command(
        "train", "-m", "+experiment=backbones_objectives", *QUICK, "seed=1", "precision=fp32",
        "trainer.max_steps=2", "preferences.mix.sampled=6", "preferences.mix.max_new_tokens=4",
        "preferences.pairing.margin=0.0001", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    trials = folder / "runs" / "multirun" / "backbones_objectives"
    assert len(list(trials.glob("*/metrics.json"))) == 3
    [sft] = trials.glob("tiny_sft_[0-9a-f]*")
    adapter = (sft / "adapter" / "adapter_model.safetensors").read_bytes()
    seconds = json.loads((sft / "metrics.json").read_text())["train/seconds"]
    for objective in ("dpo", "listwise"):
        [trial] = trials.glob(f"tiny_sft_then_{objective}_*")
        first = trial / "first_stage"
        assert (first / "adapter" / "adapter_model.safetensors").read_bytes() == adapter
        assert f"already trained in {sft}" in (trial / "train.log").read_text()
        metrics = json.loads((trial / "metrics.json").read_text())
        assert metrics["seconds"] > metrics["train/seconds"] + seconds, "its cost counts"
        assert (trial / "config.yaml").read_text() != (first / "config.yaml").read_text()


NAMED = [p.stem for p in (ROOT / "experiments").glob("*.yaml") if "sweeper:" in p.read_text()]


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_named_ablation_sweeps_settings_that_exist(name):
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        experiment = [f"+experiment={name}"]
        config = compose("train", experiment, return_hydra_config=True)
        params = config.hydra.sweeper.params
        assert {"seed", "precision"} <= set(params)
        for key, values in params.items():
            for value in str(values).split(","):
                given = experiment if key != "+experiment" else []
                compose("train", [*given, f"{key}={value}"])


def assert_separate_runs(folder, seeds, group):
    files = sorted((folder / "runs").rglob("run-*.wandb"))
    runs = [offline_run(f) for f in files]
    assert len(runs) == len(seeds) == len({r.id for r in runs})
    assert {r.config["seed"] for r in runs} == seeds
    for run, file in zip(runs, files, strict=True):
        trial = file.parents[2]
        assert run.group == group
        assert run.tags == ["ablation", "tiny"]
        assert run.config["model"]["name"] == "tiny"
        assert run.config["optim"]["learning_rate"] == 1.5e-3
        assert run.config["compared_by"]["data"]["name"] == "own.jsonl"
        for name, value in json.loads((trial / "metrics.json").read_text()).items():
            assert abs(run.summary[name] - value) < 1e-6 * max(abs(value), 1), name
        assert run.exit_code == 0


def test_names_of_groups():
    swept = ["model", "optim.learning_rate", "seed"]
    assert group_of(["model=a,b"], swept, None) == "model-learning_rate-seed"
    assert group_of(["model=a,b"], swept, "starter_sft") == "starter_sft"
    assert group_of(["group='mine'"], swept, "starter_sft") == "mine"


def test_launchers_compose():
    for launcher in ("joblib", "slurm", "basic"):
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = compose("train", [f"hydra/launcher={launcher}"], return_hydra_config=True)
        assert "Launcher" in config.hydra.launcher._target_
    assert config.hydra.sweeper._target_.endswith("Trials")


def test_kills_change_no_multirun(folder):
    """What is killed is the process that starts the trials; a trial of it may be under way."""
    arguments = [
        "train", "-m", *QUICK, "trainer.max_steps=4", "checkpoint_minutes=0", "seed=1,2",
        "precision=fp32",
    ]  # fmt: skip

    def prepare(where):
        for path in ("own.jsonl", "train.py"):
            shutil.copy(folder / path, where)

    def left(where):
        trials = (where / "runs" / "multirun" / "seed").glob("tiny_sft_*")
        return sorted((run_files(t, *RUN_FILES) for t in trials), key=str)

    assert_kills_change_nothing(folder / "kills", prepare, starter_of(arguments), left)


def test_a_killed_trial_is_resumed_and_the_others_go_on(folder):
    """One trial dies by SIGKILL, as the kernel kills what takes too much memory."""
    (folder / "sitecustomize.py").write_text(
        "import os, sys, threading, time\n"
        "def watch():\n"
        "    while not os.path.exists(folder + '/checkpoints/last.ckpt'): time.sleep(0.01)\n"
        "    open('killed', 'w').close(); os.kill(os.getpid(), 9)\n"
        "folder = ''.join(a[15:-1] for a in sys.argv if a.startswith('hydra.run.dir'))\n"
        "if not os.path.exists('killed') and 'seed=1' in sys.argv:\n"
        "    threading.Thread(target=watch, daemon=True).start()\n"
    )
    arguments = [
        "train", "-m", *QUICK, "trainer.max_steps=12", "checkpoint_minutes=0", "seed=1,2",
    ]  # fmt: skip
    first = command(*arguments, cwd=folder)
    assert first.returncode == 1
    assert (folder / "killed").exists()
    assert "killed by signal 9" in first.stderr
    assert len(list((folder / "runs").rglob("metrics.json"))) == 1
    second = command(*arguments, cwd=folder)
    assert second.returncode == 0, second.stderr
    assert "#0 continues" in second.stderr
    assert "#1 finished before" in second.stderr
