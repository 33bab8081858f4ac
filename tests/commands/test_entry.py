from pathlib import Path
from types import SimpleNamespace

from hydra.types import RunMode

from prompt_recovery.commands import entry


def test_relative_paths_are_those_of_the_folder_where_the_command_was_given(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")  # as Hydra does with hydra.job.chdir=true
    runtime = SimpleNamespace(output_dir=str(tmp_path / "run"), cwd=str(tmp_path))
    here = SimpleNamespace(mode=RunMode.RUN, runtime=runtime)
    monkeypatch.setattr(entry.HydraConfig, "get", lambda: here)
    assert entry._where_it_was_given(lambda _: Path.cwd())(None) == tmp_path
