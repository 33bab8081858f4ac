"""What stands in a batch belongs to the completions of its trees."""

import pickle
from types import SimpleNamespace

import pytest

from prompt_recovery.data.splits import Splits
from prompt_recovery.data.tokens import TokenisedExample
from prompt_recovery.templates import Template
from prompt_recovery.training.datamodule import RecoveryData, TrainingTrees
from prompt_recovery.training.job import Batching
from prompt_recovery.training.pairs import PairData

TEMPLATE = Template("t", "{{ original_text }} => {{ rewritten_text }}")


def marked(row, number):
    """The completion `number` of a row: its tokens name the row, its length is the number."""
    return [100 + row] * (number + 1)


@pytest.fixture
def data(tokenizer, examples):
    """Rows of several lengths with one to four completions each, and values that name them."""
    rows = [
        TokenisedExample(
            str(n), [5] * (3 + 7 * n % 11), [marked(n, k) for k in range(1 + n % 4)], 0
        )
        for n in range(23)
    ]
    values = [[100 * n + k for k in range(len(row.completions))] for n, row in enumerate(rows)]
    training = TrainingTrees(
        rows,
        scores=[tuple(0.001 * v for v in row) for row in values],
        reference=[[-1.0 * v for v in row] for row in values],
    )

    def data(together=False):
        return RecoveryData(
            Splits([], examples[:10], []), TEMPLATE, tokenizer,
            Batching(batch_size=4, eval_batch_size=3, max_prompt_tokens=80), 0, training, together,
        )  # fmt: skip

    return data


@pytest.mark.parametrize("together", [False, True])
def test_references_and_scores_are_of_the_completions_they_stand_beside(data, together):
    data = data(together)
    seen = []
    for batch in data._loader(data.training, [], 4, shuffle=True):
        lengths = batch.trees.completion.bincount().tolist()
        starts = [sum(lengths[:n]) for n in range(len(lengths))]
        rows = (batch.trees.targets[starts] - 100).tolist()
        expected = [100 * row + length - 1 for row, length in zip(rows, lengths, strict=True)]
        assert batch.reference.tolist() == [-1.0 * value for value in expected]
        assert batch.score.tolist() == pytest.approx([0.001 * v for v in expected])
        seen += expected
    assert sorted(seen) == [100 * n + k for n in range(23) for k in range(1 + n % 4)]


@pytest.mark.parametrize(
    ("together", "group"), [(True, True), (True, False), (False, True)], ids=str
)
def test_examples_of_an_original_text_share_batches_where_trees_share_rows(
    tokenizer, examples, together, group
):
    """Ten texts with four examples each: a batch of four holds one text, or hardly ever does."""
    batching = Batching(batch_size=4, group_originals=group)
    data = RecoveryData(
        Splits(examples, [], []), TEMPLATE, tokenizer, batching, 0, together=together
    )
    texts = [
        {examples[i].original_text for i in batch.indices}
        for batch in data._loader(data.training, [], 4, shuffle=True)
    ]
    assert len(texts) == 10
    assert all(len(t) == 1 for t in texts) == (together and group)


def test_workers_may_be_spawned(data, tokenizer, examples):
    """Where processes are not forked, as on macOS and Windows, workers get pickled batch makers."""
    module = data()
    trees = module._loader(module.training, [], 4, shuffle=True)
    pairs = SimpleNamespace(tokenizer=tokenizer, max_seq_length=60)
    prompts = sorted({e.rewrite_prompt for e in examples})
    retrieval = PairData(Splits(examples, examples[:5], []), pairs, prompts, Batching(), 0)
    for loader in (trees, retrieval._loader(retrieval.validation, 4, shuffle=False)):
        again = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
        assert repr(again[1]([0, ~1])) == repr(loader.collate_fn([0, ~1]))
