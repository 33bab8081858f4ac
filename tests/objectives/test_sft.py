import torch

from prompt_recovery.objectives import SFT
from prompt_recovery.trees import CompletionScores, pack, score_completions
from tests.trees.test_forward import PAD, random_trees, tiny_model


def test_equals_the_formula():
    scores = CompletionScores(torch.tensor([-4.0, -9.0]), torch.tensor([2.0, 3.0]))
    assert SFT()(scores).item() == (2 + 3) / 2
    assert SFT(length_power=0)(scores).item() == (4 + 9) / 2


def test_equals_the_models_own_loss_on_one_example():
    model = tiny_model("llama")
    [tree] = random_trees(prompts=(20,), completions=((7,),))
    ids = torch.tensor([[*tree.prompt, *tree.completions[0]]])
    labels = ids.clone()
    labels[:, :20] = -100
    with torch.no_grad():
        ours = SFT()(score_completions(model, pack([tree], PAD)))
        theirs = model(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
