"""The contrastive loss against its formula, pair by pair."""

import math

import pytest
import torch

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import Contrastive


def units(count, seed, dimension=8):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, dimension, generator=generator)
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.mark.parametrize(("temperature", "weight"), [(0.05, 1.0), (0.3, 0.0), (1.0, 2.5)])
def test_it_is_its_formula(temperature, weight):
    prompts, predicted = units(9, 0), units(4, 1)
    prompts[5] = torch.nn.functional.normalize(prompts[0] + 0.05 * prompts[1], dim=0)  # nearly it
    rows = [0, 3, 0, 7]
    objective = Contrastive(temperature=temperature, cosine_weight=weight, duplicate_cosine=0.95)
    losses = objective.losses(predicted, prompts[rows], prompts)
    for loss, f, right in zip(losses, predicted, rows, strict=True):
        left_out = {0, 5} if right == 0 else {right}
        others = [float(f @ n) for i, n in enumerate(prompts) if i not in left_out]
        own = float(f @ prompts[right])
        total = sum(math.exp(c / temperature) for c in [own, *others])
        expected = -math.log(math.exp(own / temperature) / total) + weight * (1 - own)
        assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_a_pair_without_negatives_is_only_drawn_to_its_prompt():
    prompts, predicted = units(1, 0), units(1, 1)
    [loss] = Contrastive(cosine_weight=2.0).losses(predicted, prompts, prompts)
    assert float(loss) == pytest.approx(2 * (1 - float((predicted * prompts).sum())), abs=1e-5)


def test_hard_negatives_are_the_most_similar_prompts_but_no_duplicates():
    prompts = units(40, 2, dimension=3)
    objective = Contrastive(duplicate_cosine=0.8, hard_negatives=4)
    found = objective.hard_negatives_of(prompts)
    assert found.shape == (40, 4)
    cosine = (prompts @ prompts.T).tolist()
    for row, own in enumerate(found.tolist()):
        allowed = [j for j in range(40) if cosine[row][j] <= 0.8]
        assert set(own) == set(sorted(allowed, key=lambda j: -cosine[row][j])[:4])
    few = Contrastive(hard_negatives=5).hard_negatives_of(torch.eye(3))
    assert [set(row) for row in few.tolist()] == [{0, 1, 2}] * 3, "filled up with itself"
    assert Contrastive().hard_negatives_of(prompts).shape == (40, 0)


def test_settings_out_of_range_are_refused():
    for bad in ({"temperature": 0.0}, {"cosine_weight": -1.0}, {"duplicate_cosine": 2.0},
                {"negatives": "some"}, {"hard_negatives": -1}, {"k": 0}):  # fmt: skip
        with pytest.raises(PromptRecoveryError, match=next(iter(bad))):
            Contrastive(**bad)
