"""The command `prompt-recovery`, and what `train.py` runs."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prompt_recovery.errors import PromptRecoveryError

_HELP = """\
usage: prompt-recovery <command> [group=option] [key=value] …

  train     train a recoverer and evaluate it        prompt-recovery train model=mistral

prompt-recovery <command> --help       groups and options
prompt-recovery <command> --cfg job    everything a run will do
"""


def config_folder() -> Path:
    """The Hydra configuration: in the wheel, or beside `src/` in a checkout."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf"


def one_line_errors(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Prints what a user can mend as one line, and exits with 1; Ctrl-C exits with 130.

    `PROMPT_RECOVERY_TRACEBACK=1` shows tracebacks.
    """

    @wraps(task)
    def run(config: DictConfig) -> Any:
        try:
            return task(config)
        except KeyboardInterrupt:
            print("interrupted; go on with ckpt_path=last", file=sys.stderr)
            raise SystemExit(130) from None
        except (PromptRecoveryError, OmegaConfBaseException, InstantiationException) as raised:
            # Hydra wraps what the constructors of a configuration raise.
            wrapped = isinstance(raised, InstantiationException)
            error = raised.__cause__ if wrapped else raised
            if os.environ.get("PROMPT_RECOVERY_TRACEBACK") or (
                wrapped and not isinstance(error, PromptRecoveryError)
            ):
                raise
            message = " ".join(str(error).split("\n    full_key:")[0].split())
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(1) from None

    return run


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="train")
@one_line_errors
def train(config: DictConfig) -> float:
    """Trains a recoverer; returns `val/scs`, which sweepers maximise."""
    # What can fail fails here, before torch and its friends take their seconds to import.
    from hydra.utils import instantiate

    from prompt_recovery.backbones.locate import locate
    from prompt_recovery.data.splits import split

    folder = Path(HydraConfig.get().runtime.output_dir)
    resume = _checkpoint(config.ckpt_path, folder)
    backbone = instantiate(config.model)
    locate(backbone)
    dataset = instantiate(config.data)
    splits = split(dataset, **config.split)
    scs = instantiate(config.metric)

    from prompt_recovery.data.datamodule import Batching
    from prompt_recovery.training.module import Optimisation
    from prompt_recovery.training.run import TrainingJob
    from prompt_recovery.training.run import train as run_training

    resolved = OmegaConf.to_container(config, resolve=True)
    job = TrainingJob(
        dataset=dataset,
        splits=splits,
        template=instantiate(config.template),
        backbone=backbone,
        adapter=instantiate(config.adapter),
        objective=instantiate(config.objective),
        scs=scs,
        batching=Batching(**config.batching),
        optim=Optimisation(**config.optim),
        decoding=instantiate(config.decoding),
        trainer=dict(config.trainer),
        folder=folder,
        precision=config.precision,
        seed=config.seed,
        logger=config.logger.kind,
        project=config.logger.project,
        name=config.name,
        tags=list(config.tags),
        log_adapter=config.logger.log_adapter,
        checkpoint_minutes=config.checkpoint_minutes,
        ckpt_path=resume,
        config=resolved,  # type: ignore[arg-type]
    )
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(resolved), folder / "config.yaml")
    _point_latest_at(folder)
    return run_training(job)["val/scs"]


def main() -> None:
    """`prompt-recovery <command> …`."""
    commands = {"train": train}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        asked = len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help")
        print(_HELP if asked else f"error: unknown command '{sys.argv[1]}'\n\n{_HELP}", end="")
        raise SystemExit(0 if asked else 2)
    command = sys.argv.pop(1)
    sys.argv[0] = f"prompt-recovery {command}"
    commands[command]()


def _checkpoint(ckpt_path: str | None, folder: Path) -> str | None:
    """The checkpoint file that `ckpt_path` means; `last` is the newest run's that has one."""
    if ckpt_path is None:
        return None
    if ckpt_path != "last":
        path = Path(ckpt_path).expanduser()
        if not path.is_file():
            raise PromptRecoveryError(f"ckpt_path={ckpt_path}: no such file")
        return str(path)
    found = sorted(p for p in folder.parent.glob("*/checkpoints/last.ckpt") if p.is_file())
    if not found:
        raise PromptRecoveryError(
            f"ckpt_path=last: no run in {folder.parent} has left a checkpoint; start without it"
        )
    return str(found[-1])


def _point_latest_at(folder: Path) -> None:
    """Makes `runs/latest` a link to a run, where links can be made."""
    runs = next((p for p in folder.parents if p.name == "runs"), None)
    if runs is None:
        return
    link, fresh = runs / "latest", runs / f".latest.{os.getpid()}"
    try:
        fresh.symlink_to(folder.resolve(), target_is_directory=True)
        fresh.replace(link)
    except OSError:
        fresh.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
