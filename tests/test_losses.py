import importlib.util

import pytest

from tests.conftest import ROOT

_SPEC = importlib.util.spec_from_file_location("losses", ROOT / "benchmarks" / "losses.py")
losses = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(losses)


def test_the_distance_is_split_at_the_best_candidate(scs):
    truths = {"a": "Make it a poem", "b": "Add three recipes"}
    rows = [
        {"id": "a", "rewrite_prompt": "Do it", "candidates": [{"text": "Make it a poem"}]},
        {"id": "b", "rewrite_prompt": "Do it", "candidates": [{"text": "Be brief"}]},
    ]
    found = losses.losses(rows, truths, scs)
    answer = scs(["Do it", "Do it"], list(truths.values()))
    best = [1.0, max(answer[1], scs(["Be brief"], [truths["b"]])[0])]
    assert found["answer"] == pytest.approx(answer.mean(), abs=1e-6)
    assert found["lost by the choice"] == pytest.approx((best - answer).mean(), abs=1e-6)
    total = found["answer"] + found["lost by the choice"] + found["no candidate reaches"]
    assert total == pytest.approx(1.0, abs=1e-6)
    counts = found["pairs by what counts as good"]["0.5"]
    assert counts == {"no good candidate": 1, "a good one not chosen": 1, "a good answer": 0}
