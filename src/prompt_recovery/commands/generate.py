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
from prompt_recovery.settings.help import Help
from prompt_recovery.templates import Template
from prompt_recovery.terminal import importing


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


_HELP = Help(
    title="make a dataset with a rewriter",
    about="""Has a rewriter (a language model) rewrite original texts according to instructions,
        filters the answers, and writes a dataset that `train` reads, with a card. If the command is
        killed or interrupted, run it again, and it continues where it stopped.""",
    examples=[
        ("A small dataset by SmolLM2, offline, from the texts of the starter dataset:",
         ["rows=20"]),
        ("From texts of your own (column original_text), by Gemma:",
         ["originals=file originals.path=texts.csv rewriter=gemma_7b_it rows=5000"]),
        ("Texts that the rewriter writes itself, with vLLM:",
         ["originals=created rewriter=gemma2_9b_it rewriter/backend=vllm rows=20000"]),
        ("By a model behind an API (the key is $OPENAI_API_KEY):",
         ["rewriter=api rewriter.model.served=gpt-4o-mini"]),
        ("With preferences for the training split, made from scored candidates:",
         ["preferences=sample"]),
        ("Then train on it:",
         ["prompt-recovery train data=file data.path=runs/generate/smollm2_starter"]),
    ],
    settings=[
        "rows", "output", "seed", "instructions.bank", "instructions.composed",
        "instructions.variations", "instructions.near_duplicate_scs", "filters.copy",
        "filters.duplicate_scs", "split.by", "overwrite", "push_to_hub",
        "originals=file:originals.path",
    ],
    read_on=["docs/howto/generate.md", "docs/howto/slurm.md"],
)  # fmt: skip


@command(_HELP)
def generate(config: DictConfig) -> int:
    """Makes a dataset and returns its number of rows."""
    job = job_of(check(config, GenerateSettings))

    with importing():
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
