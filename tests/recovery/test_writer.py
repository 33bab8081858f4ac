from dataclasses import replace

import pytest
import torch

from prompt_recovery.data.tokens import completion_tokens
from prompt_recovery.recovery.decoding import uniforms
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.writer import Writer, batches
from prompt_recovery.templates import Template
from prompt_recovery.trees import Tree, cached, pack, score_completions
from tests.trees.test_forward import ROUNDING, one_by_one, tiny_model

TEMPLATE = Template("t", "{{ original_text }} => {{ rewritten_text }}")


@pytest.fixture(scope="module")
def writer(tokenizer):
    return Writer(tiny_model("llama"), tokenizer, TEMPLATE, 60)


def test_greedy_takes_the_likeliest_token(tokenizer):
    model = tiny_model("llama")
    prompt = [7, 8, 9, 10]
    writer = Writer(model, tokenizer, TEMPLATE, 60)
    [[answer]] = writer.sample_tokens([prompt], [0.0], None, 5)
    expected = []
    with torch.no_grad():
        for _ in range(5):
            token = int(model(torch.tensor([[*prompt, *expected]])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            expected.append(token)
    assert answer.tokens == expected


def test_beam_search_finds_likelier_answers_than_greedy(writer):
    pair = Pair("1", "one text", "another text")
    prompt = writer.prompt_tokens(pair)
    [greedy] = writer.write_greedily([prompt], 6)
    rows = writer.write_beams([prompt, prompt[:-1]], 4, 6)
    assert [len(row) for row in rows] == [4, 4]
    assert rows[0][0].mean_log_probability >= greedy.mean_log_probability - 1e-4
    [alone] = writer.write_beams([prompt], 4, 6)
    assert [c.text for c in alone] == [c.text for c in rows[0]]


def test_log_probabilities_of_beams_are_the_models(writer, monkeypatch):
    """With the end of a finished hypothesis, and without the padding that follows it."""
    prompts = [writer.prompt_tokens(Pair("1", "one text", text)) for text in ("another text", "x")]
    decoded = []
    monkeypatch.setattr(Writer, "decoded", lambda _, tokens: decoded.append(tokens) or "text")
    found = [answer for row in writer.write_beams(prompts, 3, 5) for answer in row]
    trees = [Tree(prompts[0], decoded[:3]), Tree(prompts[1], decoded[3:])]
    with torch.no_grad():
        scores = score_completions(writer.model, pack(trees, 2))
    assert [a.log_probability for a in found] == pytest.approx(
        scores.log_probability.tolist(), rel=1e-4
    )
    assert [a.mean_log_probability for a in found] == pytest.approx(
        scores.mean_log_probability.tolist(), rel=1e-4
    )


def test_one_beam_is_the_greedy_answer(writer):
    prompt = writer.prompt_tokens(Pair("1", "one text", "another text"))
    [[beam]], [greedy] = writer.write_beams([prompt], 1, 5), writer.write_greedily([prompt], 5)
    assert beam == greedy
    assert beam.log_probability < beam.mean_log_probability < 0


def test_answers_from_elsewhere_are_scored(writer, tmp_path, monkeypatch):
    pair, texts = Pair("1", "one text", "another text"), ["Make it rhyme", "Be brief", "Joy"]
    found = writer.mean_log_probabilities(pair, texts)
    answers = [completion_tokens(text, writer.tokenizer) for text in texts]
    trees = [Tree(writer.prompt_tokens(pair), [answer]) for answer in answers]
    with torch.no_grad():
        expected = one_by_one(writer.model, trees)
    per_token = [float(v) / len(a) for v, a in zip(expected, answers, strict=True)]
    assert found == pytest.approx(per_token, rel=ROUNDING)
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path))
    named = replace(writer, identity="x")
    assert named.mean_log_probabilities(pair, texts) == pytest.approx(found, rel=ROUNDING)
    monkeypatch.setattr(cached, "score_completions", lambda *_: pytest.fail("scored again"))
    assert named.mean_log_probabilities(pair, texts) == pytest.approx(found, rel=ROUNDING)


def test_log_probabilities_are_the_models(writer):
    pair = Pair("1", "one text", "another text")
    prompt = writer.prompt_tokens(pair)
    drawn = uniforms([("k",)], 3, 6)
    [row] = writer.sample_tokens([prompt], [1.0] * 3, drawn, 6)
    [written] = writer.write([prompt], [1.0] * 3, drawn, 6)
    texts = [[*s.tokens, 1] if s.finished else s.tokens for s in row]
    with torch.no_grad():
        scores = score_completions(writer.model, pack([Tree(prompt, texts)], 2))
    for answer, value, mean in zip(
        written, scores.log_probability, scores.mean_log_probability, strict=True
    ):
        assert answer.log_probability == pytest.approx(float(value), abs=1e-3)
        assert answer.mean_log_probability == pytest.approx(float(mean), abs=1e-3)


def test_batches_hold_similar_lengths_within_the_budget():
    lengths = {n: 10 + (n * 37) % 50 for n in range(40)} | {99: 500}
    found = list(batches(lengths, 200))
    assert sorted(k for batch in found for k in batch) == sorted(lengths)
    assert found[0] == [99]
    for batch in found[1:]:
        longest = max(lengths[k] for k in batch)
        assert len(batch) * longest <= 200
    ordered = [lengths[k] for batch in found for k in batch]
    assert ordered == sorted(ordered, reverse=True)


def test_solved_examples_come_first_with_one_beginning_of_text(tokenizer, examples):
    plain = Writer(None, tokenizer, TEMPLATE, 60)
    shown = Writer(None, tokenizer, TEMPLATE, 60, shots=examples[:2])
    own = plain.prompt_tokens(examples[5])
    ids = shown.prompt_tokens(examples[5])
    begins = tokenizer.bos_token_id is not None and own[0] == tokenizer.bos_token_id
    rest = own[1:] if begins else own
    assert ids[-len(rest) :] == rest
    assert len(ids) > 3 * len(rest) / 2
    assert ids.count(tokenizer.bos_token_id) == int(begins)


def test_the_adapter_can_be_left_out_and_training_goes_on(tokenizer):
    from prompt_recovery.backbones.adapters import add_adapter
    from prompt_recovery.backbones.low_rank import Adapter

    model = add_adapter(tiny_model("llama"), Adapter("lora", rank=2), torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.train()
    adapted = Writer(model, tokenizer, TEMPLATE, 60)
    backbone = replace(adapted, adapter=False)
    bare = Writer(tiny_model("llama"), tokenizer, TEMPLATE, 60)
    prompt = adapted.prompt_tokens(Pair("1", "one text", "another text"))
    assert backbone.write_greedily([prompt], 5) == bare.write_greedily([prompt], 5)
    assert adapted.write_greedily([prompt], 5) != bare.write_greedily([prompt], 5)
    assert model.training


def test_how_much_of_a_pair_is_read_is_known(writer):
    assert writer.share_read(Pair("1", "one text", "another text")) == 1
    share = writer.share_read(Pair("1", "one text " * 50, "another text " * 50))
    assert 0 < share < 0.5
