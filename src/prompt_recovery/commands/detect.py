"""`prompt-recovery detect`: how likely an LLM rewrote a text."""

from dataclasses import dataclass, fields

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.detection.job import DetectionJob, DetectionOptions, run_detection
from prompt_recovery.recovery.recipe import Recipe, RunNames
from prompt_recovery.runs.folder import named_runs
from prompt_recovery.settings.checking import check, make


@dataclass(kw_only=True, frozen=True)
class DetectSettings(DetectionOptions):
    """The settings of `conf/detect.yaml`.

    Attributes:
        run: A run, an adapter or a retriever folder that finds the likeliest prompts of pairs.
    """

    run: RunNames | None = None

    def __post_init__(self) -> None:
        self.refuse_contradictions(self.run is not None)


@command
def detect(config: DictConfig) -> None:
    """Judges a text, a pair or a file of them."""
    given: DetectSettings = make(check(config, DetectSettings), DetectSettings)
    recipe = None if given.run is None else Recipe(named_runs(given.run), confidence=False)
    options = {f.name: getattr(given, f.name) for f in fields(DetectionOptions)}
    run_detection(DetectionJob(**options, recipe=recipe))
