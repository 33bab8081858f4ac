"""Paths in settings, made independent of the folder in which a command was given."""

from pathlib import Path

from prompt_recovery.settings.checking import check
from prompt_recovery.settings.paths import with_absolute_paths, without_detours
from prompt_recovery.training.job import TrainSettings
from tests.settings.composing import composed


def test_detours_are_left_out_unless_they_lead_elsewhere(tmp_path):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inside)
    assert without_detours(tmp_path / "a" / ".." / "c") == tmp_path / "c"
    assert without_detours(tmp_path / "link" / ".." / "c") == tmp_path / "link" / ".." / "c"


def test_every_path_of_a_run_is_absolute_and_words_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = composed(
        "train", "model=tiny", "data=file", "data.path=a/b.csv", "model.path='~/models'",
        "metric.encoder.source.path=encoder", "start=old", "retriever.model.path=mini", "name=n",
        "group=null",
    )  # fmt: skip
    given = check(config, TrainSettings)
    found = with_absolute_paths(given, TrainSettings)
    assert found["data"]["path"] == str(tmp_path / "a" / "b.csv")
    assert found["model"]["path"] == str(Path("~/models").expanduser())
    assert found["metric"]["encoder"]["source"]["path"] == str(tmp_path / "encoder")
    assert found["retriever"]["model"]["path"] == str(tmp_path / "mini")
    assert found["start"] == str(tmp_path / "old")
    assert found["preferences"]["path"] == "auto"
    assert given["data"]["path"] == "a/b.csv"
    found["data"]["path"], found["model"]["path"] = "a/b.csv", "~/models"
    found["metric"]["encoder"]["source"]["path"] = "encoder"
    found["retriever"]["model"]["path"], found["start"] = "mini", "old"
    assert found == given
