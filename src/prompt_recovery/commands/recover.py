"""`prompt-recovery recover`: find the prompts of pairs of texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.pairs import PairColumns
from prompt_recovery.recovery.recipe import Recipe, RecipeOptions, RunNames
from prompt_recovery.runs.folder import run_folders
from prompt_recovery.settings import LocalPath, Positive
from prompt_recovery.settings.checking import check, make


@dataclass(kw_only=True, frozen=True)
class AnswererSettings(RecipeOptions):
    """What answers, for `recover` and `app`.

    Attributes:
        run: a run or an adapter folder, or a list of them that choose together; `latest` is the
            newest run below runs/.
        decoding: how answers are chosen; None is as the run did.
        weights: how much each of several runs counts, such as [2,1]; None is alike.
    """

    run: RunNames = "latest"
    decoding: Decoding | None = None
    weights: Sequence[Positive] | None = None

    def recipe(self) -> Recipe:
        """With the folders found."""
        options = {f.name: getattr(self, f.name) for f in fields(RecipeOptions)}
        return Recipe(run_folders(self.run), self.decoding, list(self.weights or []), **options)


@dataclass(kw_only=True, frozen=True)
class RecoverSettings(AnswererSettings):
    """The settings of `conf/recover.yaml`.

    Attributes:
        input: pairs to recover: CSV, JSONL or Parquet, also .csv.gz and .jsonl.gz.
        output: .csv is id,rewrite_prompt; .jsonl and .parquet also have candidates and confidence.
        original: or, in place of a file, one text.
        rewritten: and what a model made of it.
        columns: what the input calls its columns; columns.id=null numbers the rows from 0.
        threshold: where the expected SCS is lower, the mean prompt answers.
    """

    input: LocalPath | None = None
    output: LocalPath = "submission.csv"
    original: str | None = None
    rewritten: str | None = None
    columns: PairColumns = field(default_factory=PairColumns)
    threshold: float | None = None


@command
def recover(config: DictConfig) -> None:
    """Recovers the prompts of a file of pairs, or of one pair."""
    given = make(check(config, RecoverSettings), RecoverSettings)
    recipe = given.recipe()

    from prompt_recovery.recovery.job import recover as recover_prompts

    recover_prompts(job_of(given, recipe))


def job_of(given: RecoverSettings, recipe: Recipe) -> Any:
    """The job that settings ask for."""
    from prompt_recovery.recovery.job import RecoveryJob

    return RecoveryJob(
        recipe=recipe,
        input=None if given.input is None else Path(given.input),
        output=Path(given.output),
        columns=given.columns,
        original=given.original,
        rewritten=given.rewritten,
        threshold=given.threshold,
    )
