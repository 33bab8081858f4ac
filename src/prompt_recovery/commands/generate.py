"""`prompt-recovery generate`: make a dataset."""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.generation.cluster import Cluster
from prompt_recovery.generation.job import GenerationJob, GenerationOptions, Guessing
from prompt_recovery.generation.originals import CreatedOriginals, Originals
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.preferences import Preferences
from prompt_recovery.rewriters import Rewriter
from prompt_recovery.settings import LocalPath
from prompt_recovery.settings.checking import check, make
from prompt_recovery.templates import Template


@dataclass(kw_only=True, frozen=True)
class GenerateSettings(GenerationOptions):
    """The settings in `conf/generate.yaml`, which also chooses its groups.

    Attributes:
        name: Name of the dataset.
        output: Output folder. Running the same settings again resumes an unfinished dataset.
        originals: The texts, or how to create them.
        rewriter: The rewriter that answers the requests.
        template: The rewrite template.
        cluster: Where the work is done.
        preferences: Settings of preferences for the training split. None makes none.
        metric: The metric that scores candidates.
        candidates: The model whose guesses at the prompts become candidates.
    """

    name: str
    output: LocalPath
    originals: Originals | CreatedOriginals
    rewriter: Rewriter
    template: Template
    cluster: Cluster
    preferences: Preferences | None = None
    metric: SCS
    candidates: Guessing


@command
def generate(config: DictConfig) -> int:
    """Makes a dataset and returns its number of rows."""
    job = job_of(check(config, GenerateSettings))

    from prompt_recovery.generation.generate import generate as make_dataset

    try:
        return make_dataset(job).kept
    finally:
        job.rewriter.close()


def job_of(config: dict[str, Any]) -> GenerationJob:
    """The job that checked settings ask for; workers make their own rewriter and metric."""
    given: Any = make(config, GenerateSettings, late=("rewriter", "metric"))
    stage = None
    if given.preferences is not None:
        from prompt_recovery.generation.preferences import Guesser, PreferenceStage

        guesser = Guesser(**vars(given.candidates))
        stage = PreferenceStage(given.preferences, guesser, given.metric, given.cluster, given.seed)
    return GenerationJob(
        originals=given.originals,
        rewriter=given.cluster.rewriter(given.rewriter),
        template=given.template,
        output=Path(given.output).expanduser(),
        chunk=given.cluster.chunk,
        scs=cache(given.metric),
        preferences=stage,
        **{f.name: getattr(given, f.name) for f in fields(GenerationOptions)},
    )
