"""Sentence-transformers folders from a stranger."""

import json
import shutil
import sys

import pytest

from prompt_recovery.backbones.tiny import tiny_encoder
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.encoder import EncoderSource, SentenceEncoder
from prompt_recovery.metrics.plain import load_plain, require_plain

DENSE = {
    "in_features": 24,
    "out_features": 24,
    "bias": False,
    "activation_function": "torch.nn.modules.linear.Identity",
}


@pytest.fixture
def folder(tmp_path):
    """A tiny sentence-transformers folder, with what claims to be a linear layer."""
    target = tmp_path / "encoder"
    shutil.copytree(tiny_encoder("bert"), target)
    dense = target / "2_Dense"
    dense.mkdir()
    (dense / "config.json").write_text(json.dumps(DENSE))
    (dense / "model.safetensors").write_bytes(b"\0" * 4 * 24 * 24)
    change(target / "modules.json", lambda m: m.append({
        "idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense",
    }))  # fmt: skip
    require_plain(target)
    return target


def change(path, edit):
    values = json.loads(path.read_text()) if path.exists() else {}
    edit(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("modules.json", lambda m: m[1].update(type="evil.Pooling"), "'evil.Pooling' in"),
        ("modules.json", lambda m: m[1].update(type="evil"), "'evil' in"),
        ("modules.json", lambda m: m[1].update(type="sentence_transformers.models.Router"), "Rout"),
        ("modules.json", lambda m: m[1].update(path="../../evil"), "in '../../evil'"),
        ("modules.json", lambda m: m[1].update(path="/etc"), "in '/etc'"),
        ("modules.json", lambda m: m.clear(), "is not a whole"),
        ("modules.json", lambda m: m[0].pop("type"), "is not a whole"),
        ("2_Dense/config.json", lambda c: c.update(activation_function="torch.hub.load"), "activ"),
        ("2_Dense/config.json", lambda c: c.update(in_features=10**9), "is not a whole"),
        ("config.json", lambda c: c.update(attn_implementation="evil/kernel"), "evil/kernel"),
        ("config.json", lambda c: c.update(text={"_attn_implementation": "a/b"}), "'a/b' is not"),
        ("config.json", lambda c: c.update(num_hidden_layers=10**7), "more than 1000 layers"),
        ("config.json", lambda c: c.update(num_hidden_layers="x"), "config.json: is damaged"),
        ("config.json", lambda c: c.update(vocab_size=10**9), "asks for more weights than"),
        ("config.json", lambda c: c.update(hidden_size=10**9), "asks for more weights than"),
        ("config.json", lambda c: c.update(max_position_embeddings=10**9), "asks for more weights"),
        (
            "sentence_bert_config.json",
            lambda c: c.update(model_kwargs={"allow_all_kernels": True}),
            "'model_kwargs' is not a setting",
        ),
        (
            "sentence_bert_config.json",
            lambda c: c.update(tokenizer_name_or_path="/evil"),
            "'tokenizer_name_or_path' is not a setting",
        ),
        (
            "sentence_bert_config.json",
            lambda c: c["modality_config"]["text"].update(method="push_to_hub"),
            "'push_to_hub' is not a method",
        ),
        ("adapter_config.json", lambda c: c.update(base_model_name_or_path="x"), "holds an adapt"),
    ],
)
def test_what_names_code_or_other_folders_is_refused_in_one_line(file, edit, message, folder):
    change(folder / file, edit)
    with pytest.raises(PromptRecoveryError, match=message) as caught:
        load_plain(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("path", ["model.safetensors", "2_Dense/model.safetensors"])
def test_pickled_weights_are_not_loaded(path, folder):
    (folder / path).rename((folder / path).with_name("pytorch_model.bin"))
    with pytest.raises(PromptRecoveryError, match="pickled weights are not loaded|not a whole"):
        load_plain(folder)


def test_code_that_a_configuration_names_is_not_run(folder, monkeypatch):
    shutil.rmtree(folder / "2_Dense")
    change(folder / "modules.json", lambda m: m.pop())
    (folder / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(folder)
    for name in ("config.json", "tokenizer_config.json"):
        auto_map = {"AutoModel": "evil.Model", "AutoTokenizer": ["evil.T", "evil.T"]}
        change(folder / name, lambda c, auto_map=auto_map: c.update(auto_map=auto_map))
    try:
        load_plain(folder)
    except PromptRecoveryError as error:
        assert "\n" not in str(error)
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer_config.json", b'{"tokenizer_class": "os.system"}'),
        ("tokenizer_config.json", b"3"),
        ("config.json", b'{"model_type": "evil"}'),
        ("config.json", b'{"model_type": ["bert"], "hidden_size": -1}'),
        ("1_Pooling/config.json", b'{"word_embedding_dimension": "x"}'),
        ("sentence_bert_config.json", b'{"max_seq_length": "x"}'),
        ("config_sentence_transformers.json", b'{"prompts": 3}'),
        ("model.safetensors", b"\xff" * 100),
    ],
)
def test_damaged_files_are_one_line(file, data, folder):
    shutil.rmtree(folder / "2_Dense")
    change(folder / "modules.json", lambda m: m.pop())
    (folder / file).write_bytes(data)
    try:
        load_plain(folder)
    except PromptRecoveryError as error:
        assert "\n" not in str(error) and str(folder) in str(error)


def test_the_metric_runs_no_code_of_its_encoder(folder, monkeypatch):
    (folder / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(folder)
    change(folder / "modules.json", lambda m: m[1].update(type="evil.Pooling"))
    change(folder / "config.json", lambda c: c.update(auto_map={"AutoModel": "evil.Model"}))
    with pytest.raises(PromptRecoveryError, match=r"'evil\.Pooling'"):
        SentenceEncoder(EncoderSource(path=str(folder))).embed(["a text"])
    assert "evil" not in sys.modules
