"""Commands as a user runs them, in a process of their own.

A new interpreter takes seconds to import torch and its friends, and there are a hundred commands:
those that run to their end are forks of a server that has imported them already.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["prompt_recovery.training.run", "prompt_recovery.reporting.evaluation.job"]
)
_TIMEOUT_S = 280


def command(name, *arguments):
    """The words that start `prompt-recovery …` in a new interpreter."""
    return [sys.executable, "-m", "prompt_recovery", name, *map(str, arguments)]


def run(name, *arguments, cwd):
    """`prompt-recovery …` to its end; a CompletedProcess, its output as text."""
    return run_script(Path(sys.executable).with_name("prompt-recovery"), name, *arguments, cwd=cwd)


def run_script(path, *arguments, cwd):
    """`python path …` to its end."""
    words = [str(path), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _SERVER.Process(target=_child, args=(words, str(cwd), dict(os.environ), files))
        process.start()
        process.join(_TIMEOUT_S)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, _TIMEOUT_S)
        out, err = (file.read_text(encoding="utf-8") for file in files)
        return subprocess.CompletedProcess(words, process.exitcode, out, err)


def run_anew(words, cwd, **environment):
    """In a new interpreter. Some libraries read the environment when they are imported, and some
    start processes that a fork can't."""
    return subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def _child(words, cwd, environment, files):
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # an interpreter does at its end, and a fork doesn't


def assert_one_line(result, *parts):
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    [line] = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    for part in parts:
        assert part in line
