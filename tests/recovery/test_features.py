from dataclasses import replace

import numpy as np
import pytest

from prompt_recovery.recovery.features import FeatureMaker
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.mbr import expected_scs, rank
from prompt_recovery.recovery.posterior import Posterior, weighted_sum

PAIR = Pair("1", "It rained.", "It poured, oh joy!")
WRITTEN = Posterior.of_texts(["Make it joyful", "Make it joyful", "Add joy", "Do it"])
NAMES = ("prior", "written", "retrieved", "embedding", "log_probability", "length", "channel")


class Model:
    """A language model that likes short answers."""

    def mean_log_probabilities(self, pair, texts):
        assert pair == PAIR
        return [-float(len(text)) for text in texts]


@pytest.fixture
def parts(scs):
    vector = scs.encoder.embed(["Rewrite it with joy"])[0]
    found = Posterior.of_weights(["Rewrite it with joy", "Add joy"], [3, 1], vector, 0.25)
    return [WRITTEN, replace(found, familiarity=0.5)]


def maker(scs, count=4):
    return FeatureMaker(
        NAMES, scs, count, [Model(), None], lambda pair, texts: [2.0 * len(t) for t in texts]
    )


def test_each_feature_is_what_it_says(scs, parts):
    joined = weighted_sum(zip(parts, (0.5, 0.5), strict=True))
    found = maker(scs)(PAIR, parts, joined)
    ranked = rank(joined, scs)
    texts = [c.text for c in ranked]
    assert list(found.candidates) == ranked
    assert set(texts) == {"Make it joyful", "Add joy", "Do it", "Rewrite it with joy"}
    value = dict(zip(NAMES, found.values.T, strict=True))
    assert value["prior"] == pytest.approx(np.log([max(c.score, 1e-3) for c in ranked]))
    inside = [texts.index(t) for t in WRITTEN.texts]
    alone = expected_scs(WRITTEN.texts, WRITTEN.votes, scs, WRITTEN.one_vote)
    assert value["written"][inside] == pytest.approx(alone, abs=1e-6)
    weights = [0.75, 0.25]
    density = scs.matrix(texts, ["Rewrite it with joy", "Add joy"]) @ weights
    assert value["retrieved"] == pytest.approx(density, abs=1e-6)
    assert value["embedding"] == pytest.approx(scs.matrix(texts, ["Rewrite it with joy"])[:, 0])
    assert value["log_probability"].tolist() == [-len(t) for t in texts]
    assert value["channel"].tolist() == [2 * len(t) for t in texts]
    assert value["length"] == pytest.approx(np.log([len(t.split()) for t in texts]))
    assert found.utility == pytest.approx(scs.matrix(texts, texts), abs=1e-6)


def test_only_the_best_candidates_have_features(scs, parts):
    joined = weighted_sum(zip(parts, (0.5, 0.5), strict=True))
    assert len(maker(scs, 2)(PAIR, parts, joined).candidates) == 2


def test_a_source_that_says_nothing_makes_no_difference(scs):
    found = maker(scs)(PAIR, [WRITTEN, None], WRITTEN)
    value = dict(zip(NAMES, found.values.T, strict=True))
    assert not value["retrieved"].any() and not value["embedding"].any()
    assert value["written"].any()
    blank = Posterior.of_texts(["", " "])
    assert maker(scs)(PAIR, [blank, None], blank) is None
