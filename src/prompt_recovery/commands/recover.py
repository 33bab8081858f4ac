"""`prompt-recovery recover`: find the prompts of pairs of texts."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.pairs import RecoveryOptions
from prompt_recovery.recovery.recipe import Recipe, RecipeOptions, RunNames
from prompt_recovery.runs.folder import named_runs
from prompt_recovery.settings import Positive
from prompt_recovery.settings.checking import check, make
from prompt_recovery.settings.help import Help
from prompt_recovery.terminal import importing

log = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True)
class AnswererSettings(RecipeOptions):
    """Settings of the recoverer for `recover` and `app`.

    Attributes:
        run: A run, an adapter or a retriever folder, or a list of them to use as an ensemble.
            `latest` is the run in runs/ that was started last, and `shipped` the recoverer that
            comes with the package. None takes `latest` or, if there is no run, `shipped`.
        decoding: How answers are chosen. None uses the decoding of the run.
        weights: Weights of several runs, such as [2,1]. None weights them equally.
    """

    run: RunNames | None = None
    decoding: Decoding | None = None
    weights: Sequence[Positive] | None = None

    def recipe(self) -> Recipe:
        """Returns the recipe of these settings, with the run folders found.

        Raises:
            PromptRecoveryError: If the runs cannot answer in this way.
        """
        options = {f.name: getattr(self, f.name) for f in fields(RecipeOptions)}
        runs = named_runs(self.run)
        recipe = Recipe(runs, self.decoding, list(self.weights or []), **options)
        recipe.require_answers()
        return recipe


@dataclass(kw_only=True, frozen=True)
class RecoverSettings(RecoveryOptions, AnswererSettings):
    """The settings of `conf/recover.yaml`."""

    def __post_init__(self) -> None:
        self.refuse_contradictions(self.confidence)


_HELP = Help(
    title="find the prompts of pairs of texts",
    about="""Answers each pair of an original and a rewritten text with the prompt that a trained
        run expects to be closest to the true one. If the command is killed or interrupted, run it
        again, and it continues.""",
    examples=[
        ("A file of pairs (columns id, original_text, rewritten_text). The run that was started "
         "last answers, even if it is unfinished. If there is none, or with run=shipped, the "
         "recoverer that comes with the package answers:",
         ["input=test.csv output=submission.csv",
          "run=shipped input=test.csv output=submission.csv"]),
        ("The same, with the expected SCS of each answer and with all candidates and their scores "
         "(.jsonl or .parquet):", ["input=test.csv output=answers.jsonl"]),
        ("One pair. The texts are taken as they are, and the alternatives are printed, too:",
         ['original="It rained." rewritten="Arr, the sky be weepin\'!"']),
    ],
    notes="""
        Common variations
          decoding=choice                            also weighs other features of the candidates
          decoding.samples=32                        more samples: better, slower
          run=[runs/train/a,runs/train/b]            several recoverers choose together
          channel=rewriter                           a rewriter model also ranks the candidates
          explain=true                               which words of the texts support the answer
          columns.id=null columns.original_text=before    no ids; another name of a column
    """,
    settings=["run", "input", "output", "decoding.samples", "threshold", "confidence", "bank",
              "measures", "explain", "weights", "backbone_path", "precision"],
    read_on=["docs/howto/recover.md", "docs/howto/shipped.md", "docs/howto/explain.md",
             "docs/howto/kaggle.md", "docs/concepts/mbr.md", "docs/concepts/retriever.md"],
)  # fmt: skip


@command(_HELP)
def recover(config: DictConfig) -> None:
    """Recovers the prompts of a file of pairs, or of one pair."""
    given: RecoverSettings = make(check(config, RecoverSettings), RecoverSettings)
    recipe, pairs = given.recipe(), given.pairs()
    log.info("loading %s", " and ".join(map(str, recipe.runs)))

    with importing():
        from prompt_recovery.recovery.job import RecoveryJob
        from prompt_recovery.recovery.job import recover as recover_prompts

    options = {f.name: getattr(given, f.name) for f in fields(RecoveryOptions)}
    recover_prompts(RecoveryJob(recipe, **options), pairs)
