"""`hydra/launcher=slurm`, with programs that stand in for SLURM's own."""

import os
import stat
import sys
from pathlib import Path

import pytest

from tests.runs.conftest import QUICK, command_anew

# `sbatch` runs each job of an array as SLURM's node would; jobs run at once, in the background.
SBATCH = """
import os, re, subprocess, sys
script = sys.argv[-1]
count = int(re.search(r"--array=0-(\\d+)", open(script).read()).group(1)) + 1
for index in range(count):
    job = {
        "SLURM_JOB_ID": str(8 + index),
        "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node", "SLURM_NTASKS": "1",
        "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    }
    subprocess.Popen(["bash", script], env={**os.environ, **job}, start_new_session=True,
                     stdout=open(f"job_{index}.log", "wb"), stderr=subprocess.STDOUT)
print("Submitted batch job 7")
"""
SRUN = """
import os, sys
words = sys.argv[1:]
command = words[next(i for i, word in enumerate(words) if os.path.basename(word) in PYTHON):]
job = os.environ["SLURM_ARRAY_JOB_ID"] + "_" + os.environ["SLURM_ARRAY_TASK_ID"]
command = [word.replace("%j", job) for word in command]
os.execv(command[0], command)
""".replace("PYTHON", repr({Path(sys.executable).name, "python", "python3"}))
SACCT = """
import sys
jobs = [id for flag, id in zip(sys.argv, sys.argv[1:]) if flag == "-j"]
rows = [f"{job}_{i}|RUNNING|node" for job in jobs for i in (0, 1)]
print("JobID|State|NodeList", *rows, sep="\\n")
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A PATH on which SLURM's programs stand."""
    programs = tmp_path / "slurm"
    programs.mkdir()
    for name, code in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        program = programs / name
        program.write_text(f"#!{sys.executable}\n{code}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


def test_a_job_a_trial(folder, slurm):
    result = command_anew(
        "train", "-m", "hydra/launcher=slurm", "hydra.launcher.partition=gpu", *QUICK,
        "trainer.max_steps=2", "seed=1", "adapter.rank=2,0", cwd=folder,
    )  # fmt: skip
    group = folder / "runs" / "multirun" / "rank"
    [script] = group.glob(".submitit/*/*.sh")
    asked = script.read_text()
    for option in ("array=0-1", "partition=gpu", "gpus-per-node=1", "mem=64GB", "time=240"):
        assert f"#SBATCH --{option}" in asked
    assert result.returncode == 1, result.stderr
    [finished] = group.glob("*/metrics.json")
    table = (group / "summary.md").read_text()
    assert finished.parent.name.replace("_", r"\_") in table
    assert "error: 1 of 2 trials failed, one with: adapter" in result.stderr
    assert "Traceback" not in result.stderr
