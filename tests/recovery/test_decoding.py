from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import decoding as decoding_module
from prompt_recovery.recovery.decoding import (
    MBR,
    Beam,
    Decoding,
    Greedy,
    Sampling,
    distinct,
    from_record,
    record,
    uniforms,
)
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.posterior import Completion, Posterior, weighted_sum
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.templates import Template
from tests.trees.test_forward import tiny_model

ALL = [Greedy(5), Beam(2, 5), Sampling(3, 0.5, 5, 1), MBR(5, 0.9, 5, True, 2)]


@pytest.fixture(scope="module")
def recoverer(tokenizer, scs):
    template = Template("t", "{{ original_text }} => {{ rewritten_text }}")
    writer = Writer(tiny_model("llama"), tokenizer, template, 60)
    return PosteriorRecoverer.of_writer(writer, MBR(6, 1.0, 8, combined=0), "Improve it", scs)


@pytest.fixture(scope="module")
def writer(recoverer):
    return recoverer.sources[0][0].writer


@pytest.mark.parametrize("decoding", ALL)
def test_records_are_plain_and_come_back(decoding):
    values = record(decoding)
    assert all(isinstance(v, str | int | float | bool) for v in values.values())
    assert from_record(values) == decoding


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Greedy(0), "max_new_tokens=0: must be ≥ 1"),
        (lambda: Beam(0), "beams=0"),
        (lambda: Sampling(1, 0.0), "temperature=0.0"),
        (lambda: MBR(1), "samples=1: must be ≥ 2"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(PromptRecoveryError, match=message):
        make()


def completion(text, total, mean):
    return Completion(text, text, total, mean)


def test_distinct_keeps_the_best_of_equal_texts():
    found = distinct(
        [completion("a", -3, -1.0), completion("", -1, -0.1), completion("a", -2, -0.5),
         completion("b", -9, -0.2)]
    )  # fmt: skip
    assert [(c.text, c.mean_log_probability) for c in found] == [("b", -0.2), ("a", -0.5)]


def test_samples_depend_on_id_and_seed_alone(recoverer):
    pairs = [Pair(str(n), "word " * (n + 1), "other " * (9 - n)) for n in range(5)]
    together = recoverer.recover(pairs)
    turned = recoverer.recover(pairs[::-1])[::-1]
    for a, b in zip(together, turned, strict=True):
        assert [c.text for c in a.candidates] == [c.text for c in b.candidates]
    other = recoverer.recover(pairs, decoding=MBR(6, 1.0, 8, seed=1, combined=0))
    renamed = recoverer.recover(
        [Pair("x" + p.id, p.original_text, p.rewritten_text) for p in pairs]
    )
    assert [c.text for c in other[0].candidates] != [c.text for c in together[0].candidates]
    assert [c.text for c in renamed[0].candidates] != [c.text for c in together[0].candidates]
    assert np.array_equal(uniforms([(0, "a"), (0, "b")], 2, 3)[1], uniforms([(0, "b")], 2, 3)[0])


def test_mbr_answers_with_the_consensus(recoverer, writer, scs):
    [prediction] = recoverer.recover([Pair("1", "one text", "another text")])
    decoding, pair = recoverer.decoding, Pair("1", "one text", "another text")
    drawn = uniforms([(decoding.seed, "recovery", pair.id)], 6, 8)
    [row] = writer.write([writer.prompt_tokens(pair)], [1.0] * 6, drawn, 8)
    texts = [c.text for c in row if c.text]
    means = {
        text: (scs([text] * len(texts), texts).sum() - 1) / (len(texts) - 1) for text in set(texts)
    }
    assert means[prediction.rewrite_prompt] == pytest.approx(max(means.values()), abs=1e-5)
    assert prediction.candidates[0].score == pytest.approx(max(means.values()), abs=1e-5)


def test_mbr_needs_a_metric(writer):
    bare = PosteriorRecoverer.of_writer(writer, MBR(), "f")
    with pytest.raises(PromptRecoveryError, match="MBR needs a metric"):
        bare.recover([Pair("1", "a", "b")])


def test_without_a_metric_candidates_are_ordered_by_log_probability_per_token():
    rows = [completion("a", -3, -1.5), completion("b", -4, -0.5), completion("c", -2, -1.0)]
    written = Posterior.of_completions(rows)
    found = Posterior.of_weights(["d", "e"], [1.0, 3.0])
    both = weighted_sum([(written, 1.0), (found, 1.0)])
    for posterior, texts in ((written, "bca"), (found, "ed"), (both, "bca")):
        [ranked] = Greedy().choose([posterior], None)
        assert "".join(c.text for c in ranked) == texts
        assert [c.score for c in ranked] == sorted((c.score for c in ranked), reverse=True)


def test_a_new_decoding_is_one_class():
    @dataclass(frozen=True)
    class Shortest(Decoding):
        name: ClassVar[str] = "shortest"
        max_new_tokens: int = 4
        branches: ClassVar[int] = 2

        def ask(self, writer, prompts, ids, member=0):
            rows = writer.write_beams(prompts, self.branches, self.max_new_tokens)
            return [Posterior.of_completions(row) for row in rows]

    try:
        assert record(Shortest(3)) == {"name": "shortest", "max_new_tokens": 3}
        assert from_record({"name": "shortest", "max_new_tokens": 3}) == Shortest(3)
    finally:
        del decoding_module._KNOWN["shortest"]
