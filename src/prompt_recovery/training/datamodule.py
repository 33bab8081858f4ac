"""The Lightning data module, which makes batches of completion trees from examples."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import lightning as L
import torch
from torch.utils.data import DataLoader

from prompt_recovery.data.batches import TokenBudgetSampler
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import Splits
from prompt_recovery.data.tokens import (
    TokenisedExample,
    completion_tokens,
    given_prompt_tokens,
    tokenise,
    without_end,
)
from prompt_recovery.templates import Template
from prompt_recovery.training.job import Batching
from prompt_recovery.training.loading import Batch, Indices, TrainingTrees, TreeCollator


class PreferenceRow(Protocol):
    """The interface of `preferences.PreferenceExample`: a prompt, completions and scores."""

    @property
    def id(self) -> str:
        """Id of the rewrite example, or empty."""
        ...

    @property
    def prompt(self) -> str | list[dict[str, str]]:
        """Chat messages or a text."""
        ...

    @property
    def completions(self) -> tuple[str, ...]:
        """Two or more completions, best first."""
        ...

    @property
    def scores(self) -> tuple[float, ...]:
        """SCS of each completion, or NaN if unknown."""
        ...


def preference_trees(
    preferences: Sequence[PreferenceRow],
    examples: Sequence[RewriteExample],
    template: Template,
    tokenizer: Any,
    max_prompt_tokens: int,
) -> TrainingTrees:
    """Tokenises preferences.

    If a preference has the id of an example, its prompt is rendered again from the example's texts
    with the template. Otherwise, its own prompt is used.
    """
    by_id = {e.id: e for e in examples}
    known = [p for p in preferences if p.id in by_id]
    rows = iter(
        tokenise(
            [by_id[p.id] for p in known],
            template,
            tokenizer,
            max_prompt_tokens,
            [p.completions for p in known],
        )
    )
    ordered = []
    for preference in preferences:
        if preference.id in by_id:
            ordered.append(next(rows))
            continue
        ids, cut = given_prompt_tokens(preference.prompt, tokenizer, max_prompt_tokens)
        answers = [
            completion_tokens(without_end(text, tokenizer), tokenizer)
            for text in preference.completions
        ]
        ordered.append(TokenisedExample(preference.id, ids, answers, cut))
    return TrainingTrees(ordered, [p.scores for p in preferences])


class BatchedData(L.LightningDataModule):
    """Data in batches of similar length, which the processes of a distributed run share.

    Args:
        splits: The examples.
        batching: Batch sizes.
        seed: Seed of the order of training batches.
    """

    def __init__(self, splits: Splits, batching: Batching, seed: int) -> None:
        super().__init__()
        self.splits = splits
        self.batching = batching
        self.seed = seed

    def resumable(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """Returns the loader of training batches, which skips the finished ones of an epoch."""
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        loader.batch_sampler.first_batch = lambda: progress.ready  # type: ignore[union-attr]
        return loader

    def batches(
        self,
        lengths: Sequence[int],
        batch_size: int,
        shuffle: bool,
        collate: Callable[[list[int]], Any],
        groups: Sequence[Hashable] | None = None,
        repeats: int = 1,
    ) -> DataLoader[Any]:
        """Returns a loader of batches.

        Args:
            lengths: The length of each row, in tokens.
            batch_size: The largest number of rows in a batch.
            shuffle: Whether batches come in random order; otherwise, longest rows come first.
            collate: Makes a batch of the indices of its rows; ~i stands for row i as a filler, see
                `TokenBudgetSampler`.
            groups: The group of each row. Rows of a group are neighbours in shuffled batches.
            repeats: How many times in a row each batch is yielded.
        """
        sampler = TokenBudgetSampler(
            lengths,
            batch_size,
            self.batching.batch_tokens,
            shuffle,
            self.seed,
            self.trainer.global_rank if self.trainer else 0,
            self.trainer.world_size if self.trainer else 1,
            groups,
            repeats,
        )
        return DataLoader(
            Indices(len(lengths)),  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.batching.workers,
            generator=torch.Generator(),  # so that loaders do not use the global generator
        )


class RecoveryData(BatchedData):
    """Tokenised training trees and validation examples as data loaders.

    Args:
        splits: The examples.
        template: The recovery template.
        tokenizer: The backbone's tokenizer.
        batching: Batch sizes.
        seed: Seed of the order of training batches.
        training: The training data. None trains on the true prompts of the training split.
        together: Whether the trees of a batch share one row.
        sampled_tokens: The number of tokens that the model may write for each training prompt.
        updates: The number of optimiser steps on each training batch.
    """

    def __init__(
        self,
        splits: Splits,
        template: Template,
        tokenizer: Any,
        batching: Batching,
        seed: int,
        training: TrainingTrees | None = None,
        together: bool = False,
        sampled_tokens: int = 0,
        updates: int = 1,
    ) -> None:
        super().__init__(splits, batching, seed)
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.together = together
        self.sampled_tokens = sampled_tokens
        self.updates = updates
        limit = batching.max_prompt_tokens
        self.training = training or TrainingTrees(
            tokenise(splits.train, template, tokenizer, limit)
        )
        self.validation = TrainingTrees(tokenise(splits.val, template, tokenizer, limit))

    def cut_characters(self) -> dict[str, tuple[int, int]]:
        """Returns, by split, how many prompts were shortened, and the total of cut characters."""
        return {
            name: (
                sum(r.cut_characters > 0 for r in part.rows),
                sum(r.cut_characters for r in part.rows),
            )
            for name, part in (("train", self.training), ("val", self.validation))
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns shuffled batches of the training trees. A resumed epoch skips finished ones."""
        size = self.batching.batch_size
        return self.resumable(self._loader(self.training, [], size, shuffle=True))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Returns batches of the validation split, longest prompts first."""
        size = self.batching.eval_batch_size
        return self._loader(self.validation, self.splits.val, size, shuffle=False)

    def _loader(
        self,
        part: TrainingTrees,
        examples: Sequence[RewriteExample],
        batch_size: int,
        shuffle: bool,
    ) -> DataLoader[Batch]:
        collate = TreeCollator(part, part.trees(), examples, self.pad_token_id, self.together)
        if shuffle:
            lengths = [len(tree) + self.sampled_tokens for tree in collate.trees]
            groups = self._originals(part)
            return self.batches(lengths, batch_size, True, collate, groups, self.updates)
        lengths = [len(tree) for tree in collate.trees]
        return self.batches(lengths, batch_size, False, collate)

    def _originals(self, part: TrainingTrees) -> list[str] | None:
        """The original text of each row, if rows share the work on their common beginning."""
        if not (self.together and self.batching.group_originals):
            return None
        texts = {e.id: e.original_text for e in self.splits.train}
        return [texts.get(row.id, row.id) for row in part.rows]
