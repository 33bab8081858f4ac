import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.trees import Tree, pack

token = st.integers(0, 3)
tokens = st.lists(token, min_size=1, max_size=6)
prompt = st.builds(
    # beginnings that are often, but not always, the same
    lambda common, count, own: [7] * count + [common] * count + own,
    st.integers(8, 9), st.sampled_from([0, 4, 12]), tokens,
)  # fmt: skip
tree = st.builds(Tree, prompt, st.lists(tokens, min_size=1, max_size=3))
PAD = 100


def seen_by(batch, place):
    """The tokens that the token in a flat place sees, itself last."""
    row, column = divmod(place, batch.input_ids.shape[1])
    until = batch.until[row].tolist()
    ids = batch.input_ids[row].tolist()
    return [ids[k] for k in range(column + 1) if column < until[k]]


@given(st.lists(tree, min_size=1, max_size=5), st.booleans())
def test_a_target_is_predicted_from_its_prompt_and_what_stands_before_it(trees, together):
    batch = pack(trees, PAD, together)
    assert batch.targets.tolist() == [t for tree in trees for c in tree.completions for t in c]
    assert int((batch.input_ids != PAD).sum()) <= batch.tokens == sum(map(len, trees))
    positions = batch.position_ids.flatten().tolist()
    trees_of = batch.tree.flatten().tolist()
    index = completions = 0
    for number, one in enumerate(trees):
        for completion in one.completions:
            for step in range(len(completion)):
                place = int(batch.predictors[index])
                assert seen_by(batch, place) == [*one.prompt, *completion[:step]]
                assert trees_of[place] == number
                assert positions[place] == len(one.prompt) + step - 1
                assert batch.completion[index] == completions
                index += 1
            completions += 1
    assert batch.tree_of_completion.tolist() == [
        number for number, one in enumerate(trees) for _ in one.completions
    ]


def test_common_beginnings_stand_once():
    system, text, other = list(range(50)), list(range(50, 90)), list(range(150, 190))
    trees = [
        Tree([*system, *text, 1], [[5]]),
        Tree([*system, *text, 2, 3], [[5], [6, 7]]),
        Tree([*system, *other, 1], [[5]]),
    ]
    batch = pack(trees, PAD, together=True)
    assert batch.input_ids.shape == (1, 50 + 40 + (1 + 1) + (2 + 3) + (40 + 1 + 1))
    assert batch.tokens == sum(map(len, trees))
    assert (batch.tree[0, :90] == -1).all()
    assert set(batch.until[0, :50].tolist()) == {139}
    assert set(batch.until[0, 50:90].tolist()) == {97}


def test_equal_prompts_keep_a_token_of_their_own():
    trees = [Tree(list(range(30)), [[5]]), Tree(list(range(30)), [[6]])]
    batch = pack(trees, PAD, together=True)
    assert batch.input_ids.shape == (1, 29 + 2 + 2)


@pytest.mark.parametrize("bad", [Tree([], [[1]]), Tree([1], []), Tree([1], [[1], []])])
def test_empty_parts_are_refused(bad):
    with pytest.raises(ValueError, match="tree 1"):
        pack([Tree([1], [[1]]), bad], 0)


def test_no_trees_are_refused():
    with pytest.raises(ValueError, match="no trees"):
        pack([], 0)
