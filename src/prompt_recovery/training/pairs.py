"""Training on pairs of texts and the embeddings of their prompts: batches and Lightning module."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import Splits
from prompt_recovery.metrics.mean_scs import SCSMetric
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.objectives import Contrastive
from prompt_recovery.recovery.decoding import MBR, Greedy
from prompt_recovery.recovery.retriever import PairEncoder, Retriever, pair_texts, unit
from prompt_recovery.training.datamodule import BatchedData
from prompt_recovery.training.divergence import diverged
from prompt_recovery.training.job import Batching, Optimisation
from prompt_recovery.training.module import TrainedModule


@dataclass
class PairBatch:
    """A batch of b tokenised pairs.

    Attributes:
        features: What the tokenizer makes of the pairs, each int64 [b, t].
        targets: The index of each pair's prompt among the distinct prompts of the training split,
            int64 [b]; -1 in validation.
        examples: The examples of the pairs; empty in training batches.
        real: The first `real` of the pairs are real. The others are fillers, which keep the
            processes of a distributed run in step.
    """

    features: dict[str, Tensor]
    targets: Tensor
    examples: list[RewriteExample]
    real: int

    @property
    def tokens(self) -> int:
        """The number of tokens of the real pairs, without padding."""
        return int(self.features["attention_mask"][: self.real].sum())

    def to(self, device: torch.device | str) -> "PairBatch":
        """Returns the batch with its tensors on another device."""
        features = {name: value.to(device) for name, value in self.features.items()}
        return replace(self, features=features, targets=self.targets.to(device))


class TokenisedPairs:
    """Pairs as the model's tokenizer reads them, shortened to the model's limit.

    Args:
        examples: The pairs.
        model: A `SentenceTransformer`.
    """

    def __init__(self, examples: Sequence[RewriteExample], model: Any) -> None:
        tokenizer = model.tokenizer
        texts = [pair_texts(e) for e in examples]
        rows = texts and tokenizer(
            [rewritten for rewritten, _ in texts],
            [original for _, original in texts],
            truncation="longest_first",
            max_length=model.max_seq_length,
        )
        self.rows: dict[str, list[list[int]]] = dict(rows.items()) if rows else {}
        self.lengths = [len(ids) for ids in self.rows.get("input_ids", [])]
        self.padding = {
            "input_ids": tokenizer.pad_token_id,
            "token_type_ids": tokenizer.pad_token_type_id,
        }

    def features(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The features of some pairs, padded on the right to the longest of them."""
        width = max(self.lengths[i] for i in indices)
        return {
            name: torch.tensor(
                [rows[i] + [self.padding.get(name, 0)] * (width - self.lengths[i]) for i in indices]
            )
            for name, rows in self.rows.items()
        }


@dataclass
class _PairCollator:
    """Makes batches of pairs. It is pickled where workers are started by spawning."""

    pairs: TokenisedPairs
    targets: Sequence[int] | None
    examples: Sequence[RewriteExample] | None

    def __call__(self, indices: list[int]) -> PairBatch:
        chosen = [i if i >= 0 else ~i for i in indices]  # ~i marks a filler, see the sampler
        return PairBatch(
            self.pairs.features(chosen),
            torch.tensor([-1 if self.targets is None else self.targets[i] for i in chosen]),
            [] if self.examples is None else [self.examples[i] for i in chosen],
            sum(i >= 0 for i in indices),
        )


class PairData(BatchedData):
    """Tokenised training and validation pairs as data loaders.

    Args:
        splits: The examples.
        model: The `SentenceTransformer` whose tokenizer reads them.
        prompts: The distinct prompts of the training split.
        batching: Batch sizes.
        seed: Seed of the order of training batches.
    """

    def __init__(
        self,
        splits: Splits,
        model: Any,
        prompts: Sequence[str],
        batching: Batching,
        seed: int,
    ) -> None:
        super().__init__(splits, batching, seed)
        place = {prompt: i for i, prompt in enumerate(prompts)}
        self.targets = [place[e.rewrite_prompt] for e in splits.train]
        self.training = TokenisedPairs(splits.train, model)
        self.validation = TokenisedPairs(splits.val, model)

    def train_dataloader(self) -> DataLoader[PairBatch]:
        """Returns shuffled batches of the training pairs. A resumed epoch skips finished ones."""
        return self.resumable(self._loader(self.training, self.batching.batch_size, shuffle=True))

    def val_dataloader(self) -> DataLoader[PairBatch]:
        """Returns batches of the validation split, longest pairs first."""
        return self._loader(self.validation, self.batching.eval_batch_size, shuffle=False)

    def _loader(
        self, pairs: TokenisedPairs, batch_size: int, shuffle: bool
    ) -> DataLoader[PairBatch]:
        targets, examples = (self.targets, None) if shuffle else (None, self.splits.val)
        collate = _PairCollator(pairs, targets, examples)
        return self.batches(pairs.lengths, batch_size, shuffle, collate)


