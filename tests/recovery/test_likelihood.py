import numpy as np
import pytest
import torch

from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.likelihood import RewriteLikelihood
from prompt_recovery.templates import Template, chat_prompt
from prompt_recovery.trees import Tree, cached, pack
from tests.trees.test_forward import PAD, one_by_one, tiny_model

TEMPLATE = Template("t", "{{ original_text }}\n\n{{ rewrite_prompt }}")
PAIR = Pair("1", "The ferry leaves at dawn from the blue hut.", "At dawn, oh joy, it sails away!")
PROMPTS = ["Make it a poem", "Turn it into a poem", "Add three recipes"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_it_is_the_models_probability_of_the_whole_rewrite(architecture, tokenizer):
    model = tiny_model(architecture)
    values = RewriteLikelihood(model, tokenizer, TEMPLATE, 50, "")(PAIR, PROMPTS)
    written = tokenizer(PAIR.rewritten_text, add_special_tokens=False)["input_ids"]
    trees = []
    for prompt in PROMPTS:
        text = chat_prompt(
            TEMPLATE, tokenizer, original_text=PAIR.original_text, rewrite_prompt=prompt
        )
        trees.append(Tree(tokenizer(text, add_special_tokens=False)["input_ids"], [written]))
    with torch.no_grad():
        expected = one_by_one(model, trees)
    torch.testing.assert_close(torch.tensor(values), expected, atol=1e-4, rtol=1e-6)


def test_the_original_is_computed_once_for_all_candidates(tokenizer):
    likelihood = RewriteLikelihood(tiny_model("llama"), tokenizer, TEMPLATE, 50, "")
    trees = likelihood.trees(PAIR, PROMPTS)
    batch = pack(trees, PAD, together=True)
    original = len(tokenizer(PAIR.original_text, add_special_tokens=False)["input_ids"])
    saved = batch.tokens - batch.input_ids.numel()
    assert batch.input_ids.shape[0] == 1
    assert saved >= (len(PROMPTS) - 1) * original
    assert sum(len(tree.completions[0]) for tree in trees) == len(batch.targets), "only the rewrite"


def test_what_was_scored_is_kept(tokenizer, monkeypatch):
    values = RewriteLikelihood(tiny_model("llama"), tokenizer, TEMPLATE, 50, "x")(PAIR, PROMPTS)
    monkeypatch.setattr(cached, "score_completions", lambda *_: pytest.fail("scored again"))
    again = RewriteLikelihood(tiny_model("llama"), tokenizer, TEMPLATE, 50, "x")
    assert again(PAIR, PROMPTS[::-1]) == values[::-1]


def test_long_texts_are_cut(tokenizer):
    likelihood = RewriteLikelihood(tiny_model("llama"), tokenizer, TEMPLATE, 8, "")
    huge = Pair("1", "a b " * 50_000, "🐈" * 100_000)
    assert all(np.isfinite(likelihood(huge, PROMPTS[:2])))
