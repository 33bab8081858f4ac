import json
from dataclasses import replace

import numpy as np
import pytest

from prompt_recovery.data.sources import starter
from prompt_recovery.reporting.evaluation.contenders import from_file
from prompt_recovery.reporting.evaluation.displaced import displaced_rows
from prompt_recovery.reporting.evaluation.job import EvaluationJob, run_evaluation
from prompt_recovery.reporting.evaluation.report import notes

SIZE = 120


@pytest.fixture(scope="module")
def rows(scs):
    """Prompts of rows, and the answers of a recoverer that is right about a fifth of them."""
    every = sorted({e.rewrite_prompt for e in starter().examples})
    prompts = [every[i] for i in np.random.default_rng(0).choice(len(every), SIZE, replace=False)]
    wrong = [every[i] for i in np.random.default_rng(1).choice(len(every), SIZE, replace=False)]
    answers = [
        f"please {prompt}" if n % 5 == 0 else other
        for n, (prompt, other) in enumerate(zip(prompts, wrong, strict=True))
    ]
    return answers, prompts


def displaced(prompts, first, last, by):
    """The prompts, those of rows first … last in the place of the row `by` further down."""
    run = prompts[first : last + 1]
    return [*prompts[:first], *run[-by:], *run[:-by], *prompts[last + 1 :]]


@pytest.mark.parametrize(("by", "side"), [(1, "after"), (-1, "before")])
@pytest.mark.parametrize(("first", "last"), [(70, SIZE - 1), (0, 49), (30, 100), (0, SIZE - 1)])
def test_rows_with_the_prompts_of_their_neighbours_are_found(rows, scs, by, side, first, last):
    answers, prompts = rows
    found = displaced_rows(answers, displaced(prompts, first, last, by), scs)
    assert found is not None and found.side == side
    assert abs(found.first - first) <= 10 and abs(found.last - last) <= 10
    assert found.own < 0.08 and found.neighbour > 0.15
    names = [f"row-{n}" for n in range(SIZE)]
    assert f"from row-{found.first} to row-{found.last}," in found.told("mine", names)


def test_honest_rows_are_not_suspected_whatever_their_order(rows, scs):
    answers, prompts = rows
    vectors = scs.encoder.embed(prompts)
    chain, left = [0], set(range(1, SIZE))
    while left:  # as if the file were sorted by meaning, so that neighbours are alike
        near = max(left, key=lambda n: float(vectors[n] @ vectors[chain[-1]]))
        chain.append(near)
        left.discard(near)
    orders = [np.random.default_rng(seed).permutation(SIZE) for seed in range(5)]
    for order in (range(SIZE), chain, *orders):
        own = [answers[n] for n in order], [prompts[n] for n in order]
        assert displaced_rows(*own, scs) is None
    same = ["Make it rhyme"] * SIZE
    assert displaced_rows(same, same, scs) is None
    assert displaced_rows(["make it sad"] * SIZE, prompts, scs) is None
    assert displaced_rows(answers[:5], displaced(prompts[:5], 0, 4, 1), scs) is None
    assert displaced_rows([], [], scs) is None


def test_other_displaced_rows_are_not_suspected(rows, scs):
    """Prompts that are displaced by more than a row, or shuffled, are no neighbours'."""
    answers, prompts = rows
    assert displaced_rows(answers, displaced(prompts, 0, SIZE - 1, 7), scs) is None


def test_an_evaluation_names_them(examples, scs, rows, tmp_path, caplog):
    answers, prompts = rows
    own = [
        replace(examples[n % len(examples)], id=f"row-{n}", rewrite_prompt=prompt)
        for n, prompt in enumerate(displaced(prompts, 70, SIZE - 1, 1))
    ]
    (tmp_path / "mine.jsonl").write_text(
        "".join(
            json.dumps({"id": e.id, "prediction": answer}) + "\n"
            for e, answer in zip(own, answers, strict=True)
        )
    )
    job = EvaluationJob(
        "own", own, [from_file(tmp_path / "mine.jsonl")], scs, None, [], tmp_path / "out"
    )
    [note] = notes(run_evaluation(job))
    assert "the answers of mine have" in note and "the rows after them" in note
    assert note in caplog.messages
    for name in ("report.md", "report.html", "report.json"):
        assert "probably displaced by one row" in (tmp_path / "out" / name).read_text()
