import time
from dataclasses import dataclass

import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.baselines import mean_prompt
from prompt_recovery.recovery.choice import LogLinear
from prompt_recovery.recovery.confidence import Calibration
from prompt_recovery.recovery.decoding import MBR, Greedy
from prompt_recovery.recovery.interface import ConstantRecoverer, Pair, Prediction, pairs_of
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.reporting.evaluation.scores import evaluate
from prompt_recovery.templates import Template
from tests.trees.test_forward import tiny_model

TEMPLATE = Template("t", "{{ original_text }} => {{ rewritten_text }}")


@pytest.fixture
def recoverer(tokenizer):
    writer = Writer(tiny_model("llama"), tokenizer, TEMPLATE, 60, batch_tokens=120)
    return PosteriorRecoverer.of_writer(writer, Greedy(6), "Improve it")


def test_unusable_texts_still_get_an_answer_in_order(recoverer):
    texts = ["", " \n", "ok", "x" * 100_000, "字🐈", "a \ud83d b", "<script>=1+1", None]
    pairs = [Pair(str(n), text, "b") for n, text in enumerate(texts)]
    done = []
    predictions = recoverer.recover(pairs, done.append)
    assert [p.id for p in predictions] == [p.id for p in pairs]
    assert all(p.rewrite_prompt for p in predictions)
    fallbacks = [p.id for p in predictions if p.fallback]
    assert {"0", "1", "5", "7"} <= set(fallbacks)
    assert all(p.rewrite_prompt == "Improve it" for p in predictions if p.fallback)
    assert sum(done) == len(pairs)


def test_batching_does_not_change_answers(recoverer, tokenizer):
    pairs = [Pair(str(n), "word " * (n + 1), "other " * (9 - n)) for n in range(7)]
    together = recoverer.recover(pairs)
    alone = [recoverer.recover([pair])[0] for pair in pairs]
    for a, b in zip(together, alone, strict=True):
        assert a.rewrite_prompt == b.rewrite_prompt


def test_mean_prompt_is_the_best_constant(scs):
    prompts = ["Make it a poem", "Turn it into a poem", "Write a poem of it", "Fix the grammar"]
    best = mean_prompt(scs, prompts, block=2)
    means = {p: float(scs([p] * len(prompts), prompts).mean()) for p in prompts}
    assert best == max(means, key=means.get)


def test_evaluation(scs, examples):
    answers = [Prediction(e.id, "Make it joyful") for e in examples]
    answers[0] = Prediction(examples[0].id, examples[0].rewrite_prompt.upper() + "!")
    result = evaluate("r", answers, examples, scs, 1.0)
    assert result.exact.sum() == 1
    truths = [e.rewrite_prompt for e in examples]
    assert result.scs == pytest.approx(scs([a.rewrite_prompt for a in answers], truths))
    assert result.interval[0] <= result.scs.mean() <= result.interval[1]
    assert {k: n for k, (_, n) in result.by_category(examples).items()} == {"style": 20, "tone": 20}
    with pytest.raises(ValueError, match="same ids"):
        evaluate("r", answers[1:], examples, scs, 1.0)


def test_a_recoverer_never_sees_the_truth(examples):
    assert not hasattr(pairs_of(examples)[0], "rewrite_prompt")
    assert ConstantRecoverer("c").recover(pairs_of(examples))[3] == Prediction("row-3", "c")


@dataclass(frozen=True)
class Known:
    """A source that says the same of every pair."""

    name: str
    texts: tuple[str, ...]

    def posteriors(self, pairs, decoding, progress=lambda _: None):
        usable = [i for i, pair in enumerate(pairs) if pair.original_text]
        progress(len(pairs))
        return {i: Posterior.of_texts(self.texts) for i in usable}


POEMS = Known("poems", ("Make it a poem", "Turn it into a poem"))
RECIPES = Known("recipes", ("Add three recipes", "Add some recipes"))
PAIRS = [Pair("1", "a", "b"), Pair("2", "", "b")]


def test_sources_choose_together_by_their_weights(scs):
    done = []
    for weights, words in (((1.0, 3.0), "recipes"), ((3.0, 1.0), "poem")):
        sources = list(zip((POEMS, RECIPES), weights, strict=True))
        recoverer = PosteriorRecoverer(sources, MBR(), "Improve it", scs)
        assert recoverer.name == "poems + recipes"
        chosen, unusable = recoverer.recover(PAIRS, done.append)
        assert words in chosen.rewrite_prompt
        assert {c.text for c in chosen.candidates} == {*POEMS.texts, *RECIPES.texts}
        assert unusable == Prediction("2", "Improve it", fallback=True)
    assert sum(done) == 2 * len(PAIRS), "a pair is done when all sources are"


def test_log_probabilities_of_several_sources_are_not_compared(scs):
    sources = [(POEMS, 1.0), (RECIPES, 1.0)]
    for own, asked in ((Greedy(), None), (MBR(), Greedy())):
        recoverer = PosteriorRecoverer(sources, own, "Improve it", scs)
        with pytest.raises(
            PromptRecoveryError, match="a decoding that uses the metric, such as decoding=mbr"
        ):
            recoverer.recover(PAIRS, decoding=asked)


def test_a_calibration_is_for_the_recoverers_own_decoding(scs):
    calibration = Calibration((0.0, 1.0), (0.25, 0.25), 9)
    recoverer = PosteriorRecoverer([(POEMS, 1.0)], MBR(), "Improve it", scs, calibration)
    assert recoverer.recover(PAIRS)[0].confidence == 0.25
    assert recoverer.recover(PAIRS, decoding=MBR())[0].confidence == 0.25
    assert recoverer.recover(PAIRS, decoding=MBR(samples=4))[0].confidence is None


def test_what_each_part_took_is_told(scs, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    @dataclass(frozen=True)
    class Slow(Known):
        takes: float = 0.0

        def posteriors(self, pairs, decoding, progress=lambda _: None):
            clock[0] += self.takes
            return super().posteriors(pairs, decoding, progress)

    class Embeds:
        """Takes a second whenever something is embedded."""

        def __getattr__(self, name):
            return getattr(scs.encoder, name)

        def embed(self, texts):
            clock[0] += 1.0
            return scs.encoder.embed(texts)

    def channel(pair, texts):
        clock[0] += 7.0
        return [0.0] * len(texts)

    recoverer = PosteriorRecoverer(
        [(Slow("poems", POEMS.texts, 2.0), 1.0), (Slow("recipes", RECIPES.texts, 5.0), 1.0)],
        MBR(), "Improve it", SCS(Embeds(), scs.exponent), channel=channel,
        choice=LogLinear({"prior": 1.0, "channel": 0.1}),
    )  # fmt: skip
    recoverer.said(PAIRS)
    recoverer.recover(PAIRS)
    choice = recoverer.seconds["choice"]
    assert recoverer.seconds == {"poems": 2.0, "recipes": 5.0, "channel": 7.0, "choice": choice}
    assert choice >= 1.0
    recoverer.recover(PAIRS, decoding=MBR(samples=4))
    assert "channel" not in recoverer.seconds, "of the last call only"
