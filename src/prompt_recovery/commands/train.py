"""`prompt-recovery train`, which `train.py` also runs."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.commands.failures import in_multirun
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.runs.multirun import run_trial
from prompt_recovery.runs.processes import is_first
from prompt_recovery.runs.trials import end_with_parent, is_trial
from prompt_recovery.settings.checking import check
from prompt_recovery.settings.help import Help
from prompt_recovery.training.job import TrainSettings
from prompt_recovery.training.stages import train_stages

_HELP = Help(
    title="train a recoverer and evaluate it",
    about="""Trains a dense retriever and a language model with an adapter on pairs of texts whose
        prompts are known, and measures their answers on prompts that training has never seen.
        Everything is written to a new folder, runs/train/<date>_<time>_<name>, and runs/latest
        points to it.""",
    examples=[
        ("On the starter dataset, with SmolLM2 and MiniLM, and without Weights & Biases:",
         ["logger=none"]),
        ("On a file of your own (columns id, original_text, rewritten_text and rewrite_prompt):",
         ["data=file data.path=pairs.csv",
          "data=file data.path=other.csv data.columns.id=null data.columns.rewrite_prompt=prompt"]),
        ("Another backbone, only a retriever, or preference optimisation after SFT:",
         ["model=mistral adapter=lora retriever=none",
          "model=minilm objective=contrastive",
          "+experiment=sft_then_dpo"]),
        ("Every combination of values (-m), or continuing the newest unfinished run with the same "
         "settings:",
         ["-m objective=sft,dpo seed=1,2,3", "ckpt_path=last"]),
    ],
    settings=[
        "seed", "trainer.max_epochs", "trainer.max_steps", "batching.batch_size",
        "batching.max_prompt_tokens", "optim.learning_rate", "adapter.rank", "precision", "start",
        "ckpt_path", "first_stage", "rounds", "split.by", "split.train_share", "lead_ins", "name",
        "data=file:data.path",
    ],
    read_on=["docs/howto/data.md", "docs/howto/backbone.md", "docs/howto/ablations.md",
             "experiments/README.md: named experiments (+experiment=<name>) and their results"],
)  # fmt: skip


@command(_HELP)
def train(config: DictConfig) -> Any:
    """Trains a recoverer and returns `val/scs`, which sweepers maximise."""
    if in_multirun():
        return run_trial(config)
    end_with_parent()
    if not is_first():
        logging.getLogger("prompt_recovery").setLevel(logging.ERROR)
    given = check(config, TrainSettings)
    run = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    # If a multirun was killed, its trial may still hold the lock, but is about to end: wait for it.
    with run.begun(wait=is_trial()) if is_first() else nullcontext():
        return train_stages(given, run)
