"""Optional libraries: how they are found and installed, and that they are asked for in time."""

import re
import sys
import tomllib

import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.cluster import RayCluster
from prompt_recovery.settings import extras
from prompt_recovery.settings.checking import make
from prompt_recovery.settings.declared import name_of
from prompt_recovery.settings.extras import MODULES, has_extra, installation, require_extra
from tests.conftest import ROOT

DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
INSTALLS = re.compile(r"pip install -e '\.\[([\w,]+)\]'")


def test_every_extra_is_known_by_its_modules():
    launchers = {"joblib", "slurm", "hydra_ray"}  # Hydra looks for these itself
    assert set(MODULES) == set(DECLARED) - launchers - {"docs", "dev"}


def test_the_command_is_that_of_the_documents_in_the_clone_and_names_it_elsewhere(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(ROOT)
    assert installation("app") == "pip install -e '.[app]'"
    monkeypatch.chdir(tmp_path)
    assert installation("app") == f"pip install -e '{ROOT}[app]'"


def test_a_wheel_names_the_libraries_since_nothing_is_on_pypi(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "_CLONE", tmp_path)
    recorded = [
        "torch>=2.6",
        "gradio>=6; extra == 'app'",
        "bitsandbytes>=0.45; (sys_platform == 'linux') and extra == 'qlora'",
        "llama-cpp-python[server]>=0.3.36; extra == 'llama-cpp'",
    ]
    monkeypatch.setattr(extras, "requires", lambda _: recorded)
    assert installation("app") == "pip install 'gradio>=6'"
    assert installation("qlora") == "pip install 'bitsandbytes>=0.45'"
    assert installation("llama_cpp") == "pip install 'llama-cpp-python[server]>=0.3.36'"


def test_no_other_place_words_it_and_documents_name_extras_that_there_are():
    for file in (ROOT / "src").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "pip install 'prompt-recovery" not in text, file
        assert "pip install -e" not in text or file.name == "extras.py", file
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*")]
    named = [n for p in pages for n in INSTALLS.findall(p.read_text(encoding="utf-8"))]
    assert len(named) > 5 and {e for n in named for e in n.split(",")} <= set(DECLARED)


def test_a_folder_of_the_same_name_is_no_library(monkeypatch, tmp_path):
    (tmp_path / "sweeps_of_mine").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(MODULES, "sweeps", ("sweeps_of_mine",))
    assert not has_extra("sweeps")
    with pytest.raises(PromptRecoveryError, match=r"it needs sweeps_of_mine: .*, or leave it"):
        require_extra("sweeps", "it", "leave it")


def test_a_class_that_needs_an_extra_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PromptRecoveryError, match=r"cluster=ray needs ray: pip install"):
        make({"_target_": name_of(RayCluster)})
