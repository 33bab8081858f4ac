import json
import logging
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from prompt_recovery import terminal
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.recovery import fitted as fitting
from prompt_recovery.recovery.bank import PromptBank
from prompt_recovery.recovery.choice import LogLinear
from prompt_recovery.recovery.decoding import MBR, Choice, Greedy
from prompt_recovery.recovery.familiarity import Familiarity
from prompt_recovery.recovery.fitted import (
    RETRIEVED_AWAY,
    Fitted,
    default_joining,
    fit_key,
    fit_recoverer,
    keep_fit,
    kept_fit,
    unfitted_joining,
)
from prompt_recovery.recovery.interface import Pair, pairs_of
from prompt_recovery.recovery.joining import Joining
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import EMBEDDING_SHARE, Retriever
from prompt_recovery.recovery.sources import WriterSource
from prompt_recovery.recovery.writer import Writer

PROMPTS = [
    "Make it a poem", "Turn it into a legal notice", "Write it as a recipe",
    "Translate it into French", "Add three jokes", "Shorten it to one sentence",
]  # fmt: skip


class Guesses:
    """Predicts the embedding of the prompt whose number ends the rewritten text, if it knows it."""

    digest, dtype = "", "fp32"

    def __init__(self, scs, noise):
        self.scs, self.noise, self.asked = scs, noise, 0

    def embed(self, pairs, progress=lambda _: None):
        self.asked += len(pairs)
        rng = np.random.default_rng(0)
        rows = []
        for pair in pairs:
            vector = self.scs.encoder.embed([PROMPTS[int(pair.rewritten_text[-1])]])[0]
            noise = rng.normal(size=vector.shape) / vector.shape[0] ** 0.5
            away = 3.0 if pair.original_text == "elsewhere" else self.noise
            rows.append((vector + away * noise) / np.linalg.norm(vector + away * noise))
            progress(1)
        return np.array(rows, np.float32)


@dataclass
class Writes:
    """Writes the right prompt for every n-th pair, and something else for the others."""

    every: int
    name: str = "writer"
    asked: int = 0

    def posteriors(self, pairs, decoding, progress=lambda _: None):
        self.asked += len(pairs)
        progress(len(pairs))
        number = [int(pair.rewritten_text[-1]) for pair in pairs]
        right = [int(pair.id) % self.every == 0 for pair in pairs]
        texts = [PROMPTS[n if good else n - 1] for n, good in zip(number, right, strict=True)]
        return {i: Posterior.of_texts([text] * 3 + ["Do it"]) for i, text in enumerate(texts)}


@pytest.fixture
def examples():
    return [
        RewriteExample(str(n), "near" if n % 5 == 0 else "home", f"x{n % 6}", PROMPTS[n % 6])
        for n in range(60)
    ]


def recoverer(scs, every=4, noise=0.3):
    bank = PromptBank.of(PROMPTS, scs.encoder)
    known = {"home": 0.6, "near": 0.4, "elsewhere": 0.1}
    found = Retriever(
        Guesses(scs, noise),
        bank,
        0.05,
        6,
        known=lambda pairs: np.array([known[pair.original_text] for pair in pairs]),
    )
    return PosteriorRecoverer([(Writes(every), 1.0), (found, 1.0)], MBR(combined=0), "Do it", scs)


def test_each_source_is_asked_once_and_the_better_one_gets_the_weight(
    scs, examples, monkeypatch, caplog
):
    both = recoverer(scs)
    done = []
    monkeypatch.setattr(terminal, "SILENT_S", 0.0)
    with caplog.at_level(logging.INFO):
        fitted = fit_recoverer(both, examples, progress=done.append)
    assert f"fitting weights and confidence of {both.name} took" in caplog.text
    writer, retriever = (source for source, _ in both.sources)
    assert writer.asked == retriever.encoder.asked == sum(done) == len(examples)
    assert both.joining is None and both.calibration is None, "the recoverer stays as it is"
    assert fitted.joining.familiar[1] >= 0.5
    assert fitted.joining.unfamiliar == pytest.approx((1 - RETRIEVED_AWAY, RETRIEVED_AWAY))
    fitted.applied_to(both)
    predictions = both.recover(pairs_of(examples))
    right = [
        p.rewrite_prompt == e.rewrite_prompt
        for p, e in zip(predictions, examples, strict=True)
        if e.original_text == "home"
    ]
    assert np.mean(right) > 0.9
    assert np.mean([p.confidence for p in predictions]) == pytest.approx(
        np.mean(scs([p.rewrite_prompt for p in predictions], [e.rewrite_prompt for e in examples])),
        abs=0.05,
    )


