"""The Lightning data module: examples in, batches of completion trees out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from prompt_recovery.data.batches import TokenBudgetSampler
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import Splits
from prompt_recovery.data.tokens import TokenisedExample, tokenise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.templates import Template
from prompt_recovery.trees import Tree, TreeBatch, pack


@dataclass(frozen=True)
class Batching:
    """How examples become batches.

    Attributes:
        batch_size: most examples in a training batch (per process, before accumulation).
        batch_tokens: most tokens in a batch, padding included.
        eval_batch_size: most examples in an evaluation batch.
        max_prompt_tokens: longer recovery prompts have the middle of their texts cut out.
        workers: processes that prepare batches; 0 is fast enough for most.
    """

    batch_size: int = 8
    batch_tokens: int = 8192
    eval_batch_size: int = 32
    max_prompt_tokens: int = 1024
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "batch_tokens", "eval_batch_size", "max_prompt_tokens"):
            if getattr(self, name) < 1:
                raise PromptRecoveryError(f"batching.{name}={getattr(self, name)}: must be ≥ 1")


@dataclass
class Batch:
    """Trees with one completion each, the truth, and the examples they came from, in order."""

    trees: TreeBatch
    prompts: list[list[int]]
    examples: list[RewriteExample]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on another device."""
        return Batch(self.trees.to(device), self.prompts, self.examples)


class RecoveryData(L.LightningDataModule):
    """Tokenised splits as data loaders.

    Args:
        splits: the examples.
        template: the recovery template.
        tokenizer: the backbone's.
        batching: sizes.
        seed: of the order of training batches.
    """

    def __init__(
        self, splits: Splits, template: Template, tokenizer: Any, batching: Batching, seed: int
    ) -> None:
        super().__init__()
        self.splits = splits
        self.batching = batching
        self.seed = seed
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.tokens: dict[str, list[TokenisedExample]] = {
            name: tokenise(examples, template, tokenizer, batching.max_prompt_tokens)
            for name, examples in (("train", splits.train), ("val", splits.val))
        }

    def cut_characters(self) -> dict[str, tuple[int, int]]:
        """By split: how many prompts were shortened, and by how many characters in all."""
        return {
            name: (sum(r.cut_characters > 0 for r in rows), sum(r.cut_characters for r in rows))
            for name, rows in self.tokens.items()
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of the training split; goes on where a resumed epoch stood."""
        loader = self._loader("train", self.splits.train, self.batching.batch_size, shuffle=True)
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        loader.batch_sampler.first_batch = lambda: progress.ready  # type: ignore[union-attr]
        return loader

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation split, longest prompts first."""
        return self._loader("val", self.splits.val, self.batching.eval_batch_size, shuffle=False)

    def _loader(
        self, name: str, examples: Sequence[RewriteExample], batch_size: int, shuffle: bool
    ) -> DataLoader[Batch]:
        rows = self.tokens[name]
        sampler = TokenBudgetSampler(
            [len(r.prompt) + len(r.completion) for r in rows],
            batch_size,
            self.batching.batch_tokens,
            shuffle,
            self.seed,
            self.trainer.global_rank if self.trainer else 0,
            self.trainer.world_size if self.trainer else 1,
        )

        def collate(indices: list[int]) -> Batch:
            trees = [Tree(rows[i].prompt, [rows[i].completion]) for i in indices]
            return Batch(
                pack(trees, self.pad_token_id),
                [rows[i].prompt for i in indices],
                [examples[i] for i in indices],
            )

        return DataLoader(
            range(len(rows)),  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.batching.workers,
            generator=torch.Generator(),  # its own, so that loaders leave the global one alone
        )