class RetrieverModule(TrainedModule):
    """Trains the sentence encoder of a retriever.

    Args:
        retriever: The model and the prompts of the training split.
        objective: The loss.
        scs: The metric of validation.
        optimisation: Optimiser and schedule.
        fingerprint: Fingerprint of data, tokens and backbone. A checkpoint with another one is
            refused.
        batching: Batch sizes.
    """

    prompts: Tensor
    similar: Tensor

    def __init__(
        self,
        retriever: Retriever,
        objective: Contrastive,
        scs: SCS,
        optimisation: Optimisation,
        fingerprint: str,
        batching: Batching,
    ) -> None:
        super().__init__(optimisation, fingerprint)
        assert isinstance(retriever.encoder, PairEncoder)
        self.model = retriever.encoder.model
        self.retriever = retriever
        self.objective = objective
        self.scs = scs
        self.batch_size = batching.batch_size
        vectors = torch.from_numpy(retriever.bank.vectors)
        similar = objective.hard_negatives_of(vectors)
        self.register_buffer("prompts", vectors, persistent=False)
        self.register_buffer("similar", similar, persistent=False)
        self.val_scs = SCSMetric(scs)
        self.val_nearest = SCSMetric(scs)
        self.val_cosine = MeanMetric()

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """The predicted embeddings of tokenised pairs, fp32 [b, d], of length 1."""
        low = self.retriever.encoder.dtype == torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            predicted: Tensor = self.model(dict(features))["sentence_embedding"]
        return unit(predicted.float())

    def training_step(self, batch: PairBatch, batch_index: int) -> Tensor:
        """Returns the objective's loss on one batch, fp32 []."""
        predicted = self(batch.features)
        targets = self.prompts[batch.targets]
        losses = self.objective.losses(predicted, targets, self.prompts[self._negatives(batch)])
        loss = losses.mean()
        share = self.share_of_batch(batch.real, batch.tokens)
        metrics = {
            "train/loss": loss.detach(),
            "train/cosine": (predicted * targets).sum(-1).mean().detach(),
        }
        for name, value in metrics.items():
            bar, size = name == "train/loss", max(batch.real, 1)
            self.log(name, value * share, prog_bar=bar, batch_size=size, sync_dist=True)
        return loss * share

    def _negatives(self, batch: PairBatch) -> Tensor:
        """The distinct prompts that are the negatives of a batch, as ascending indices."""
        if self.objective.negatives == "all":
            return torch.arange(len(self.prompts), device=self.device)
        own = batch.targets[: batch.real]
        if self.trainer.world_size > 1:
            padded = own.new_full((self.batch_size,), -1)
            padded[: len(own)] = own
            every = [torch.empty_like(padded) for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather(every, padded)
            own = torch.cat(every)
            own = own[own >= 0]
        return torch.cat([own, self.similar[own].flatten()]).unique()

    def validation_step(self, batch: PairBatch, batch_index: int) -> None:
        """Logs `val/scs` of the answers by MBR, and that of the nearest prompts."""
        predicted = self(batch.features)[: batch.real].cpu().numpy()
        if not np.isfinite(predicted).all():
            raise diverged("the predicted embeddings of validation pairs are not finite")
        truths = [e.rewrite_prompt for e in batch.examples[: batch.real]]
        if truths:
            posteriors = self.retriever.posteriors_of(predicted)
            for decoding, metric in ((MBR(combined=0), self.val_scs), (Greedy(), self.val_nearest)):
                rows = decoding.choose(posteriors, self.scs)
                metric.update([candidates[0].text for candidates in rows], truths)
            right = (predicted * self.scs.encoder.embed(truths)).sum(-1)
            self.val_cosine.update(torch.from_numpy(right))
        options = {"prog_bar": True, "on_epoch": True, "batch_size": max(batch.real, 1)}
        self.log("val/scs", self.val_scs, **options)
        self.log("val/nearest_scs", self.val_nearest, **options)
        self.log("val/cosine", self.val_cosine, **options)
