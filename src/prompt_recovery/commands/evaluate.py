"""`prompt-recovery evaluate`: compare recoverers, baselines and predictions."""

from functools import partial
from typing import Any

from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.reporting.evaluation.settings import EvaluateSettings, prediction_entries
from prompt_recovery.settings.checking import check, make
from prompt_recovery.settings.entries import option


@command
def evaluate(config: DictConfig) -> float:
    """Compares recoverers, baselines and predictions; returns the best mean SCS."""
    job = job_of(check(config, EvaluateSettings))

    from prompt_recovery.reporting.evaluation.job import run_evaluation

    return run_evaluation(job).best.mean


def job_of(config: dict[str, Any]) -> Any:
    """The job that checked settings ask for."""
    same = config["data"] == config["training"]
    columns = [e.column for e in prediction_entries(config["predictions"]) if e.path is None]
    if "also" in config["data"]:
        config["data"]["also"] = [*config["data"]["also"], *columns]
    given = make(config, EvaluateSettings, late=("second_metric",))
    second = given.second_metric if config["second_metric"] is not None else None

    from prompt_recovery.reporting.evaluation.assembling import job_of as evaluation_of

    return evaluation_of(given, second, partial(option, "evaluate"), same)
