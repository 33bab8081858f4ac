"""Processes that tests start, kill and wait for: forks of a server that has imported the package.

A new interpreter takes seconds to import torch and its friends, and the tests start a hundred.
There is one server for each process that runs tests, so what it imports is said here, once.
"""

import atexit
import faulthandler
import importlib
import logging
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from multiprocessing import connection, forkserver, resource_tracker
from pathlib import Path

_IMPORTED = [
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
SERVER = "PROMPT_RECOVERY_TEST_SERVER"
"""The environment variable with the server's address, for `tests/anew/sitecustomize.py`."""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(_IMPORTED)


def start_server(capturing):
    """Makes the server a fork of this process, which needs the same modules anyway.

    Without it, the first fork starts a server, which imports them anew.

    Args:
        capturing: pytest's manager of captured output, which is to get the forks' output, too.
    """
    if sys.platform != "linux" or sys.version_info >= (3, 14):
        return  # forks of loaded libraries are unsafe elsewhere; later versions authenticate
    for module in _IMPORTED:
        importlib.import_module(module)
    resource_tracker.ensure_running()
    capturing.resume_global_capture()
    with socket.socket(socket.AF_UNIX) as listener, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: the one that xdist has waits for messages
        address = connection.arbitrary_address("AF_UNIX")
        listener.bind(address)
        listener.listen()
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            _serve(listener.fileno(), read)
        os.close(read)
    capturing.suspend_global_capture()
    server = forkserver._forkserver
    server._forkserver_address = address
    server._forkserver_alive_fd = write
    server._forkserver_pid = process


def standing_in():
    """The environment of a new interpreter in which what launchers start in turn are forks.

    They start trials, and Lightning and torchrun the other processes of a run, in interpreters of
    their own. With this environment, each of these asks the server for a fork that does its work.
    """
    root = Path(__file__).parents[1]
    path = [str(root / "tests" / "anew"), str(root), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    if sys.platform != "linux" or sys.version_info >= (3, 14):  # as for `start_server`
        return environment
    forkserver.ensure_running()
    return {**environment, SERVER: forkserver._forkserver._forkserver_address}


def stand_in():
    """Does in a fork of the server what this interpreter was started for, and ends as it ends."""
    server = forkserver._forkserver
    server._forkserver_address = os.environ.pop(SERVER)
    _, server._forkserver_alive_fd = os.pipe()
    server.ensure_running = lambda: None
    me = os.getpid()
    files = [f"/proc/{me}/fd/{number}" for number in (1, 2)]
    given = (sys.orig_argv, str(Path.cwd()), dict(os.environ), files, False, False, me)
    process = PROCESSES.Process(target=_run, args=given)
    process.start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, _: os.kill(process.pid, number))
    process.join()
    if process.exitcode < 0:
        signal.signal(-process.exitcode, signal.SIG_DFL)
        os.kill(me, -process.exitcode)
    os._exit(process.exitcode)


def _serve(listener, alive):
    """Serves forks until the process that runs the tests ends, without what pytest has changed."""
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        kept = {0, 1, 2, listener, alive, resource_tracker.getfd(), nowhere}
        for file in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if file not in kept:  # objects may still close it, so its number stays taken
                os.dup2(nowhere, file, inheritable=False)
        _open_streams()
        sys.meta_path[:] = [finder for finder in sys.meta_path if not _of_pytest(type(finder))]
        for handler in filter(lambda handler: _of_pytest(type(handler)), logging.root.handlers[:]):
            logging.root.removeHandler(handler)
        sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__
        faulthandler.disable()
        forkserver.main(listener, alive, [])
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _open_streams():
    """Opens standard output and error anew: whether a stream can seek depends on its file."""
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _of_pytest(kind):
    return kind.__module__.startswith("_pytest")


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
        start_new_session: whether it leads a session, which can be killed as a whole.
    """

    def __init__(
        self,
        command,
        cwd=None,
        env=None,
        stdin=None,
        stdout=None,
        stderr=None,
        forks_trials=False,
        start_new_session=False,
    ):
        out, err = (getattr(file, "name", os.devnull) for file in (stdout, stderr))
        files = [str(Path(file).resolve()) for file in (out, out if stderr == _STDOUT else err)]
        cwd, env = str(cwd or Path.cwd()), dict(os.environ if env is None else env)
        self.args = [str(word) for word in command]
        self._process = PROCESSES.Process(
            target=_run, args=(self.args, cwd, env, files, forks_trials, start_new_session)
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


def _run(words, cwd, environment, files, forks_trials, start_new_session, asked_by=None):
    if start_new_session:
        os.setsid()
    if asked_by is not None:
        threading.Thread(target=_end_with, args=(asked_by,), daemon=True).start()
    # Who runs the tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    _open_streams()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if forks_trials:
        _fork_trials()
    while not Path(words[0]).name.startswith("python"):
        words = words[1:]  # /usr/bin/env
    words = words[1:]
    while words[0].startswith("-") and words[0] != "-m":
        words = words[1:]  # torchrun starts Python with -u
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


def _end_with(process):
    while Path("/proc", str(process)).exists():
        time.sleep(0.5)
    os._exit(1)


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
