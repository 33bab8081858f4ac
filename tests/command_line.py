"""Commands as a user runs them, in a process of their own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.forks import Fork, standing_in

_TIMEOUT_S = 280


def command(name, *arguments):
    """The words that start `prompt-recovery …` in a new interpreter."""
    return [sys.executable, "-m", "prompt_recovery", name, *map(str, arguments)]


def run(name, *arguments, cwd, **environment):
    """`prompt-recovery …` to its end; a CompletedProcess, its output as text."""
    script = Path(sys.executable).with_name("prompt-recovery")
    return run_script(script, name, *arguments, cwd=cwd, **environment)


def run_script(path, *arguments, cwd, forks_trials=True, **environment):
    """`python path …` to its end, in a fork, and so are the trials that it starts."""
    words = [sys.executable, str(path), *map(str, arguments)]
    environment = {**os.environ, **environment}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        with files[0].open("w") as out, files[1].open("w") as err:
            process = Fork(
                words, cwd, environment, stdout=out, stderr=err, forks_trials=forks_trials
            )
        try:
            process.wait(_TIMEOUT_S)
        finally:
            process.kill()
        out, err = (file.read_text(encoding="utf-8") for file in files)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


def run_anew(words, cwd, **environment):
    """In a new interpreter. Some libraries read the environment when they are imported, and some
    start processes that a fork can't. The trials that these start are forks all the same."""
    return subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **standing_in(), **environment},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def assert_one_line(result, *parts):
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    [line] = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    for part in parts:
        assert part in line
