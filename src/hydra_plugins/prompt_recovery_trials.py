"""Hydra's sweeper, with a name and a folder for the multirun and a table at its end.

Hydra only loads plugins from this namespace. The implementation is in `prompt_recovery.runs`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

import prompt_recovery.runs.resolvers  # noqa: F401  (for launchers' workers, which import plugins alone)


@dataclass
class TrialsConf:
    """`hydra/sweeper=trials`, the default of `train.yaml`."""

    _target_: str = "hydra_plugins.prompt_recovery_trials.Trials"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(
    group="hydra/sweeper", name="trials", node=TrialsConf, provider="prompt-recovery"
)


class Trials(BasicSweeper):
    """Runs a trial for every combination of the swept values."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Names the multirun and prepares its launcher."""
        from prompt_recovery.runs.multirun import group_of
        from prompt_recovery.settings.extras import installation

        arguments = list(config.hydra.overrides.task)
        parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        swept = [
            override.get_key_element()
            for override in parser.parse_overrides(arguments)
            if override.is_sweep_override()
        ]
        with open_dict(config):
            config.group = group_of(
                arguments, swept, config.hydra.runtime.choices.get("experiment")
            )
        try:
            super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        except (ImportError, RuntimeError):
            target = config.hydra.launcher._target_
            extra = next((e for e in ("joblib", "submitit", "ray") if e in target), None)
            if extra is None:
                raise
            name = {"submitit": "slurm", "ray": "hydra_ray"}.get(extra, extra)
            _mend(f"hydra/launcher: is not installed: {installation(name)}")

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the trials and prints a table of their results."""
        from prompt_recovery.errors import PromptRecoveryError
        from prompt_recovery.runs.multirun import summarise
        from prompt_recovery.settings.secrets import redacted

        config: Any = self.config
        # An experiment whose trials are other experiments only names them.
        given = ["group="] + ["+experiment="] * ("+experiment" in (self.params or {}))
        others = [a for a in arguments if not a.startswith(tuple(given))]
        # Hydra writes it to `multirun.yaml`; trials are composed from the arguments.
        config = OmegaConf.create(redacted(OmegaConf.to_yaml(config)))
        self.config = config
        batches: Sequence[Any] = super().sweep([*others, f"group='{config.group}'"])
        returned = [job.return_value for batch in batches for job in batch]
        try:
            summarise(returned, Path(config.hydra.sweep.dir))
        except PromptRecoveryError as error:
            _mend(str(error))
        return batches


def _mend(message: str) -> NoReturn:
    """Prints an error as one line and exits. Hydra would print a traceback."""
    from prompt_recovery.errors import printable

    print(f"error: {printable(message)}", file=sys.stderr)
    raise SystemExit(1) from None
