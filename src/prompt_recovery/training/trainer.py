"""The options of the Lightning trainer, fitted to this machine and checked before a model is
loaded."""

import logging
import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.objectives import PolicyGradient
from prompt_recovery.runs.processes import fitting
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.sharding import FullySharded

log = logging.getLogger(__name__)


def usable_options(job: TrainingJob) -> dict[str, Any]:
    """Returns the options of `lightning.Trainer` for this machine and the processes of this run.

    Raises:
        PromptRecoveryError: If there is no such device, or Lightning refuses the options or what
            the environment says about other processes.
    """
    options = fitting(job.trainer)
    options = {**options, "accelerator": _accelerator(options.get("accelerator", "auto"))}
    _require_validation(job, options)
    try:
        L.Trainer(
            **with_strategy(options),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except Exception as error:  # of many types, some of them Python's own
        advice = ""
        if "SLURM" in str(error):
            advice = "; start it with srun, or unset SLURM_NTASKS"
        raise PromptRecoveryError(
            f"trainer: Lightning says: {first_line(error)}{advice}"
        ) from error
    return options


def with_strategy(options: dict[str, Any]) -> dict[str, Any]:
    """The options with this package's strategy in place of the name `fsdp`."""
    sharded = options.get("strategy") == "fsdp"
    return options | ({"strategy": FullySharded()} if sharded else {})


def _accelerator(wanted: str) -> str:
    """The accelerator to use: CUDA if it is there, otherwise the CPU.

    Apple's GPUs are not used, because they have no 64-bit floats, in which metrics are summed and
    answers are sampled.
    """
    if torch.cuda.is_available():
        return "cuda" if wanted in ("auto", "gpu") else wanted
    if wanted in ("gpu", "cuda"):
        raise PromptRecoveryError(
            f"trainer.accelerator={wanted}: there is no CUDA GPU here; use trainer=cpu"
        )
    return "cpu" if wanted == "auto" else wanted


def _require_validation(job: TrainingJob, options: dict[str, Any]) -> None:
    """Refuses an interval that is longer than an epoch, in which there would be no validation."""
    interval, most = _batches_between(options), _batches_at_most(job, options)
    if interval is not None and most is not None and interval > most:
        raise PromptRecoveryError(
            f"trainer.val_check_interval={interval}: an epoch has {most} batches at most; give a "
            "smaller number, or a share of an epoch such as 1.0"
        )


def _batches_between(options: dict[str, Any]) -> int | None:
    """The number of batches between validations, where those of an epoch are counted."""
    interval = options.get("val_check_interval")
    of_an_epoch = options.get("check_val_every_n_epoch", 1) is not None
    validates = options.get("limit_val_batches") != 0
    return interval if type(interval) is int and of_an_epoch and validates else None


def _batches_at_most(job: TrainingJob, options: dict[str, Any]) -> int | None:
    """An upper limit of the batches in an epoch, or None if it isn't known yet.

    It depends on preferences, and on how many unlabelled pairs are usable.
    """
    if job.unlabelled.path is not None:
        return None
    if not job.trains_retriever and getattr(job.objective, "completions", "truth") != "truth":
        return None
    batching, rows = job.batching, len(job.splits.train)
    devices, nodes = options.get("devices", 1), options.get("num_nodes", 1)
    processes = devices * nodes if isinstance(devices, int) and devices > 0 else 1
    # A byte is never more than one token.
    longest = max((len(e.rewrite_prompt.encode()) + 2 for e in job.splits.train), default=0)
    updates = 1
    if isinstance(job.objective, PolicyGradient):
        longest += job.objective.samples * job.decoding.max_new_tokens
        updates = job.objective.updates
    if batching.batch_size * (batching.max_prompt_tokens + longest) > batching.batch_tokens:
        return rows * updates
    return math.ceil(rows / (batching.batch_size * processes)) * updates


class ValidationInEachEpoch(Callback):
    """Validates at the end of each epoch if these turn out to be shorter than the interval.

    How many batches an epoch has is known only once its texts are tokens and, for preferences, once
    they are sampled. An error would come after all that work.
    """

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Looks at the batches before Lightning does, which would raise an error."""
        interval = trainer.val_check_interval
        of_an_epoch = type(interval) is int and trainer.check_val_every_n_epoch is not None
        if stage != "fit" or not of_an_epoch or trainer.limit_val_batches == 0:
            return
        batches = len(trainer.datamodule.train_dataloader())
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if type(limit) is int else int(batches * limit)
        if interval > batches:
            log.warning(
                "trainer.val_check_interval=%d: an epoch has only %d batches: validation comes at "
                "the end of each",
                interval,
                batches,
            )
            trainer.val_check_interval = 1.0
