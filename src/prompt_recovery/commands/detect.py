"""`prompt-recovery detect`: how likely it is that an LLM rewrote a text."""

from dataclasses import dataclass, fields

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.detection.job import DetectionJob, DetectionOptions, run_detection
from prompt_recovery.recovery.recipe import Recipe, RunNames
from prompt_recovery.runs.folder import named_runs
from prompt_recovery.settings.checking import check, make
from prompt_recovery.settings.help import Help


@dataclass(kw_only=True, frozen=True)
class DetectSettings(DetectionOptions):
    """The settings of `conf/detect.yaml`.

    Attributes:
        run: A run, an adapter or a retriever folder that finds the likeliest prompts of pairs.
    """

    run: RunNames | None = None

    def __post_init__(self) -> None:
        self.refuse_contradictions(self.run is not None)


_HELP = Help(
    title="how likely it is that an LLM rewrote a text (extra [measures])",
    about="""Judges single texts, or pairs of an original and a rewritten text, with a calibrated
        probability. The answer may also be "cannot tell": for texts of fewer than 30 words, for
        texts unlike those that the detector was trained on, and if neither answer is certain
        enough.""",
    examples=[
        ("A file of pairs (columns id, original_text, rewritten_text), or of single texts, about "
         "which much less can be said:",
         ["input=pairs.csv output=verdicts.jsonl",
          "input=texts.csv columns.original_text=null"]),
        ("One pair, or one text, taken as it is:",
         ['original="It rained." rewritten="Arr, the sky be weepin\'!"',
          'text="Arr, the sky be weepin\'!"']),
        ("A detector that is trained on your own examples:",
         ["train=detector.json examples=pairs.jsonl",
          "detector=detector.json input=pairs.csv"]),
    ],
    settings=["input", "output", "certainty", "detector", "train", "examples", "run"],
    read_on=["docs/howto/detect.md"],
)  # fmt: skip


@command(_HELP)
def detect(config: DictConfig) -> None:
    """Judges a text, a pair or a file of them."""
    given: DetectSettings = make(check(config, DetectSettings), DetectSettings)
    recipe = None if given.run is None else Recipe(named_runs(given.run), confidence=False)
    if recipe is not None:
        recipe.require_answers()
    options = {f.name: getattr(given, f.name) for f in fields(DetectionOptions)}
    run_detection(DetectionJob(**options, recipe=recipe))