def test_the_default_tells_familiar_pairs_by_the_validation_examples():
    near = [n / 100 for n in range(101)]
    found = default_joining([1.0, 3.0, 1.0], [1], near)
    assert (found.low, found.high) == pytest.approx((0.02, 0.5)), "2 % and 50 % quantile"
    assert found.familiar == pytest.approx((0.25, 0.5, 0.25))
    assert found.unfamiliar == pytest.approx((0.35, 0.3, 0.35))
    assert found.embedding == EMBEDDING_SHARE
    alike = default_joining([1.0, 1.0], [1], [0.3])
    assert alike.low == 0.3 < alike.high
    probed = default_joining([1.0, 1.0, 1.0], [1, 2], near, probes=[1])
    assert probed.familiar == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert probed.unfamiliar == pytest.approx((0.7, 0.0, 0.3)), "a probe is for familiar pairs"
    bare = default_joining([1.0, 1.0], [1], near, probes=[1])
    assert (bare.familiar, bare.unfamiliar) == ((0.5, 0.5), (1.0, 0.0))
    unknown = default_joining([1.0, 1.0], [1], [])
    assert (unknown.low, unknown.high) == (0.0, 1.0)


def test_without_validation_examples_the_training_texts_tell_familiar_pairs(scs):
    both = recoverer(scs)
    model, (retriever, _) = both.sources
    both.sources = [model, (replace(retriever, known=None), 1.0)]
    assert unfitted_joining(both) is None, "nothing is known of the training texts"
    texts = ["the ferry sails at dawn", "the ferry sails at noon", "we keep two beehives"]
    known = Familiarity.of([RewriteExample(str(n), "o", t, "p") for n, t in enumerate(texts)])
    both.sources = [model, (replace(retriever, known=known), 1.0)]
    found = unfitted_joining(both)
    near = known.among_themselves()
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(near, (0.02, 0.5))), abs=1e-6)
    assert found.unfamiliar == pytest.approx((0.7, 0.3))
    both.decoding = Greedy()
    assert unfitted_joining(both) is None


def test_far_from_the_training_examples_the_retriever_loses_its_say(scs, examples):
    both = recoverer(scs)
    fit_recoverer(both, examples).applied_to(both)
    retriever = both.sources[1][0]
    home = retriever.posteriors([Pair("1", "home", "x1")], MBR())[0]
    away = retriever.posteriors([Pair("1", "elsewhere", "x1")], MBR())[0]
    assert away.familiarity < both.joining.low < home.familiarity
    assert both.joining.weights(away.familiarity)[1] == pytest.approx(RETRIEVED_AWAY)
    assert both.joining.weights(home.familiarity)[1] > RETRIEVED_AWAY


def test_given_weights_and_other_decodings_are_left_alone(scs, examples):
    assert fit_recoverer(recoverer(scs), examples, fixed_weights=True).joining is None
    alone = PosteriorRecoverer([(Writes(2), 1.0)], MBR(), "Do it", scs)
    fitted = fit_recoverer(alone, examples)
    assert fitted.joining is None
    assert fitted.calibration.per_familiarity == 0.0


def test_the_confidence_is_fitted_with_the_familiarity_of_the_pairs(scs, examples, monkeypatch):
    given = []
    monkeypatch.setattr(fitting, "calibrate_on", lambda *a: given.append(a[3]))
    fit_recoverer(recoverer(scs), examples)
    assert given == [[0.4 if n % 5 == 0 else 0.6 for n in range(60)]]


def test_the_key_is_that_of_the_precision(scs, tmp_path):
    def key(has, given=None):
        source = WriterSource(Writer(SimpleNamespace(dtype=has), None, None, 60))
        return fit_key(MBR(), scs, [tmp_path], [{}], [source], dtype=given)

    assert key("torch.float32") != key("torch.bfloat16")
    assert key("torch.float32", "torch.bfloat16") == key("torch.bfloat16")


def test_the_key_is_that_of_the_votes_that_rules_give(scs, tmp_path):
    source = WriterSource(Writer(SimpleNamespace(dtype="torch.float32"), None, None, 60))
    arguments = (MBR(), scs, [tmp_path], [{}], [source])
    keys = [fit_key(*arguments), fit_key(*arguments, stated=0.1), fit_key(*arguments, named=0.1)]
    assert len(set(keys)) == 3


