"""The Lightning module for training on completions that the model samples during training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prompt_recovery.backbones.adapters import kept_weights
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.objectives import PolicyGradient, SampledCompletions
from prompt_recovery.recovery.cleaning import clean_prompt
from prompt_recovery.recovery.decoding import uniforms
from prompt_recovery.recovery.mbr import expected_under
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.training.job import Optimisation
from prompt_recovery.training.loading import Batch
from prompt_recovery.training.module import WriterModule
from prompt_recovery.training.sharding import sharded_like
from prompt_recovery.trees import Tree, TreeBatch, causal_lm_of, pack, trees_share_rows
from prompt_recovery.trees.forward import score_completions
from prompt_recovery.trees.frozen import FrozenLayers


@dataclass
class Rollout:
    """Completions that the policy wrote for a batch of prompts.

    Attributes:
        step: The number of the batch in its epoch, repetitions not counted.
        tokens: The token ids of each completion, those of a prompt one after another.
        finished: Whether each of them has come to its end, bool [C].
        rewards: The reward of each, fp32 [C]: its SCS against the true prompt, or its expected SCS
            if that is unknown; 0 for a blank one.
        reference: The log-probability of each token under the reference model, fp32 [N]; None if
            there is no KL penalty.
        old: The same under the policy that wrote them, fp32 [N]; None before the first update.
        expected: Whether the rewards of each prompt are expected ones, since its truth is unknown.
        hidden: The output of the last frozen layer for prompts and completions, once it is known.
    """

    step: int
    tokens: list[list[int]]
    finished: Tensor
    rewards: Tensor
    reference: Tensor | None = None
    old: Tensor | None = None
    expected: list[bool] = field(default_factory=list)
    hidden: Tensor | None = None


class PolicyModule(WriterModule):
    """Trains the adapter of a recoverer with a policy gradient.

    For each batch of prompts, the model samples completions, whose SCS is the reward. The samples
    are a pure function of the weights, the seed, the epoch and the example: they depend neither on
    the other examples of a batch nor on the number of processes, and a resumed run draws the same.

    Args:
        writer: As for `WriterModule`, like the last four arguments.
        objective: The policy gradient.
        examples: The training examples, by their index in the data module.
        scs: The metric, and thereby the reward.
        seed: The seed of the samples.
        optimisation: Optimiser and schedule.
        fingerprint: Fingerprint of data, tokens and backbone.
        max_new_tokens: The largest number of tokens in a sample, and in an answer in validation.
        fallback: The answer to score in validation if the model's answer is empty.
        posteriors: What a retriever believes about the prompts of examples without one, by id: the
            expected SCS under it is the reward.

    Attributes:
        frozen: The layers below the lowest adapter, if there are some that can be skipped. The
            reference model and all updates on the same samples share what these compute.
    """

    def __init__(
        self,
        writer: Writer,
        objective: PolicyGradient,
        examples: Sequence[RewriteExample],
        scs: SCS,
        seed: int,
        optimisation: Optimisation,
        fingerprint: str,
        max_new_tokens: int,
        fallback: str,
        posteriors: Mapping[str, Posterior] | None = None,
    ) -> None:
        super().__init__(writer, scs, optimisation, fingerprint, max_new_tokens, fallback)
        self.objective = objective
        self.examples = examples
        self.scs = scs
        self.seed = seed
        self.posteriors = posteriors or {}
        self._last_rewards = [0.0, 0.0]
        # The reference is what training starts from; a new adapter changes nothing.
        self._start = {n: p.clone() for n, p in self._trained().items()} if objective.beta else {}
        self._rollout: Rollout | None = None
        self.frozen: FrozenLayers | None = None

    @property
    def scores_again(self) -> bool:
        """Whether the same samples are scored more than once."""
        return self.objective.beta > 0 or self.objective.updates > 1

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Returns the loss of one update on a batch, fp32 []."""
        step = batch_index // self.objective.updates
        if self._rollout is None or self._rollout.step != step:
            self._rollout = self._sampled(batch, step)
        rollout = self._rollout
        trees = self._trees(batch, rollout)
        if self._start and rollout.reference is None:
            with torch.no_grad(), self._as_reference():
                rollout.reference = self._scores(trees, rollout)
        tokens = self._scores(trees, rollout)
        if rollout.old is None:
            rollout.old = tokens.detach()
        completions = self._completions(tokens, trees, rollout)
        metrics = self._metrics(completions, rollout)
        return self.log_training(self.objective(completions), metrics, batch)

    def _sampled(self, batch: Batch, step: int) -> Rollout:
        """The policy's completions of a batch of prompts, with their rewards."""
        chosen = [self.examples[i] for i in batch.indices]
        count = self.objective.samples
        rows = self.writer.sample_tokens(
            batch.prompts,
            [1.0] * count,
            uniforms(
                [(self.seed, self.current_epoch, e.id) for e in chosen], count, self.max_new_tokens
            ),
            self.max_new_tokens,
            self._all_done,
        )
        end = [int(self.writer.tokenizer.eos_token_id)]
        samples = [sample for row in rows for sample in row]
        texts = [clean_prompt(self.writer.decoded(sample.tokens)) for sample in samples]
        rewards = self._rewards(texts, [e for e in chosen for _ in range(count)])
        return Rollout(
            step,
            [s.tokens + end * s.finished for s in samples],
            torch.tensor([s.finished for s in samples], device=self.device),
            torch.from_numpy(rewards).to(self.device),
            expected=[e.id in self.posteriors for e in chosen],
        )

    def _rewards(
        self, texts: Sequence[str], examples: Sequence[RewriteExample]
    ) -> NDArray[np.float32]:
        """The reward of each text for its example, fp32 [C]; 0 for a blank one."""
        rewards = np.zeros(len(texts), np.float32)
        said = [i for i, text in enumerate(texts) if text]
        known = [i for i in said if examples[i].id not in self.posteriors]
        rewards[known] = self.scs(
            [texts[i] for i in known], [examples[i].rewrite_prompt for i in known]
        )
        groups: dict[str, list[int]] = {}
        for i in said:
            if examples[i].id in self.posteriors:
                groups.setdefault(examples[i].id, []).append(i)
        for id_, own in groups.items():
            rewards[own] = expected_under([texts[i] for i in own], self.posteriors[id_], self.scs)
        return rewards

    def _trees(self, batch: Batch, rollout: Rollout) -> TreeBatch:
        """Packs each prompt with its completions."""
        count = self.objective.samples
        trees = [
            Tree(prompt, rollout.tokens[i * count : (i + 1) * count])
            for i, prompt in enumerate(batch.prompts)
        ]
        together = trees_share_rows(causal_lm_of(self.model))
        pad = int(self.writer.tokenizer.pad_token_id)
        return pack(trees, pad, together).to(self.device)

    def _scores(self, trees: TreeBatch, rollout: Rollout) -> Tensor:
        """The log-probability of each token of the completions under the model, fp32 [N]."""
        sharing: AbstractContextManager[None] = nullcontext()
        if self.frozen is not None and rollout.hidden is not None:
            sharing = self.frozen.skipped(rollout.hidden)
        elif self.frozen is not None:
            sharing = self.frozen.watched(partial(setattr, rollout, "hidden"))
        with sharing:
            return score_completions(self.model, trees).tokens

    def _completions(
        self, tokens: Tensor, trees: TreeBatch, rollout: Rollout
    ) -> SampledCompletions:
        """What the objective needs, from log-probabilities of the tokens under the model."""
        assert rollout.old is not None
        completions = SampledCompletions(
            tokens,
            rollout.old,
            trees.completion,
            torch.zeros_like(rollout.rewards),
            self.max_new_tokens,
            rollout.reference,
        )
        divergence = torch.zeros_like(rollout.rewards)
        if rollout.reference is not None:
            divergence = completions.sums(rollout.old - rollout.reference)
        advantage = self.objective.advantages(rollout.rewards, divergence)
        return replace(completions, advantage=advantage)

    def _metrics(self, completions: SampledCompletions, rollout: Rollout) -> dict[str, Tensor]:
        groups = rollout.rewards.view(-1, self.objective.samples)
        ratio = (completions.log_probability.detach() - completions.old).exp()
        clipped = ((ratio - 1).abs() > self.objective.clip).float()
        metrics = {
            "train/reward": groups.mean(),
            "train/best_reward": groups.amax(1).mean(),
            "train/reward_deviation": groups.std(1).mean(),
            "train/finished": rollout.finished.float().mean(),
            "train/length": completions.lengths.mean(),
            "train/clipped": completions.means(clipped).mean(),
        }
        if self.posteriors:
            metrics |= self._rewards_told_apart(groups.mean(1), rollout)
        if completions.divergence is not None:
            metrics["train/kl"] = completions.means(completions.divergence.detach()).mean()
        return metrics

    def _rewards_told_apart(self, means: Tensor, rollout: Rollout) -> dict[str, Tensor]:
        """The mean true and expected reward. A batch without one of them repeats the last one."""
        expected = torch.tensor(rollout.expected, device=means.device)
        for kind, chosen in enumerate((means[~expected], means[expected])):
            if len(chosen):
                self._last_rewards[kind] = float(chosen.mean())
        true, estimated = (means.new_tensor(value) for value in self._last_rewards)
        return {"train/true_reward": true, "train/expected_reward": estimated}

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        """Gives the trained weights the values from which training started."""
        self.model.eval()
        with kept_weights(self.model):
            for name, weight in self._trained().items():
                weight.copy_(sharded_like(self._start[name], weight))
            yield
        self.model.train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what every process needs to go on: its samples and its last rewards."""
        super().on_save_checkpoint(checkpoint)
        ours = checkpoint["prompt_recovery"]
        ours["rollouts"] = self.of_all_processes(_state(self._rollout))
        ours["last_rewards"] = self.of_all_processes(self._last_rewards)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of other data, or one between the updates of other processes."""
        super().on_load_checkpoint(checkpoint)
        ours = checkpoint["prompt_recovery"]
        states, rewards = ours["rollouts"], ours.get("last_rewards", [self._last_rewards])
        self._last_rewards = list(rewards[self.trainer.global_rank % len(rewards)])
        if self.objective.updates == 1:
            return
        if len(states) != self.trainer.world_size:
            raise PromptRecoveryError(
                f"the checkpoint was made by {len(states)} processes, which share the samples of a "
                f"batch: with objective.updates={self.objective.updates} resume with as many"
            )
        self._rollout = _restored(states[self.trainer.global_rank], self.device)


def _state(rollout: Rollout | None) -> dict[str, Any] | None:
    """A rollout as tensors on the CPU and plain values, without what is computed again."""
    if rollout is None:
        return None
    values = vars(replace(rollout, hidden=None))
    return {k: v.cpu() if isinstance(v, Tensor) else v for k, v in values.items()}


def _restored(state: dict[str, Any] | None, device: torch.device) -> Rollout | None:
    """What `_state` was made of."""
    if state is None:
        return None
    values: dict[str, Any] = {
        k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()
    }
    return Rollout(**values)
