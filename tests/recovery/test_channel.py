import numpy as np
import pytest
import torch

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.recovery.channel import NoisyChannel, fit_channel, judge, rescored
from prompt_recovery.recovery.interface import Candidate, Pair, Prediction
from prompt_recovery.recovery.likelihood import RewriteLikelihood
from prompt_recovery.templates import Template, chat_prompt
from prompt_recovery.trees import Tree
from tests.trees.test_forward import one_by_one, tiny_model

TEMPLATE = Template("t", "{{ original_text }}\n\n{{ rewrite_prompt }}")
PAIR = Pair("1", "The ferry leaves at dawn from the blue hut.", "At dawn, oh joy, it sails away!")
PROMPTS = ["Make it a poem", "Turn it into a poem", "Add three recipes"]


class Proposing:
    """Proposes the same candidates for all pairs."""

    name = "proposing"

    def recover(self, pairs, progress=lambda _: None):
        candidates = tuple(
            Candidate(t, -5.0, s) for t, s in zip(PROMPTS, (0.5, 0.4, 0.1), strict=True)
        )
        return [
            Prediction(p.id, PROMPTS[0], False, candidates)
            if p.original_text
            else Prediction(p.id, "f", True)
            for p in pairs
        ]


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_the_channel_is_the_models_probability_of_the_rewrite(architecture, tokenizer):
    model = tiny_model(architecture)
    values = RewriteLikelihood(model, tokenizer, TEMPLATE, 50)(PAIR, PROMPTS)
    written = tokenizer(PAIR.rewritten_text, add_special_tokens=False)["input_ids"]
    trees = []
    for prompt in PROMPTS:
        text = chat_prompt(
            TEMPLATE, tokenizer, original_text=PAIR.original_text, rewrite_prompt=prompt
        )
        trees.append(Tree(tokenizer(text, add_special_tokens=False)["input_ids"], [written]))
    with torch.no_grad():
        expected = one_by_one(model, trees) / len(written)
    torch.testing.assert_close(torch.tensor(values), expected, atol=1e-4, rtol=1e-4)


def test_long_texts_are_cut(tokenizer):
    channel = RewriteLikelihood(tiny_model("llama"), tokenizer, TEMPLATE, 8)
    huge = Pair("1", "a b " * 50_000, "🐈" * 100_000)
    assert all(np.isfinite(channel(huge, PROMPTS[:2])))


def test_the_weight_mixes_own_and_channel():
    [prediction] = Proposing().recover([PAIR])
    values = [-3.0, -2.0, -1.0]
    assert rescored(prediction, values, 0.0).rewrite_prompt == PROMPTS[0]
    assert rescored(prediction, values, 1.0).rewrite_prompt == PROMPTS[2]
    half = rescored(prediction, values, 0.5)
    assert [c.score for c in half.candidates] == pytest.approx([0.55, 0.2, -0.25])
    fallback = Prediction("2", "f", True)
    assert rescored(fallback, [], 0.5) == fallback


def test_the_weight_is_the_best_on_validation(scs):
    examples = [RewriteExample(str(n), "a", "b", PROMPTS[2]) for n in range(9)]
    [prediction] = Proposing().recover([PAIR])
    found = fit_channel([(prediction, [-3.0, -2.0, -1.0])] * 9, examples, scs)
    assert found.scs == pytest.approx(1.0)
    assert found.scs_without < 0.2
    assert 0 < found.weight < 0.5  # the smallest that brings the truth to the top
    useless = fit_channel([(prediction, [-1.0, -2.0, -3.0])] * 9, examples, scs)
    assert useless.weight == 0.0
    assert fit_channel([(prediction, [-3.0, -2.0, -1.0])] * 9, examples, scs, 0.0).weight == 0.0
    assert fit_channel([(Prediction("1", "f", True), [])], examples[:1], scs) is None


def test_pairs_without_candidates_keep_the_fallback(tokenizer):
    channel = RewriteLikelihood(tiny_model("llama"), tokenizer, TEMPLATE, 8)
    noisy = NoisyChannel(Proposing(), channel, 0.5, candidates=2)
    done = []
    first, second = noisy.recover([Pair("0", "", "b"), PAIR], done.append)
    assert (first.rewrite_prompt, first.fallback) == ("f", True)
    assert len(second.candidates) == 2
    assert sum(done) == 2
    assert judge(Proposing(), channel, [PAIR], 2)[0][1] == pytest.approx(channel(PAIR, PROMPTS[:2]))
