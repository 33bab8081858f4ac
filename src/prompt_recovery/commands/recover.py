"""`prompt-recovery recover`: find the prompts of pairs of texts."""

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
        return Recipe(named_runs(self.run), self.decoding, list(self.weights or []), **options)


@dataclass(kw_only=True, frozen=True)
class RecoverSettings(RecoveryOptions, AnswererSettings):
    """The settings of `conf/recover.yaml`."""

    def __post_init__(self) -> None:
        self.refuse_contradictions(self.confidence)


@command
def recover(config: DictConfig) -> None:
    """Recovers the prompts of a file of pairs, or of one pair."""
    given: RecoverSettings = make(check(config, RecoverSettings), RecoverSettings)
    recipe = given.recipe()

    from prompt_recovery.recovery.job import RecoveryJob
    from prompt_recovery.recovery.job import recover as recover_prompts

    options = {f.name: getattr(given, f.name) for f in fields(RecoveryOptions)}
    recover_prompts(RecoveryJob(recipe, **options))
