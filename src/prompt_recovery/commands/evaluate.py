"""`prompt-recovery evaluate`: compare recoverers, baselines and predictions."""

import logging
import shlex
import sys
from functools import partial
from typing import Any

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.reporting.evaluation.examples import (
    Chosen,
    Part,
    choose_examples,
    some_of,
)
from prompt_recovery.reporting.evaluation.settings import EvaluateSettings, prediction_entries
from prompt_recovery.settings.checking import check, make
from prompt_recovery.settings.entries import option
from prompt_recovery.settings.help import Help
from prompt_recovery.terminal import importing

log = logging.getLogger(__name__)

_HELP = Help(
    title="compare recoverers, baselines and predictions",
    about="""Says who recovers prompts best, by how much, and whether that is more than chance. The
        answers and a report (report.html, report.md, report.json) are written to runs/evaluate.
        Finished answers are kept: if you run the command again after it was killed, or with more to
        compare, it only computes what is missing.""",
    examples=[
        ("A trained run against the baselines, on the starter dataset's test split. A run answers "
         "as `prompt-recovery recover` does by default: by MBR with neighbours, or with its "
         "retriever:",
         ["recoverers=[runs/latest]"]),
        ("A first look at 40 rows, with the mean prompt as the only baseline:",
         ["recoverers=[runs/latest] quick=true"]),
        ("Several runs and decodings, on a file of your own, beside answers in one of its columns:",
         ["data=file data.path=pairs.jsonl predictions=[their_column] \\\n"
          "    'recoverers=[runs/a,{run: runs/a/adapter, decoding: greedy, name: a greedy}]'"]),
    ],
    notes="""
        Common variations
          baselines=[mean_prompt,regressor]          only these baselines; baselines=[]: none
          'baselines=[{few_shot: {shots: 8}}]'       a baseline with another setting
          predictions=[submission.csv]               answers made elsewhere (id,rewrite_prompt)
          'recoverers=[{run: [runs/a,runs/b], decoding: {mbr: {samples: 32}}}]'    an ensemble
          metric=scs_t5 metric@second_metric=scs_minilm    other encoders
    """,
    settings=["recoverers", "baselines", "predictions", "quick", "rows", "part", "output",
              "split.by", "precision", "data=file:data.path"],
    read_on=["docs/howto/evaluate.md", "docs/concepts/scs.md"],
)  # fmt: skip


@command(_HELP)
def evaluate(config: DictConfig) -> float:
    """Compares recoverers, baselines and predictions; returns the best mean SCS."""
    line = shlex.join(["prompt-recovery", "evaluate", *sys.argv[1:]])
    job = job_of(check(config, EvaluateSettings), line)

    from prompt_recovery.reporting.evaluation.job import run_evaluation

    return run_evaluation(job).best.mean


def job_of(config: dict[str, Any], line: str = "") -> Any:
    """The job that checked settings ask for.

    Args:
        config: The values of `EvaluateSettings`.
        line: The command line, for the report.
    """
    same = config["data"] == config["training"]
    columns = [e.column for e in prediction_entries(config["predictions"]) if e.path is None]
    if "also" in config["data"]:
        config["data"]["also"] = [*config["data"]["also"], *columns]
    given = make(config, EvaluateSettings, late=("second_metric",))
    wanted = config["second_metric"] is not None and not config["quick"]
    second = given.second_metric if wanted else None

    for dataset in (given.data,) if same else (given.data, given.training):
        for told in dataset.dropped_rows():
            log.warning("%s", told)
    part: Part = ("test" if same else "all") if given.part == "auto" else given.part
    everything, training = choose_examples(given.data, given.training, part, vars(given.split))
    examples = some_of(everything, given.rows)
    make_option = partial(option, "evaluate")
    recipes = [e.recipe(make_option, given.precision) for e in given.recoverer_entries()]
    baselines = [make_option("baseline", entry) for entry in given.baselines]

    with importing():
        from prompt_recovery.reporting.evaluation.assembling import job_of as evaluation_of

    chosen = Chosen(part, examples, len(everything))
    return evaluation_of(given, recipes, baselines, chosen, training, second, line)
