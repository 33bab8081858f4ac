import sys
import tomllib

import pytest
import yaml

import prompt_recovery
from prompt_recovery.commands import main as module
from prompt_recovery.commands.main import main
from tests.conftest import ROOT


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["prompt-recovery", *arguments])
    main()


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
    run(monkeypatch, "--version")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert prompt_recovery.__version__ == declared
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == declared
    assert capsys.readouterr().out == f"prompt-recovery {declared}\n"


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["--help"], 0), (["learn"], 2)])
def test_help_lists_every_command(arguments, status, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *arguments)
    assert end.value.code == status
    said = capsys.readouterr().out
    assert said.startswith("error: unknown command 'learn'" if status else "usage:")
    assert all(f"\n  {command} " in said for command in module.COMMANDS)
