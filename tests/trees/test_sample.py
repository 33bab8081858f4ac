import pytest
import torch
from transformers import AutoModelForCausalLM

from prompt_recovery.backbones.tiny import ARCHITECTURES, tiny_backbone
from prompt_recovery.trees import Tree, last_states, pack, sample_completions, score_completions
from prompt_recovery.trees.sample import _passed
from tests.closeness import assert_close
from tests.trees.test_forward import PAD, ROUNDING, tiny_model

STEPS = 24  # more than the tiny models' window of 16
END = 1


def prompts(*lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(10, 500, (n,), generator=generator).tolist() for n in lengths]


def uniforms(rows, branches, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, branches, STEPS, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_the_library(architecture):
    model = AutoModelForCausalLM.from_pretrained(
        tiny_backbone(architecture), dtype=torch.float32
    ).eval()
    rows = prompts(30, 7, 19)
    ours = sample_completions(model, rows, [0.0], None, STEPS, [END], PAD)
    for prompt, [sample] in zip(rows, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=END,
            pad_token_id=PAD,
        )[0, len(prompt) :].tolist()
        assert sample.tokens == (theirs[: theirs.index(END)] if END in theirs else theirs)
        assert sample.finished == (END in theirs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probabilities_are_those_of_the_tree(architecture):
    model = tiny_model(architecture)
    rows = prompts(30, 7, 19)
    temperatures = [0.0, 0.5, 1.0, 2.0]
    sampled = sample_completions(model, rows, temperatures, uniforms(3, 4), STEPS, [END], PAD)
    for prompt, row in zip(rows, sampled, strict=True):
        texts = [[*s.tokens, END] if s.finished else s.tokens for s in row]
        with torch.no_grad():
            scores = score_completions(model, pack([Tree(prompt, texts)], PAD))
        expected = torch.tensor([s.log_probability for s in row], dtype=torch.float32)
        torch.testing.assert_close(scores.log_probability, expected, atol=0, rtol=ROUNDING)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_last_states_are_those_of_each_prompt_alone(architecture):
    model = tiny_model(architecture)
    rows, heard = prompts(30, 7, 19), []
    found = last_states(model, rows, PAD)
    sample_completions(model, rows, [0.0], None, 2, [END], PAD, read=heard.append)
    assert len(heard) == 1, "it is called once"
    for row, state, same in zip(rows, found, heard[0], strict=True):
        with torch.no_grad():
            alone = model(torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0, -1]
        assert_close(state, alone, ROUNDING)
        assert_close(same, alone, ROUNDING)


def test_a_row_does_not_depend_on_the_others():
    model = tiny_model("gemma2")
    rows, temperatures, uniform = prompts(30, 7, 19), [0.7, 1.0, 1.3], uniforms(3, 3)
    together = sample_completions(model, rows, temperatures, uniform, STEPS, [END], PAD)
    for number, row in enumerate(rows):
        [alone] = sample_completions(
            model, [row], temperatures, uniform[number : number + 1], STEPS, [END], PAD
        )
        assert [s.tokens for s in alone] == [s.tokens for s in together[number]]


def test_samples_follow_the_models_distribution():
    model = tiny_model("llama")
    [prompt] = prompts(12)
    branches = 2000
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(1, branches, 1, generator=generator, dtype=torch.float64)
    [row] = sample_completions(model, [prompt], [0.2] * branches, uniform, 1, [END], PAD)
    with torch.no_grad():
        expected = (model(torch.tensor([prompt])).logits[0, -1].float() / 0.2).softmax(-1)
    tokens = torch.tensor([s.tokens[0] if s.tokens else END for s in row])
    counts = torch.bincount(tokens, minlength=len(expected)) / branches
    likely = expected > 0.01
    assert likely.sum() >= 5
    error = (counts - expected)[likely].abs()
    assert bool((error < 5 * (expected[likely] / branches).sqrt()).all())


@pytest.mark.parametrize("words", [3, 256, 1000, 262_144])
def test_a_draw_passes_where_the_cumulative_sum_does(words):
    generator = torch.Generator().manual_seed(2)
    probabilities = torch.randn(4, words, generator=generator).mul(3).softmax(-1)
    share = torch.rand(4, generator=generator, dtype=torch.float64)
    cumulative = probabilities.double().cumsum(-1)
    target = share[:, None] * cumulative[:, -1:]
    expected = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    found = _passed(probabilities, share)
    near = cumulative.gather(1, found[:, None]) - target
    assert bool(((found - expected).abs() <= 1).all())
    assert bool((near > -1e-6).all())
    by_branch = _passed(probabilities.unflatten(0, (2, 2)), share.unflatten(0, (2, 2)))
    assert torch.equal(by_branch.flatten(), found), "each branch has a distribution of its own"


def test_what_has_ended_is_not_fed_any_more():
    model, rows = tiny_model("llama"), prompts(30, 7, 19, 12)
    whole = sample_completions(model, rows, [0.0], None, 6, [], PAD)
    fed = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, options: fed.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    firsts = [row[0].tokens[0] for row in whole]
    assert len(set(firsts)) == 4, "they can end apart"
    ended = sample_completions(model, rows, [0.0], None, 6, firsts[:2], PAD)
    assert [row[0].finished for row in ended[:2]] == [True, True]
    assert fed[:2] == [(4, 30), (2, 1)]
    fed.clear()
    uniform = uniforms(1, 4)
    [row] = sample_completions(model, rows[:1], [1.0] * 4, uniform, 6, [], PAD)
    ends = sorted({sample.tokens[0] for sample in row[:2]})
    fed.clear()
    [row] = sample_completions(model, rows[:1], [1.0] * 4, uniform, 6, ends, PAD)
    open_after_the_first = sum(len(sample.tokens) > 0 for sample in row)
    assert 0 < open_after_the_first < 4
    assert fed[1] == (1, open_after_the_first)


def test_it_goes_on_while_another_process_needs_it():
    model = tiny_model("llama")
    steps = []

    def all_done(done):
        steps.append(done)
        return len(steps) == STEPS

    sample_completions(model, prompts(5), [0.0], None, STEPS, list(range(512)), PAD, all_done)
    assert steps == [True] * STEPS


def test_branches_are_computed_once_as_long_as_they_have_the_same_tokens(monkeypatch):
    model = tiny_model("llama")
    rows, uniform = prompts(9, 5), uniforms(2, 4)
    uniform[:, 2] = uniform[:, 0]  # the same draws give the same samples
    fed = []
    decoder = type(model.get_decoder())
    forward = decoder.forward

    def counted(self, *args, **options):
        fed.append(tuple(options["input_ids"].shape))
        return forward(self, *args, **options)

    monkeypatch.setattr(decoder, "forward", counted)
    sampled = sample_completions(model, rows, [1.0] * 4, uniform, STEPS, [END], PAD)
    assert all(row[0] == row[2] != row[1] for row in sampled)
    assert fed[0] == (2, 9) and max(width for _, width in fed[1:]) == 3
