"""Commands as a user runs them, in a process of their own."""

import os
import subprocess
import sys


def command(name, *arguments):
    return [sys.executable, "-m", "prompt_recovery.cli", name, *map(str, arguments)]


def run(name, *arguments, cwd, **environment):
    return finished(command(name, *arguments), cwd, **environment)


def finished(words, cwd, **environment):
    return subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def assert_one_line(result, *parts):
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    [line] = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    for part in parts:
        assert part in line
