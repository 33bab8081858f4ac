"""`prompt-recovery evaluate`: compare recoverers, baselines and predictions."""

import logging
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig

from prompt_recovery.commands.entry import command
from prompt_recovery.commands.entry import option as option_of
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs.folder import run_folders


@command
def evaluate(config: DictConfig) -> float:
    """Compares recoverers, baselines and predictions; returns the best mean SCS."""
    from hydra.utils import instantiate

    from prompt_recovery.data.sources import SUFFIXES
    from prompt_recovery.recovery.recipe import Recipe
    from prompt_recovery.reporting.evaluation.contenders import (
        from_baseline,
        from_column,
        from_file,
        from_recipe,
    )
    from prompt_recovery.reporting.evaluation.job import (
        EvaluationJob,
        choose_examples,
        run_evaluation,
    )
    from prompt_recovery.runs.environment import environment

    hardware = environment()["hardware"]

    def option(group: str, entry: Any) -> Any:
        return None if entry is None else instantiate(option_of("evaluate", group, entry))

    data, training = instantiate(config.data), instantiate(config.training)
    part = config.part
    if part == "auto":
        part = "test" if config.data == config.training else "all"
    examples, training = choose_examples(data, training, part, dict(config.split))
    scs = instantiate(config.metric)
    second, said = None, "none was asked for"
    if config.get("second_metric") is not None:
        try:
            second = instantiate(config.second_metric)
            said = second.encoder.name
            if second.encoder.identity == scs.encoder.identity:
                second, said = None, "no metric-hacking check: it is the first one"
                logging.getLogger(__name__).warning(
                    "second_metric: has the encoder of metric, which is no second opinion"
                )
        except InstantiationException as error:
            said = f"no metric-hacking check: {error.__cause__}"
            logging.getLogger(__name__).warning(said)
    contenders = []
    for entry in config.recoverers:
        given: dict[str, Any] = {"run": entry} if isinstance(entry, str) else dict(entry)
        recipe = Recipe(
            runs=run_folders(given["run"]),
            decoding=option("decoding", given.get("decoding")),
            weights=list(given.get("weights") or []),
            channel=option("channel", given.get("channel")),
            retrieval=option("retrieval", given.get("retrieval")),
            precision=config.precision,
        )
        contenders.append(from_recipe(recipe, given.get("name")))
    for entry in config.baselines:
        contenders.append(from_baseline(option("baseline", entry), training, scs))
    for entry in config.predictions:
        given = {"path": entry} if isinstance(entry, str) else dict(entry)
        if str(given.get("path", "")).endswith(SUFFIXES):
            contenders.append(from_file(**given))
        else:
            column = given.get("column") or given["path"]
            if "columns" not in config.data:
                raise PromptRecoveryError(
                    f"predictions: {data.name} has no column '{column}'; give a file with the "
                    f"columns id and prediction ({', '.join(SUFFIXES)})"
                )
            read = instantiate(config.data, columns={"source": column})
            contenders.append(from_column(read.examples, column, given.get("name")))
    job = EvaluationJob(
        name=data.name,
        examples=examples,
        contenders=contenders,
        scs=scs,
        second=second,
        honest_prompts=[e.rewrite_prompt for e in training.examples],
        folder=Path(config.output).expanduser(),
        about={
            "evaluated": f"{data.name}, {part}: {len(examples)} rows",
            "baselines learned from": f"{training.name}: {len(training.examples)} rows",
            "second encoder": said,
            "machine": f"{hardware['machine']}, {hardware['cpus']} CPU cores, "
            f"GPU: {', '.join(hardware['gpus']) or 'none'}",
        },
    )
    return run_evaluation(job).best.mean
