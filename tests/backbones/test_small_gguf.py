"""The conversion of small Llamas against that of transformers."""

import json

import pytest

from prompt_recovery.backbones.convert import converted
from prompt_recovery.backbones.from_gguf import convert
from prompt_recovery.backbones.llama import small_llama
from prompt_recovery.backbones.locate import Location
from prompt_recovery.backbones.small_gguf import converted_small
from prompt_recovery.backbones.small_tokenizer import small_tokenizer
from tests.backbones.tiny_gguf import tiny_gguf


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", llama=True)


@pytest.mark.parametrize("output", [True, False])
def test_it_writes_the_files_that_transformers_writes(tmp_path, output):
    file = tiny_gguf(tmp_path / "tiny.gguf", output, llama=True)
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    for folder in (own, theirs):
        folder.mkdir()
    assert converted_small(file, own)
    convert(Location(tmp_path, file.name), theirs, theirs)
    names = {path.name for path in theirs.iterdir()}
    assert {path.name for path in own.iterdir()} == names and "chat_template.jinja" in names
    for name in names - {"tokenizer_config.json"}:
        assert (own / name).read_bytes() == (theirs / name).read_bytes(), name
    values = [json.loads((f / "tokenizer_config.json").read_text("utf-8")) for f in (own, theirs)]
    for found in values:
        del found["local_files_only"]  # it depends on whether the Hub may be asked
    assert values[0] == values[1]
    assert small_tokenizer(own) is not None
    assert small_llama(own, tmp_path) is None  # there is no adapter


def test_other_and_damaged_files_are_left_to_transformers(tmp_path, file):
    empty = tmp_path / "empty"
    empty.mkdir()
    whole = file.read_bytes()
    other = whole.replace(b"smollm", b"tinyll")
    assert other != whole
    for content in (whole[:-500], whole[: len(whole) // 4], b"GGUF", b"", other):
        (tmp_path / "changed.gguf").write_bytes(content)
        assert not converted_small(tmp_path / "changed.gguf", empty)
    assert not converted_small(tiny_gguf(tmp_path / "qwen.gguf"), empty)
    assert not list(empty.iterdir())


def test_a_small_llama_is_converted_without_transformers(tmp_path, file, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    used = "prompt_recovery.backbones.from_gguf.convert"
    monkeypatch.setattr(used, lambda *_: pytest.fail("transformers converts it"))
    folder = converted(Location(file.parent, file.name))
    assert (folder / "model.safetensors").is_file() and folder.is_relative_to(tmp_path)
