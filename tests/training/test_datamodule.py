"""What stands in a batch belongs to the completions of its trees."""

import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest

from prompt_recovery.data.splits import Splits
from prompt_recovery.data.tokens import (
    TokenisedExample,
    completion_tokens,
    given_prompt_tokens,
    tokenise,
)
from prompt_recovery.preferences import PreferenceExample
from prompt_recovery.templates import Template
from prompt_recovery.training.datamodule import RecoveryData, preference_trees
from prompt_recovery.training.job import Batching
from prompt_recovery.training.loading import TrainingTrees
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


def test_preferences_of_examples_are_rendered_anew_and_others_keep_their_prompts(
    tokenizer, examples
):
    own = [
        PreferenceExample("row-2", "old", ("a good one", "bad"), (0.9, 0.1)),
        PreferenceExample("", "A whole input", ("first", "second", "third"), (0.5, 0.4, 0.3)),
        PreferenceExample("row-1", "old", ("another", "worse"), (0.8, 0.2)),
    ]
    training = preference_trees(own, examples[:5], TEMPLATE, tokenizer, 80)
    assert training.scores == [p.scores for p in own]
    known = tokenise([examples[2], examples[1]], TEMPLATE, tokenizer, 80)
    foreign, _ = given_prompt_tokens("A whole input", tokenizer, 80)
    assert [r.prompt for r in training.rows] == [known[0].prompt, foreign, known[1].prompt]
    answers = [[completion_tokens(text, tokenizer) for text in p.completions] for p in own]
    assert [r.completions for r in training.rows] == answers


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


def test_validation_has_each_example_once_and_the_longest_first(tokenizer, examples):
    own = [
        replace(e, original_text="It rained. " * (n % 4 + 1)) for n, e in enumerate(examples[:10])
    ]
    batching = Batching(eval_batch_size=3, max_prompt_tokens=120)
    data = RecoveryData(Splits([], own, []), TEMPLATE, tokenizer, batching, 0)
    batches = list(data.val_dataloader())
    assert [batch.real for batch in batches] == [3, 3, 3, 1]
    order = [i for batch in batches for i in batch.indices]
    assert sorted(order) == list(range(10))
    assert [e.id for batch in batches for e in batch.examples] == [own[i].id for i in order]
    lengths = [len(data.validation.trees()[i]) for i in order]
    assert lengths == sorted(lengths, reverse=True)


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
