import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.trees import Tree, pack

token = st.integers(0, 99)
tokens = st.lists(token, min_size=1, max_size=6)
tree = st.builds(Tree, tokens, st.lists(tokens, min_size=1, max_size=3))


@given(st.lists(tree, min_size=1, max_size=5), st.integers(0, 40))
def test_every_token_is_kept_and_predicted_from_the_right_place(trees, row_tokens):
    batch = pack(trees, pad_token_id=100, row_tokens=row_tokens)
    flat = batch.input_ids.flatten().tolist()
    assert sum(t != 100 for t in flat) == sum(map(len, trees)) == batch.tokens
    assert batch.targets.tolist() == [t for tree in trees for c in tree.completions for t in c]
    positions = batch.position_ids.flatten().tolist()
    branches = batch.branch.flatten().tolist()
    tree_ids = batch.tree.flatten().tolist()
    index = 0
    for number, one in enumerate(trees):
        for branch, completion in enumerate(one.completions, start=1):
            for step in range(len(completion)):
                place = int(batch.predictors[index])
                assert tree_ids[place] == number
                assert positions[place] == len(one.prompt) + step - 1
                assert branches[place] == (0 if step == 0 else branch)
                before = one.prompt[-1] if step == 0 else completion[step - 1]
                assert flat[place] == before
                index += 1
    assert batch.tree_of_completion.tolist() == [
        number for number, one in enumerate(trees) for _ in one.completions
    ]


@pytest.mark.parametrize("bad", [Tree([], [[1]]), Tree([1], []), Tree([1], [[1], []])])
def test_empty_parts_are_refused(bad):
    with pytest.raises(ValueError, match="tree 1"):
        pack([Tree([1], [[1]]), bad], 0)


def test_no_trees_are_refused():
    with pytest.raises(ValueError, match="no trees"):
        pack([], 0)
