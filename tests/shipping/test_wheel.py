"""The wheel, which holds all that a command needs."""

import os
import subprocess
import sys
import zipfile

import pytest

from prompt_recovery.runs.shipped import FOLDER
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    [file] = folder.glob("*.whl")
    return file


def test_it_holds_what_the_package_reads_and_is_small(wheel):
    assert wheel.stat().st_size < 60e6
    with zipfile.ZipFile(wheel) as whole:
        held = set(whole.namelist())
    files = [p for p in (ROOT / "src").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {p.relative_to(ROOT / "src").as_posix() for p in files} <= held
    settings = list((ROOT / "conf").rglob("*.yaml"))
    assert {f"prompt_recovery/{p.relative_to(ROOT).as_posix()}" for p in settings} <= held
    shipped = [p for p in FOLDER.rglob("*") if p.is_file()]
    assert {p.relative_to(FOLDER.parents[1]).as_posix() for p in shipped} <= held


def test_what_is_unpacked_from_it_runs_without_the_repository(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as whole:
        whole.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    script = "import prompt_recovery; print(prompt_recovery.__file__)"
    for arguments in (["-c", script], ["-m", "prompt_recovery", "recover", "--cfg", "job"]):
        result = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path / "empty",
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        )
        assert str(tmp_path / "site") in result.stdout or "original: null" in result.stdout
