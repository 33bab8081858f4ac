"""Processes that tests start, kill and wait for: forks of a server that has imported the package.

A new interpreter takes seconds to import torch and its friends, and the tests start a hundred.
There is one server for each process that runs tests, so what it imports is said here, once.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from multiprocessing import forkserver
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "pytest",
        "prompt_recovery.training.run",
        "prompt_recovery.reporting.evaluation.job",
        "prompt_recovery.recovery.job",
        "prompt_recovery.generation.job",
        "matplotlib.backends.backend_agg",
        "tests.conftest",
        "tests.forks",
        "tests.warm",
    ]
)


class Fork:
    """`subprocess.Popen`, as far as it is used here, of a Python program in a fork of the server.

    The process is as real as any, for signals too; but its parent is the server.

    Args:
        command: `[python, "-m", module, *arguments]` or `[python, script, *arguments]`.
        cwd: where it runs.
        env: its whole environment.
        stdout: a file, or None for nowhere.
        stderr: likewise, or `subprocess.STDOUT`.
        forks_trials: whether trials, which it starts in turn, are forks too.
    """

    def __init__(
        self, command, cwd=None, env=None, stdin=None, stdout=None, stderr=None, forks_trials=False
    ):
        out, err = (getattr(file, "name", os.devnull) for file in (stdout, stderr))
        files = [str(Path(file).resolve()) for file in (out, out if stderr == _STDOUT else err)]
        cwd, env = str(cwd or Path.cwd()), dict(os.environ if env is None else env)
        self.args = [str(word) for word in command]
        self._process = PROCESSES.Process(
            target=_run, args=(self.args, cwd, env, files, forks_trials)
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self._process.exitcode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self._process.terminate()

    def kill(self):
        self._process.kill()


_STDOUT = subprocess.STDOUT


def _run(words, cwd, environment, files, forks_trials):
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if forks_trials:
        _fork_trials()
    while not Path(words[0]).name.startswith("python"):
        words = words[1:]  # /usr/bin/env
    words = words[1:]
    # Each process has a folder for media, which it removes at its end.
    sys.modules["wandb.sdk.data_types._private"].MEDIA_TMP.name = tempfile.mkdtemp("wandb-media")
    sys.argv = words[1:] if words[0] == "-m" else words
    custom = Path("sitecustomize.py")
    if custom.exists():  # an interpreter runs one that is on its path
        exec(custom.read_text(), {})
    try:
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    finally:
        # An interpreter does both at its end, in this order, and a fork doesn't.
        threading._shutdown()
        atexit._run_exitfuncs()


def _fork_trials():
    """Trials are started as they are, but that a fork takes the place of a new interpreter."""
    from prompt_recovery.runs import trials

    # The server's address is inherited, but Python 3.11 would start another server for this fork.
    forkserver._forkserver.ensure_running = lambda: None

    class Subprocess:
        Popen = Fork
        DEVNULL, STDOUT = subprocess.DEVNULL, subprocess.STDOUT
        TimeoutExpired = subprocess.TimeoutExpired

    trials.subprocess = Subprocess
