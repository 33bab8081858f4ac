import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from prompt_recovery.runs import trials
from prompt_recovery.runs.trials import Trial, trial_id


def test_the_id_is_of_what_changes_results(tmp_path, monkeypatch):
    config = {"name": "a", "seed": 1, "optim": {"learning_rate": 0.1}, "start": None}
    same = {**config, "name": "b", "group": "g", "tags": ["t"], "ckpt_path": "last"}
    assert trial_id(config) == trial_id(same)
    assert trial_id(config) != trial_id({**config, "seed": 2})
    assert trial_id(config) != trial_id({**config, "optim": {"learning_rate": 0.2}})
    monkeypatch.chdir(tmp_path)
    ids = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        (tmp_path / "latest").unlink(missing_ok=True)
        (tmp_path / "latest").symlink_to(tmp_path / run)
        ids.append(trial_id({**config, "start": "latest"}))
    assert ids[0] != ids[1], "a link counts as what it points to"


def trial(folder, code):
    return Trial("x=1", folder, [sys.executable, "-c", code])


def test_outcomes(tmp_path):
    write = "from pathlib import Path; Path(r'%s').write_text('{\"val/scs\": 0.5}')"
    done = trial(tmp_path / "a", write % (tmp_path / "a" / "metrics.json")).wait()
    assert (done.state, done.metric("val/scs")) == ("finished", 0.5)
    failed = trial(tmp_path / "b", "import sys; sys.exit('error: rank=0: must be ≥ 1')").wait()
    assert (failed.state, failed.reason) == ("failed", "rank=0: must be ≥ 1")
    killed = trial(tmp_path / "c", "import os; os.kill(os.getpid(), 9)").wait()
    assert (killed.state, killed.reason) == ("failed", "killed by signal 9")
    raised = (
        "print('ValueError: odd'); print('\\nSet … HYDRA_FULL_ERROR=1 for …'); raise SystemExit(1)"
    )
    unexpected = trial(tmp_path / "e", raised).wait()
    assert unexpected.reason == "ValueError: odd"
    late = "import sys; print('a library: connection lost'); sys.exit(130)"
    interrupted = trial(tmp_path / "d", late).wait()
    assert (interrupted.state, interrupted.reason) == ("failed", "interrupted")


def test_a_trial_ends_with_the_process_that_started_it(tmp_path):
    child = (
        "from prompt_recovery.runs.trials import end_with_parent; import os, time; "
        f"end_with_parent(); open(r'{tmp_path}/pid', 'w').write(str(os.getpid())); time.sleep(60)"
    )
    parent = trial(
        tmp_path,
        "import sys, time; from pathlib import Path; "
        "from prompt_recovery.runs.trials import Trial; "
        f"Trial('x', Path(r'{tmp_path}'), [sys.executable, '-c', {child!r}]); time.sleep(60)",
    )
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text()):
        assert parent.running(), (tmp_path / "output.log").read_text()
        time.sleep(0.1)
    os.kill(parent._process.pid, signal.SIGKILL)
    parent._process.wait()
    for _ in range(100):
        status = Path(f"/proc/{pid.read_text()}/status")
        if not status.exists() or "zombie" in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("the trial lives on")


def test_a_trial_whose_parent_is_gone_ends_at_once(monkeypatch):
    """The parent may be killed while the trial is still importing what it needs."""
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setenv(trials._PARENT, str(parent.pid))
    watches = []
    monkeypatch.setattr(
        trials.threading, "Thread", lambda **k: SimpleNamespace(start=lambda: watches.append(k))
    )
    trials.end_with_parent()  # as one that a script has started for the living parent
    assert len(watches) == 1
    parent.kill()
    while parent.poll() is None and psutil.Process(parent.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with pytest.raises(SystemExit):
        trials.end_with_parent()
    parent.wait()
    with pytest.raises(SystemExit):
        trials.end_with_parent()
    assert len(watches) == 1


def test_a_launcher_whose_time_is_over_ends_the_trial_and_says_so(tmp_path):
    """submitit raises in the process that waits, from a signal handler."""

    def time_is_over(*_):
        raise RuntimeError("timed out too many times")

    before = signal.signal(signal.SIGALRM, time_is_over)
    try:
        waiting = trial(tmp_path, "import time; time.sleep(60)")
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        outcome = waiting.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (outcome.state, outcome.reason) == ("failed", "timed out too many times")
    assert not waiting.running()


def test_a_job_that_is_queued_again_reports_no_failed_trial(tmp_path):
    """SLURM's signal reaches the trial first, and then the process that waits for it."""

    def queue_again(*_):
        raise SystemExit(-1)

    before = signal.signal(signal.SIGALRM, queue_again)
    try:
        ended = trial(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGUSR2)")
        while ended.running():
            time.sleep(0.01)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(SystemExit):
            ended.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
