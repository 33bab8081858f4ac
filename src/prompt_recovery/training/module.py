"""Lightning modules: what all of them share, and the one for objectives over completion trees."""

import math
import random
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.answers import AnswerScores
from prompt_recovery.metrics.mean_scs import SCSMetric
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.objectives import Objective, ScoredCompletions
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.training.divergence import diverged
from prompt_recovery.training.job import Optimisation
from prompt_recovery.training.loading import Batch
from prompt_recovery.training.optimizer import MasterAdamW
from prompt_recovery.training.sharding import FullySharded, gathered, sharded_like
from prompt_recovery.trees import score_completions
from prompt_recovery.trees.frozen import FrozenStates


@dataclass(frozen=True)
class Progress:
    """The contribution to a run's metrics of the training before it was stopped and resumed.

    Attributes:
        seconds: How long it took, without what was lost.
        metrics: Its last metrics.
    """

    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


def train_metrics(trainer: Any) -> dict[str, float]:
    """Returns the last `train/…` metrics that were logged."""
    logged = trainer.callback_metrics.items()
    return {name: float(value) for name, value in logged if name.startswith("train/")}


class TrainedModule(L.LightningModule):
    """What all kinds of training share: the optimiser, exact resumption and small checkpoints.

    A subclass sets `model`, whose parameters with `requires_grad` are trained.

    Args:
        optimisation: Optimiser and schedule.
        fingerprint: Fingerprint of data, tokens and backbone. A checkpoint with another one is
            refused.
    """

    model: Any

    def __init__(self, optimisation: Optimisation, fingerprint: str) -> None:
        super().__init__()
        self.optimisation = optimisation
        self.fingerprint = fingerprint
        self.train_tokens = 0
        self.progress = Progress()
        self._began = time.perf_counter()
        self._random_state: dict[str, Any] | None = None

    def share_of_batch(self, real: int, tokens: int) -> float:
        """Returns real · processes / (real of all processes), which is 1 if the shares are equal.

        Gradients are averaged over processes, but their numbers of examples may differ by one. This
        also adds the tokens of all processes to `train_tokens`.

        Args:
            real: The number of this process's examples in the batch, fillers apart.
            tokens: The number of tokens of these examples.
        """
        total, world = real, self.trainer.world_size
        if world > 1:
            counts = torch.tensor([total, tokens], device=self.device)
            total, tokens = self.trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        self.train_tokens += tokens
        return real * world / total

    def on_fit_start(self) -> None:
        """Starts the clock of the training."""
        self._began = time.perf_counter()

    def configure_optimizers(self) -> Any:
        """Returns AdamW on fp32 masters of the trained weights, and a schedule per step."""
        options = self.optimisation
        optimizer = MasterAdamW(
            [p for p in self.parameters() if p.requires_grad],
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            weight_decay=options.weight_decay,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: options.factor(step, steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Moves gradients to the fp32 masters before they are clipped."""
        getattr(optimizer, "optimizer", optimizer).pull_gradients()

    def trained_weights(self) -> dict[str, Tensor]:
        """Returns the trained weights by their names in this module, as whole tensors.

        If the model is sharded, all processes must call this together.
        """
        return {n: gathered(p) for n, p in self._trained().items()}

    def _trained(self) -> dict[str, Tensor]:
        return {n: p.detach() for n, p in self.named_parameters() if p.requires_grad}

    def load_trained_weights(self, weights: dict[str, Tensor]) -> None:
        """Loads weights that `trained_weights` returned.

        Raises:
            PromptRecoveryError: If their names or shapes differ from the weights that this model
                trains.
        """
        own = self._trained()
        theirs = {name: tuple(w.shape) for name, w in weights.items()}
        if theirs != {name: tuple(w.shape) for name, w in own.items()}:
            raise PromptRecoveryError(
                f"the checkpoint trains {len(theirs)} tensors and this run {len(own)}, or their "
                "shapes differ: resume with the same model and adapter settings"
            )
        for name, weight in own.items():
            weight.copy_(sharded_like(weights[name], weight))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the trained weights only, so that checkpoints do not contain the backbone."""
        return self.trained_weights()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Loads the result of `state_dict`, all of it or nothing."""
        self.load_trained_weights(dict(state_dict))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the fingerprint and the states of every process's random number generators."""
        states = self.of_all_processes(_random_state(self.device))
        checkpoint["prompt_recovery"] = {
            "fingerprint": self.fingerprint,
            "train_tokens": self.train_tokens,
            "seconds": self.progress.seconds + time.perf_counter() - self._began,
            "metrics": self.progress.metrics | train_metrics(self.trainer),
            "random": states,
        }

    def of_all_processes(self, value: Any) -> list[Any]:
        """Returns this value of every process, by rank; all of them must call it."""
        values = [value] * self.trainer.world_size
        if len(values) > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint that was made with other data or another backbone."""
        ours = checkpoint.get("prompt_recovery", {})
        if ours.get("fingerprint") != self.fingerprint:
            raise PromptRecoveryError(
                "the checkpoint was made with other data, template, backbone or adapter settings; "
                "resume with the settings of its run (its config.yaml), or start again without "
                "ckpt_path"
            )
        self.train_tokens = ours["train_tokens"]
        self.progress = Progress(ours.get("seconds", 0.0), dict(ours.get("metrics", {})))
        rank, states = self.trainer.global_rank, ours["random"]
        self._random_state = states[rank % len(states)]

    def on_train_start(self) -> None:
        """Restores the random number generators of a resumed run, last of all."""
        if self._random_state is None:
            return
        state, self._random_state = self._random_state, None
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)
        version, keys, *rest = state["python"]
        random.setstate((version, tuple(keys), *rest))
        name, words, *numpy_rest = state["numpy"]
        np.random.set_state((name, words.numpy().astype(np.uint32), *numpy_rest))


class WriterModule(TrainedModule):
    """Trains the adapter of a language model, and validates what the model writes.

    Args:
        writer: Writer with a `PeftModel`. It also answers greedily in validation.
        scs: The metric of validation.
        optimisation: Optimiser and schedule.
        fingerprint: Fingerprint of data, tokens and backbone. A checkpoint with another one is
            refused.
        max_new_tokens: Maximum number of tokens in an answer in validation.
        fallback: The answer to score if the model's answer is empty.

    Attributes:
        answers: What `AnswerScores` says of the last validation, fp64 [n, 3]; None if the answers
            are not watched.
    """

    def __init__(
        self,
        writer: Writer,
        scs: SCS,
        optimisation: Optimisation,
        fingerprint: str,
        max_new_tokens: int,
        fallback: str,
    ) -> None:
        super().__init__(optimisation, fingerprint)
        self.model = writer.model
        self.writer = writer
        self.max_new_tokens = max_new_tokens
        self.fallback = fallback
        self.val_scs = SCSMetric(scs)
        self.val_nll = MeanMetric()
        self.answers: Tensor | None = None
        self._answer_scores: AnswerScores | None = None
        self.sharded = False

    def watch(self, scs: SCS, second: SCS | None) -> None:
        """Scores the answers in validation one by one, if possible with a second encoder, too."""
        self._answer_scores = AnswerScores(scs, second)

    def configure_model(self) -> None:
        """Shards the model if the strategy is `FullySharded`."""
        strategy = self.trainer.strategy
        if isinstance(strategy, FullySharded) and not self.sharded:
            strategy.shard(self.model)
            self.sharded = True

    def log_training(self, loss: Tensor, metrics: dict[str, Tensor], batch: Batch) -> Tensor:
        """Logs metrics of a training step, and returns the loss as this process's share of it."""
        share = self.share_of_batch(batch.real, batch.trees.tokens if batch.real else 0)
        size = max(batch.real, 1)
        for name, value in {"train/loss": loss.detach(), **metrics}.items():
            bar = name == "train/loss"
            self.log(name, value * share, prog_bar=bar, batch_size=size, sync_dist=True)
        return loss * share

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Logs `val/nll` of the true prompts and `val/scs` of the prompts that the model writes."""
        scores = score_completions(self.model, batch.trees)
        nll = -scores.mean_log_probability[: batch.real]
        if not torch.isfinite(nll).all():  # a `MeanMetric` would leave these out
            raise diverged("the log-probabilities of validation prompts are not finite")
        self.val_nll.update(nll)
        answers = self.writer.write_greedily(batch.prompts, self.max_new_tokens, self._all_done)
        predictions = [answer.text or self.fallback for answer in answers[: batch.real]]
        truths = [e.rewrite_prompt for e in batch.examples[: batch.real]]
        self.val_scs.update(predictions, truths)
        if self._answer_scores is not None:
            self._answer_scores.update(predictions, truths, batch.indices[: batch.real])
        options = {"prog_bar": True, "on_epoch": True, "batch_size": max(batch.real, 1)}
        self.log("val/nll", self.val_nll, **options)
        self.log("val/scs", self.val_scs, **options)

    def on_validation_epoch_end(self) -> None:
        """Logs the mean length of the answers, and their SCS under the second encoder."""
        if self._answer_scores is None:
            return
        self.answers = self._answer_scores.compute()
        self._answer_scores.reset()
        _, second, words = self.answers.mean(0).tolist()
        self.log("val/words", words, sync_dist=True)
        if not math.isnan(second):
            self.log("val/second_scs", second, sync_dist=True)

    def _all_done(self, done: bool) -> bool:
        """Returns whether decoding may stop. A sharded model needs all processes until the end."""
        if not self.sharded:
            return done
        waiting = torch.tensor(float(not done), device=self.device)
        return not float(self.trainer.strategy.reduce(waiting, reduce_op="sum"))


class RecovererModule(WriterModule):
    """Trains the adapter of a recoverer on completion trees that are known before training.

    Args:
        writer: As for `WriterModule`, like all arguments but the objective.
        objective: A function of `ScoredCompletions`.
        scs: The metric of validation.
        optimisation: Optimiser and schedule.
        fingerprint: Fingerprint of data, tokens and backbone.
        max_new_tokens: Maximum number of tokens in an answer in validation.
        fallback: The answer to score if the model's answer is empty.

    Attributes:
        frozen: Hidden states of the training trees below the lowest adapter; None keeps none.
    """

    def __init__(
        self,
        writer: Writer,
        objective: Objective,
        scs: SCS,
        optimisation: Optimisation,
        fingerprint: str,
        max_new_tokens: int,
        fallback: str,
    ) -> None:
        super().__init__(writer, scs, optimisation, fingerprint, max_new_tokens, fallback)
        self.objective = objective
        self.frozen: FrozenStates | None = None

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Returns the objective's loss on one batch, fp32 []."""
        completions = self._scored(batch)
        return self.log_training(self.objective(completions), self._watch(completions), batch)

    def _scored(self, batch: Batch) -> ScoredCompletions:
        with self.frozen.used(batch.trees, batch.indices) if self.frozen else nullcontext():
            scores = score_completions(self.model, batch.trees)
        return ScoredCompletions(
            log_probability=scores.log_probability,
            length=scores.length,
            tree=batch.trees.tree_of_completion,
            reference=batch.reference,
            score=batch.score,
        )

    def _watch(self, completions: ScoredCompletions) -> dict[str, Tensor]:
        """Returns metrics of the preferred completions and their margin over the others."""
        if self.objective.completions == "truth":
            return {}
        first = completions.first
        value = (
            completions.log_probability if completions.reference is None else completions.log_ratio
        ).detach()
        others = torch.ones_like(value, dtype=torch.bool)
        others[first] = False
        margin = value[first][completions.tree[others]] - value[others]
        chosen = completions.mean_log_probability.detach()[first].mean()
        return {
            "train/chosen_log_probability": chosen,
            "train/margin": margin.mean(),
            "train/accuracy": (margin > 0).float().mean(),
        }


def _random_state(device: torch.device) -> dict[str, Any]:
    """Returns the states of this process's random generators, as tensors and plain values.

    Lightning's `_collect_rng_states` is private and returns NumPy arrays. Checkpoints are loaded
    with `torch.load(weights_only=True)`, which refuses them.
    """
    version, keys, *rest = random.getstate()
    name, words, *numpy_rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": [version, list(keys), *rest],
        "numpy": [str(name), torch.from_numpy(np.asarray(words).astype(np.int64)), *numpy_rest],
    }
