import sys

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.hydra import Hydra

from prompt_recovery.commands.composing import _may_set_mode
from prompt_recovery.commands.recover import recover
from prompt_recovery.settings.folder import config_folder


def test_a_command_composes_its_configuration_once(monkeypatch, capsys, tmp_path):
    composed = []
    compose = Hydra.compose_config

    def counted(self, *args, **options):
        composed.append(options["run_mode"].name)
        return compose(self, *args, **options)

    monkeypatch.setattr(Hydra, "compose_config", counted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["recover", "run=nowhere", "input=pairs.csv"])
    with pytest.raises(SystemExit):
        recover()
    assert "nowhere" in capsys.readouterr().err
    assert composed == ["RUN"]


@pytest.fixture
def usual():
    search = ConfigSearchPathImpl()
    search.append("hydra", "pkg://hydra.conf")
    search.append("main", "file://conf")
    search.append("schema", "structured://")
    return search


def test_the_mode_is_looked_for_where_it_may_be_set(usual, tmp_path):
    assert not _may_set_mode(usual, ["seed=1", "+experiment=rank"], config_folder())
    trial = ["hydra.run.dir='runs/a'", "++hydra.job.name=a", "hydra.output_subdir=null"]
    assert not _may_set_mode(usual, trial, config_folder())
    for override in (
        "hydra.mode=MULTIRUN", "++hydra.mode=MULTIRUN", "hydra.searchpath=[file://more]",
        "hydra/launcher=joblib", "hydra={mode: MULTIRUN}", "~hydra",
    ):  # fmt: skip
        assert _may_set_mode(usual, [override], config_folder()), override
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    for text in ("hydra:\n  mode: MULTIRUN\n", "hydra:\n  searchpath: [file://more]\n"):
        file.write_text(text)
        assert _may_set_mode(usual, [], tmp_path)
    file.write_text("mmap_mode: r\n")
    assert not _may_set_mode(usual, [], tmp_path)
    usual.append("command-line", "file:///elsewhere")
    assert _may_set_mode(usual, [], tmp_path)
