"""`prompt-recovery generate`: make a dataset."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prompt_recovery.commands.entry import command


@command
def generate(config: DictConfig) -> int:
    """Makes a dataset; returns how many rows it has."""
    from functools import partial

    from hydra.utils import instantiate

    from prompt_recovery.generation.filters import Filters
    from prompt_recovery.generation.generate import generate as make_dataset
    from prompt_recovery.generation.job import GenerationJob, InstructionSettings, SplitSettings

    def made(part: DictConfig) -> Callable[[], Any]:
        """Makes a part where it is needed, in another process of a cluster too."""
        return partial(instantiate, OmegaConf.to_container(part, resolve=True))

    launcher = instantiate(config.cluster)
    originals = instantiate(config.originals)
    template = instantiate(config.template)
    rewriter = launcher.rewriter(made(config.rewriter))
    preferences = None
    if "preferences" in config:
        from prompt_recovery.generation.preferences import Guesser, PreferenceStage

        guesser = Guesser(**{name: instantiate(part) if isinstance(part, DictConfig) else part
                             for name, part in config.candidates.items()})  # fmt: skip
        preferences = PreferenceStage(
            instantiate(config.preferences), guesser, made(config.metric), launcher, config.seed
        )
    job = GenerationJob(
        originals=originals,
        rewriter=rewriter,
        template=template,
        output=Path(config.output).expanduser(),
        instructions=InstructionSettings(**config.instructions),
        filters=Filters(**config.filters),
        split=SplitSettings(**config.split),
        rows=config.rows,
        seed=config.seed,
        chunk=launcher.chunk,
        scs=cache(made(config.metric)),
        preferences=preferences,
        overwrite=config.overwrite,
        push_to_hub=config.push_to_hub,
    )
    try:
        return make_dataset(job).kept
    finally:
        rewriter.close()
