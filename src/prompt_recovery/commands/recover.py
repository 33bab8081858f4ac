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
    """Settings of the recoverer for `recover` and `app`.

    Attributes:
        run: A run or an adapter folder, or a list of them to use as an ensemble. `latest` is the
            newest run in runs/, and `shipped` the recoverer that comes with the package. None takes
            `latest` or, if there is no run, `shipped`.
        decoding: How answers are chosen. None uses the decoding of the run.
        weights: Weights of several runs, such as [2,1]. None weights them equally.
    """

    run: RunNames | None = None
    decoding: Decoding | None = None
    weights: Sequence[Positive] | None = None

    def recipe(self) -> Recipe:
        """Returns the recipe of these settings, with the run folders found."""
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
