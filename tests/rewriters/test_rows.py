import pytest
import torch

from prompt_recovery.backbones.tiny import ARCHITECTURES
from prompt_recovery.rewriters.rows import Prompt, decode
from prompt_recovery.trees import sample_completions
from tests.trees.test_forward import PAD, tiny_model

STEPS = 24  # more than the tiny models' window of 16
END = [1, 7, 11, 19, 23, 31, 47]  # some answers end early


def prompts(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        Prompt(
            key,
            torch.randint(10, 500, (length,), generator=generator).tolist(),
            torch.rand(STEPS, generator=generator, dtype=torch.float64),
        )
        for key, length in enumerate(lengths)
    ]


def decoded(model, asked, rows=3, temperature=1.0, ends=END):
    written = list(decode(model, asked, rows, temperature, STEPS, ends, PAD))
    assert sorted(w.prompt.key for w in written) == sorted(p.key for p in asked)
    return {w.prompt.key: (w.tokens, w.finished) for w in written}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_are_those_of_trees(architecture, temperature):
    model = tiny_model(architecture)
    asked = prompts([30, 7, 19, 3, 12, 25, 9, 1])
    found = decoded(model, asked, temperature=temperature)
    for p in asked:
        [[sample]] = sample_completions(
            model, [p.tokens], [temperature], p.uniforms[None, None], STEPS, END, PAD
        )
        assert found[p.key] == (sample.tokens, sample.finished)
    assert {finished for _, finished in found.values()} == {True, False} or temperature == 0
