from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.preferences.candidates import PreferenceCandidate
from prompt_recovery.preferences.pool import joined, read_pool, write_pool

candidates = st.lists(
    st.builds(
        PreferenceCandidate,
        st.text(st.sampled_from("ab \u2028\n!"), min_size=1, max_size=4),
        st.sampled_from(["sampled", "others"]),
        st.floats(-1, 1),
    ),
    max_size=30,
)


@given(candidates)
def test_what_is_written_is_read(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("pool")
    write_pool({"a": values, "b": []}, folder)
    assert read_pool(folder) == {"a": values, "b": []}


@given(candidates, candidates, st.integers(2, 9))
def test_new_and_earlier_ones_are_distinct_and_spread(new, earlier, most):
    result = joined({"a": earlier, "other": earlier}, {"a": new}, most)
    assert result.keys() == {"a"}
    kept, every = result["a"], [*new, *(replace(c, source="earlier") for c in earlier)]
    words = [normalise(c.text) for c in kept]
    assert len(set(words)) == len(words) == min(len({normalise(c.text) for c in every}), most)
    scores = [c.scs for c in kept]
    assert scores == sorted(scores, reverse=True)
    for candidate in kept:  # of the same words, the one that was said now
        assert candidate == next(c for c in every if normalise(c.text) == normalise(candidate.text))
    distinct = {}
    for c in every:
        distinct.setdefault(normalise(c.text), c.scs)
    if distinct:
        assert (scores[0], scores[-1]) == (max(distinct.values()), min(distinct.values()))


@pytest.mark.parametrize(
    "content",
    [
        '{"id": "a"}\n',
        "[]\n",
        '{"id": "a", "candidates": [["x"]]}\n',
        '{"id": "a", "candidates": [[["x"], "s", 0.5]]}\n',
        '{"id": 1, "candidates": []}\n',
        "{\n",
    ],
)
def test_a_damaged_pool_is_one_line(tmp_path, content):
    (tmp_path / "candidates.jsonl").write_text(content)
    with pytest.raises(PromptRecoveryError, match="line 1: is not a list of candidates"):
        read_pool(tmp_path)


def test_no_pool_is_one_line(tmp_path):
    with pytest.raises(PromptRecoveryError, match="holds no readable candidates"):
        read_pool(tmp_path)
