import hydra.core.utils
import pytest
import yaml
from omegaconf import OmegaConf

import prompt_recovery.commands.entry  # noqa: F401  (replaces how Hydra writes its files)
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.settings.checking import check
from prompt_recovery.settings.secrets import as_written, redacted

URL = "https://user:SECRET@host:8080/v1?api-key=SECRET&x=1"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (URL, "https://…@host:8080/v1?…"),
        (f"a.base_url='{URL}' b=1", "a.base_url='https://…@host:8080/v1?…' b=1"),
        ("http://SECRET@h", "http://…@h"),
        ("http://u:p@ss@h/v1", "http://…@h/v1"),
        ("HTTPS://u:SECRET@h", "HTTPS://…@h"),
        ("http://h?SECRET#x", "http://h?…#x"),
        ("http://localhost:8080/v1", "http://localhost:8080/v1"),
        ("a@b.c?d", "a@b.c?d"),
        ("Is it http://h/x? Yes.", "Is it http://h/x? Yes."),
    ],
)
def test_urls_are_written_without_secrets(text, written):
    assert redacted(text) == written


def test_interpolations_stay_as_they_are_written(monkeypatch):
    monkeypatch.setenv("A_HOST", "secret-host.example")
    monkeypatch.setenv("A_KEY", "SECRET-KEY-0123")
    monkeypatch.setenv("A_FLAG", "on")
    config = OmegaConf.create(
        {
            "url": "http://${oc.env:A_HOST}/v1",
            "key": "${oc.env:A_KEY}",
            "again": "${key}",
            "flag": "${oc.env:A_FLAG}",
            "other": "on and on",
            "default": "${oc.env:A_NONE,none}",
            "inner": {"keys": ["${key}"]},
            "number": 3,
        }
    )
    resolved = OmegaConf.to_container(config, resolve=True)
    assert (resolved["again"], resolved["default"]) == ("SECRET-KEY-0123", "none")
    assert as_written(resolved) == {
        "url": "http://${oc.env:A_HOST}/v1",
        "key": "${oc.env:A_KEY}",
        "again": "${oc.env:A_KEY}",
        "flag": "${oc.env:A_FLAG}",
        "other": "on and on",
        "default": "none",
        "inner": {"keys": ["${oc.env:A_KEY}"]},
        "number": 3,
    }


def test_a_run_records_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "SECRET-KEY-0123")
    config = OmegaConf.create({"name": "${oc.env:A_KEY}", "seed": 1})

    def settings(name: str, seed: int = 0, extra: str = ""):
        return name, seed, extra

    given = check(config, settings) | {"preferences": {"api": {"base_url": URL}}}
    given |= {"data": {"path": str(tmp_path / "a.csv")}, "split": {"by": "prompt"}}
    run = RunFolder(tmp_path)
    run.write_config(given)
    text = (tmp_path / "config.yaml").read_text()
    assert "SECRET" not in text and "${oc.env:A_KEY}" in text
    assert run.config()["data"]["path"] == str(tmp_path / "a.csv")
    assert given["preferences"]["api"]["base_url"] == URL, "what is used stays"


def test_hydras_own_files_have_no_secret(tmp_path):
    overrides = OmegaConf.create([f"preferences.api.base_url={URL}", "seed=1"])
    hydra.core.utils._save_config(overrides, "overrides.yaml", tmp_path / ".hydra")
    text = (tmp_path / ".hydra" / "overrides.yaml").read_text()
    assert "SECRET" not in text
    assert yaml.safe_load(text)[1] == "seed=1"