def test_what_is_fitted_is_kept_and_damage_is_one_line(scs, examples, tmp_path, caplog):
    mine = recoverer(scs)
    fitted = fit_recoverer(mine, examples)
    keep_fit(tmp_path, "key", fitted)
    assert kept_fit(tmp_path, "key", mine) == fitted
    assert kept_fit(tmp_path, "another", mine) is None
    file = tmp_path / "calibration.json"
    values = json.loads(file.read_text())
    for odd in ({"familiar": [0, 0]}, {"low": None}, {"embedding": 7}, {"familiar": ["a", 1]}):
        damaged = {"key": values["key"] | {"joining": values["key"]["joining"] | odd}}
        file.write_text(json.dumps(damaged))
        caplog.clear()
        assert kept_fit(tmp_path, "key", mine) is None
        assert len(caplog.messages) == 1 and str(file) in caplog.text


def test_old_records_of_a_confidence_alone_are_read(scs, tmp_path):
    old = {"scores": [0.0, 1.0], "expected": [0.1, 0.2], "examples": 9}
    (tmp_path / "calibration.json").write_text(json.dumps({"key": old}))
    found = kept_fit(tmp_path, "key", recoverer(scs))
    assert found.joining is None and found.calibration(0.5) == pytest.approx(0.15)
    assert Fitted().values == {}


def test_a_choice_answers_with_the_recoverers_own_decoding_only(scs, examples, tmp_path):
    both = recoverer(scs)
    both.decoding = Choice(candidates=3)
    assert both.feature_names == ("prior", "embedding", "length")
    away = LogLinear({"prior": 0.0, "embedding": -50.0, "length": 0.0})
    keep_fit(tmp_path, "key", Fitted(choice=away))
    kept_fit(tmp_path, "key", both).applied_to(both)
    assert both.choice == away
    pairs = pairs_of(examples)[:6]
    plain = both.recover(pairs, decoding=MBR(combined=0))
    for one, other in zip(both.recover(pairs), plain, strict=True):
        assert len(one.candidates) == 3
        assert {c.text for c in one.candidates} == {c.text for c in other.candidates[:3]}
        assert one.rewrite_prompt != other.rewrite_prompt, "the furthest from the prediction"
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"key": {"choice": {"prior": None}}}))
    assert kept_fit(tmp_path, "key", both) is None


def test_weights_of_other_features_and_sources_are_not_used(scs, tmp_path, caplog):
    both = recoverer(scs)
    both.decoding = Choice(candidates=3)
    weights = {"prior": 1.0, "embedding": 2.0, "length": 3.0}
    assert both.feature_names == tuple(weights)
    keep_fit(tmp_path, "key", Fitted(choice=LogLinear(dict(reversed(weights.items())))))
    found = kept_fit(tmp_path, "key", both)
    found.applied_to(both)
    assert list(both.choice.weights.items()) == list(weights.items()), "in the recoverer's order"
    for other in ({"prior": 1.0, "length": 3.0}, weights | {"mood": 1.0}):
        keep_fit(tmp_path, "key", Fitted(choice=LogLinear(other)))
        caplog.clear()
        assert kept_fit(tmp_path, "key", both) is None
        assert "calibration.json: weighs other features" in caplog.text
    one = Joining((1.0,) * 5, (1.0,) * 5)
    keep_fit(tmp_path, "key", Fitted(joining=one))
    assert kept_fit(tmp_path, "key", both) is None


def test_a_choice_is_kept_only_if_it_helps(scs, examples, caplog):
    helpful = recoverer(scs)
    helpful.decoding = Choice(candidates=3)
    assert fit_recoverer(helpful, examples).choice.weights["embedding"] > 0, "it is often right"

    both = recoverer(scs, every=1)  # plain MBR is always right
    both.decoding, both.named = Choice(candidates=3, combined=0), 0.0
    caplog.set_level("INFO")
    scored = []
    fitted = fit_recoverer(both, examples, rescoring=scored.append)
    assert sum(scored) == len(examples)
    assert fitted.choice is None
    assert "no better than plain MBR" in caplog.text
    alike = recoverer(scs, every=1)
    alike.named = 0.0
    plain = fit_recoverer(alike, examples)
    assert (fitted.joining, fitted.calibration) == (plain.joining, plain.calibration)
