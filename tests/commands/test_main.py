import subprocess
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


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_command(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *arguments)
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage:")
    assert all(f"\n  {command} " in said for command in module.COMMANDS)


@pytest.mark.parametrize(("given", "meant"), [("recove", "did you mean recover? "), ("x", "")])
def test_an_unknown_command_is_one_line(given, meant, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, given)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith(
        f"error: '{given}' is not a command; {meant}use one of train, generate"
    )
    assert (said.err.count("\n"), said.out) == (1, "")


def imported_by(code):
    script = f"{code}\nimport sys; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in found.stdout.split()}


def test_help_and_settings_are_shown_without_heavy_libraries():
    heavy = {"torch", "transformers", "hydra", "numpy", "pydantic"}
    assert not imported_by("import prompt_recovery.commands.main") & heavy
    settings = imported_by("import prompt_recovery.commands.recover")
    assert not settings & {"torch", "transformers", "scipy", "sklearn", "pyarrow", "wandb"}


def test_a_recovery_imports_only_what_it_needs():
    unused = {"sentence_transformers", "sklearn", "pandas", "datasets", "pyarrow", "wandb",
              "lightning", "matplotlib", "lingua"}  # fmt: skip
    assert not imported_by("import prompt_recovery.recovery.job") & unused
