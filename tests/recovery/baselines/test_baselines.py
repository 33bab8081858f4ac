from dataclasses import replace

import numpy as np
import pytest

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.data.sources import starter
from prompt_recovery.data.tokens import completion_tokens
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.instructions import bank_texts
from prompt_recovery.recovery.baselines import (
    FewShot,
    MeanPrompt,
    Neighbours,
    Regressor,
    ZeroShot,
    mean_prompt,
)
from prompt_recovery.recovery.baselines.mean_prompt import search
from prompt_recovery.recovery.baselines.prompted import choose_shots
from prompt_recovery.recovery.decoding import Greedy
from prompt_recovery.recovery.interface import Pair, pairs_of
from prompt_recovery.templates import Template

TINY = Backbone("tiny", architecture="llama")
TEMPLATE = Template("t", "{{ original_text }} => {{ rewritten_text }}")
KINDS = [
    ("Once upon a time, a ferry sailed, and all were happy ever after.", "Tell it as a fairy tale"),
    ("Yo, the ferry, it be leavin', word up, at dawn, my friend.", "Turn it into a rap"),
    ("Dear Sir or Madam, the ferry departs at dawn. Yours faithfully.", "Write a formal letter"),
]
BASELINES = [
    MeanPrompt(rounds=1, proposals=8),
    Neighbours("rewrite", 3),
    Neighbours("difference", 3),
    Regressor("ridge"),
    Regressor("mlp"),
    ZeroShot(TINY, TEMPLATE, Greedy(4), 60, "fp32"),
    FewShot(TINY, TEMPLATE, Greedy(4), 60, "fp32", 2),
]


@pytest.fixture
def three_kinds(examples):
    """Forty examples whose rewrites give their prompts away."""
    return [
        replace(e, rewritten_text=f"{KINDS[n % 3][0]} ({n})", rewrite_prompt=KINDS[n % 3][1])
        for n, e in enumerate(examples)
    ]


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda b: b.name)
def test_every_baseline_answers_whatever_comes(baseline, three_kinds, scs):
    recoverer = baseline.fit(three_kinds, scs)
    texts = ["", None, "ok", "x" * 20_000, "字🐈", "a \ud83d b", "<script>=1+1"]
    pairs = [Pair(str(n), text, "b") for n, text in enumerate(texts)]
    done = []
    predictions = recoverer.recover(pairs, done.append)
    assert [p.id for p in predictions] == [p.id for p in pairs]
    assert all(p.rewrite_prompt.strip() for p in predictions)
    assert sum(done) == len(pairs)
    assert recoverer.recover([]) == []
    assert baseline.fit(three_kinds, scs).recover(pairs) == predictions


@pytest.mark.parametrize("baseline", BASELINES[1:5], ids=lambda b: b.name)
def test_embedding_space_tells_kinds_apart(baseline, three_kinds, scs):
    recoverer = baseline.fit(three_kinds[:30], scs)
    answers = [p.rewrite_prompt for p in recoverer.recover(pairs_of(three_kinds[30:]))]
    assert answers == [e.rewrite_prompt for e in three_kinds[30:]]


def test_the_search_climbs_and_only_climbs(scs):
    prompts = [e.rewrite_prompt for e in starter().examples[::25]]
    seen = []
    steps = search(scs, prompts, 6, 40, progress=lambda number, best: seen.append((number, best)))
    assert steps[0].text == mean_prompt(scs, prompts)
    values = [s.mean_scs for s in steps]
    assert values == sorted(values)
    assert len(steps) > 1
    for step in steps:
        mean = scs([step.text] * len(prompts), prompts).mean()
        assert step.mean_scs == pytest.approx(float(mean), abs=1e-5)
        assert set(step.text.split()) <= {w for p in prompts for w in p.split()}
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert search(scs, prompts, 6, 40) == steps


def test_a_mean_prompt_has_the_name_that_it_is_given():
    names = [MeanPrompt(name="mine").name, MeanPrompt().name, MeanPrompt(rounds=0).name]
    assert names == ["mine", "mean prompt, searched", "mean prompt"]


def test_the_regressor_answers_from_its_bank(three_kinds, scs):
    bank = ["Rap it", "Once more, as a fairy tale for children"]
    recoverer = Regressor(bank=bank).fit(three_kinds, scs)
    assert set(bank) < set(recoverer.bank)
    assert len(bank_texts()) > 100
    alike = [replace(e, rewrite_prompt="Fix it") for e in three_kinds]
    [answer] = Regressor().fit(alike, scs).recover(pairs_of(alike[:1]))
    assert answer.rewrite_prompt == "Fix it"


def test_few_shot_shows_solved_examples_first(three_kinds, scs, tokenizer):
    baseline = FewShot(TINY, TEMPLATE, Greedy(4), 60, "fp32", 3)
    few, zero = baseline.fit(three_kinds, scs), BASELINES[5].fit(three_kinds, scs)
    few_writer, zero_writer = few.sources[0][0].writer, zero.sources[0][0].writer
    pair = pairs_of(three_kinds)[0]
    shots = choose_shots(three_kinds, 3, 0)
    ids = few_writer.prompt_tokens(pair)
    own = zero_writer.prompt_tokens(pair)
    assert ids[-len(own) :] == own
    for shot in shots:
        answer = completion_tokens(shot.rewrite_prompt, tokenizer)
        assert any(ids[i : i + len(answer)] == answer for i in range(len(ids)))
    assert zero.name == "tiny zero-shot"
    assert few.name == "tiny 3-shot"


def test_shots_differ_and_do_not_depend_on_order(three_kinds):
    shots = choose_shots(three_kinds, 3, 0)
    assert len({s.rewrite_prompt for s in shots}) == 3
    assert len({s.category for s in shots}) == 2
    assert choose_shots(three_kinds[::-1], 3, 0) == shots
    assert len(choose_shots(three_kinds, 9, 0)) == 3
    assert np.unique([choose_shots(three_kinds, 1, s)[0].id for s in range(8)]).size > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Neighbours("texts"), "must be rewrite or difference"),
        (lambda: Neighbours("rewrite", 0), "k=0: must be ≥ 1"),
        (lambda: Regressor("tree"), "must be ridge or mlp"),
        (lambda: MeanPrompt(rounds=-1), "rounds=-1: must be ≥ 0"),
        (lambda: FewShot(TINY, TEMPLATE, Greedy(4), shots=-1), "shots=-1: must be ≥ 0"),
    ],
)
def test_wrong_settings_are_one_line(make, message):
    with pytest.raises(PromptRecoveryError, match=message):
        make()
