"""On the tiny model."""

import math

import numpy as np
import pytest
import torch

from prompt_recovery.backbones.load import load_model
from prompt_recovery.backbones.locate import Backbone, Location
from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.detection.tokens import TokenReader, token_features

TEXTS = ["The ferry leaves at dawn and is back by noon.", "Short.", "", "  ", "a b c d e f " * 40]


@pytest.fixture(scope="module")
def model():
    folder = Location(tiny_backbone("llama"))
    return load_model(Backbone("tiny", architecture="llama"), folder, torch.float32)


def reader(model, tokenizer, name):
    return TokenReader(model, tokenizer, name, max_tokens=24)


def test_statistics_are_those_of_the_text_alone(model, tokenizer):
    found = reader(model, tokenizer, "alone").read(TEXTS)
    ids = tokenizer(TEXTS[0], return_tensors="pt", add_special_tokens=False).input_ids[:, :24]
    with torch.inference_mode():
        log_p = model(ids).logits[0, :-1].log_softmax(-1)
    targets = ids[0, 1:, None]
    own = log_p.gather(1, targets)[:, 0]
    assert found[0].log_probability == pytest.approx(own.numpy(), abs=1e-4)
    entropy = -(log_p.exp() * log_p).sum(1)
    assert found[0].entropy == pytest.approx(entropy.numpy(), abs=1e-4)
    ranks = (log_p > own[:, None]).sum(1) + 1
    assert found[0].log_rank == pytest.approx(ranks.log().numpy(), abs=0.2)
    variance = (log_p.exp() * (log_p + entropy[:, None]) ** 2).sum(1)
    expected = float((own.sum() + entropy.sum()) / variance.sum().sqrt())
    assert found[0].curvature == pytest.approx(expected, abs=1e-3)
    assert len(found[-1]) == 23


def test_blank_texts_have_no_tokens_and_finite_features(model, tokenizer):
    found = reader(model, tokenizer, "blank").read(TEXTS)
    assert len(found[2]) == len(found[3]) == 0
    for statistics in found:
        assert all(math.isfinite(value) for value in token_features(statistics).values())


def test_a_text_is_read_once(model, tokenizer, monkeypatch):
    first = reader(model, tokenizer, "once").read(TEXTS)
    again = reader(model, tokenizer, "once")
    monkeypatch.setattr(again, "_compute", lambda rows: pytest.fail("it was read again"))
    done = []
    for one, other in zip(first, again.read(TEXTS, done.append), strict=True):
        assert np.array_equal(one.log_probability, other.log_probability)
    assert sum(done) == len(set(TEXTS))
