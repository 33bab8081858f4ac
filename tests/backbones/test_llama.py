"""The small Llama and its tokenizer against transformers and PEFT."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prompt_recovery.backbones.adapters import add_adapter, load_adapter
from prompt_recovery.backbones.llama import SmallLlama, small_llama
from prompt_recovery.backbones.load import end_token_ids, load_model
from prompt_recovery.backbones.locate import Backbone, Location
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.backbones.small_tokenizer import SmallTokenizer, small_tokenizer
from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.templates import Template, special_tokens

TEMPLATE = Template("t", "{{ original_text }} => {{ rewritten_text }}", system="Be brief.")
PAIRS = [Pair("1", "It rained.", "Oh joy, it rains!"), Pair("2", "a </s> <|user|>", "long " * 90)]
TEXTS = ["Make it joyful", "", " odd  spaces\t", "Ünïcödé 你好 😀 …", "<s> </s> <|user|> <|system|"]


def adapted(folder, architecture="llama", **options):
    """An adapter with random weights in a folder, and the `PeftModel` with it."""
    backbone = Backbone("tiny", architecture=architecture)
    location = Location(tiny_backbone(architecture))
    if not (folder / "adapter_config.json").is_file():
        wanted = Adapter("lora", rank=2, alpha=8.0, **options)
        model = add_adapter(load_model(backbone, location, torch.float32), wanted, torch.float32)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        model.save_pretrained(folder, save_embedding_layers=False)
    model = load_model(backbone, location, torch.float32)
    return location.folder, load_adapter(model, folder, torch.float32).eval()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    adapted(folder)
    return folder


@pytest.fixture(scope="module")
def writers(adapter, tokenizer):
    """The same writer twice: with the small model and with that of the libraries."""
    folder, model = adapted(adapter)
    own = small_tokenizer(folder)
    whole = Writer(model.requires_grad_(False), tokenizer, TEMPLATE, 60)
    return replace(whole, model=small_llama(folder, adapter), tokenizer=own), whole


def test_it_samples_and_scores_like_the_libraries(writers):
    own, whole = writers
    assert isinstance(own.model, SmallLlama)
    prompts = [own.prompt_tokens(pair) for pair in PAIRS]
    assert prompts == [whole.prompt_tokens(pair) for pair in PAIRS]
    assert end_token_ids(own.model, own.tokenizer) == end_token_ids(whole.model, whole.tokenizer)
    shares = np.random.default_rng(0).random((2, 5, 12))
    found, expected = (w.write(prompts, [0.8] * 4 + [0.0], shares, 12) for w in writers)
    for row, others in zip(found, expected, strict=True):
        assert [c.raw for c in row] == [c.raw for c in others]
        values = [c.log_probability for c in others]
        assert [c.log_probability for c in row] == pytest.approx(values, abs=1e-4)
    for pair in PAIRS:
        likely = whole.mean_log_probabilities(pair, TEXTS)
        assert own.mean_log_probabilities(pair, TEXTS) == pytest.approx(likely, abs=1e-4)


def test_gradients_of_the_embeddings_are_those_of_the_libraries(writers):
    from prompt_recovery.recovery.evidence.reading import WriterReading

    found = []
    for writer in writers:
        given = WriterReading(writer, PAIRS[0], "Make it joyful").inputs()
        with given.context():
            embeddings = given.embeddings.repeat(2, 1, 1).requires_grad_()
            values = given(embeddings)
            found.append((values.detach(), *torch.autograd.grad(values.sum(), embeddings)))
    for own, theirs in zip(*found, strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-4, rtol=1e-4)


def test_the_libraries_do_the_rest(writers):
    own, whole = writers
    asked = []
    lazy = replace(own, whole=lambda: asked.append(1) or whole.model)
    prompts = [own.prompt_tokens(PAIRS[0])]
    assert not asked
    assert lazy.write_beams(prompts, 3, 5) == whole.write_beams(prompts, 3, 5)
    bare = replace(lazy, adapter=False)
    assert len(asked) == 2
    expected = replace(whole, adapter=False).write_greedily(prompts, 5)
    assert bare.write_greedily(prompts, 5) == expected
    assert lazy.write_greedily(prompts, 5)[0].log_probability != expected[0].log_probability


def test_an_adapter_of_some_layers_is_merged_into_these(tmp_path):
    folder, model = adapted(tmp_path, layers=0.5)
    ids = torch.tensor([[5, 6, 7, 8]])
    small = small_llama(folder, tmp_path)
    hidden = small.get_decoder()(ids, torch.arange(4)[None]).last_hidden_state
    torch.testing.assert_close(
        small.get_output_embeddings()(hidden), model(ids).logits, atol=1e-4, rtol=1e-4
    )


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
        ("config.json", {"hidden_act": "gelu"}),
        ("config.json", {"num_key_value_heads": 4}),
        ("config.json", {"model_type": "mistral"}),
        ("adapter_config.json", {"use_rslora": True}),
        ("adapter_config.json", {"alpha_pattern": {"q_proj": 3}}),
        ("adapter_config.json", {"r": 4}),
        ("adapter_config.json", {"target_modules": ["q_proj"]}),
        ("adapter_config.json", {"layers_to_transform": [0]}),
        ("adapter_config.json", {"a_new_field": 1}),
    ],
)
def test_what_it_does_not_know_is_left_to_the_libraries(tmp_path, adapter, file, values):
    shutil.copytree(tiny_backbone("llama"), tmp_path / "model")
    shutil.copytree(adapter, tmp_path / "adapter")
    assert small_llama(tmp_path / "model", tmp_path / "adapter") is not None
    change(tmp_path / ("model" if file == "config.json" else "adapter") / file, **values)
    assert small_llama(tmp_path / "model", tmp_path / "adapter") is None


def test_damaged_files_and_other_weights_are_left_to_the_libraries(tmp_path, adapter):
    model = tmp_path / "model"
    shutil.copytree(tiny_backbone("llama"), model)
    weights = load_file(model / "model.safetensors")
    save_file({**weights, "other": torch.ones(1)}, model / "model.safetensors")
    assert small_llama(model, adapter) is None
    (model / "model.safetensors").write_bytes(b"damaged" * 100_000)
    assert small_llama(model, adapter) is None
    assert small_llama(tiny_backbone("llama"), tmp_path) is None
    assert small_llama(tiny_backbone("gemma2"), adapter) is None


def test_the_small_tokenizer_reads_like_that_of_transformers(tokenizer):
    own = small_tokenizer(tiny_backbone("llama"))
    assert isinstance(own, SmallTokenizer)
    for text in TEXTS:
        found = own(text, add_special_tokens=False, return_offsets_mapping=True)
        expected = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert found["input_ids"] == expected["input_ids"]
        assert found["offset_mapping"] == expected["offset_mapping"]
        ids = own(text)["input_ids"]
        assert ids == tokenizer(text)["input_ids"]
        for skipped in (True, False):
            decoded = tokenizer.decode(ids, skip_special_tokens=skipped)
            assert own.decode(ids, skip_special_tokens=skipped) == decoded
    assert special_tokens(own) == special_tokens(tokenizer)
    assert own.get_vocab() == tokenizer.get_vocab()
    assert own.get_chat_template() == tokenizer.get_chat_template()
    for name in ("bos_token", "bos_token_id", "eos_token", "eos_token_id", "pad_token_id"):
        assert getattr(own, name) == getattr(tokenizer, name)
    chat = [{"role": "user", "content": "a {{ b }}"}, {"role": "assistant", "content": "<c>"}]
    for options in ({"add_generation_prompt": True}, {}):
        expected = tokenizer.apply_chat_template(chat, tokenize=False, **options)
        assert own.apply_chat_template(chat, tokenize=False, **options) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"add_prefix_space": True},
        {"extra_special_tokens": ["<x>"]},
        {"eos_token": None},
        {"eos_token": "of"},
        {"tokenizer_class": "LlamaTokenizer"},
        {"chat_template": "{{ strftime_now('%Y') }}"},
        {"chat_template": "{% generation %}{% endgeneration %}"},
    ],
)
def test_another_tokenizer_is_left_to_transformers(tmp_path, values):
    shutil.copytree(tiny_backbone("llama"), tmp_path, dirs_exist_ok=True)
    assert small_tokenizer(tmp_path) is not None
    if "chat_template" in values:
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    change(tmp_path / "tokenizer_config.json", **values)
    assert small_tokenizer(tmp_path) is None


def test_a_recovery_does_not_import_what_takes_long():
    script = "import sys, prompt_recovery.recovery.job; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {"transformers", "peft", "sentence_transformers", "scipy", "sympy", "gguf", "pandas"}
    assert "torch" in found and not heavy & set(found)
