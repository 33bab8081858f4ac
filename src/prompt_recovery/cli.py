"""The command `prompt-recovery`, and what `train.py` runs."""

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import prompt_recovery.resolvers  # noqa: F401  (what the configuration asks for)
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.experiments.multirun import run_trial
from prompt_recovery.experiments.trials import (
    INTERRUPTED,
    end_with_parent,
    is_trial,
    metrics_of,
    unfinished,
)
from prompt_recovery.training.processes import ProcessLostError, is_first

_HELP = """\
usage: prompt-recovery <command> [group=option] [key=value] …

  train     train a recoverer and evaluate it        prompt-recovery train model=mistral
  generate  make a dataset with a rewriter           prompt-recovery generate rows=1000
  evaluate  compare recoverers and baselines         prompt-recovery evaluate \
                                                       recoverers=[runs/latest]
  recover   find the prompts of pairs of texts       prompt-recovery recover input=test.csv
  app       a web page to try a recoverer            prompt-recovery app run=latest
  sweep     try settings as a W&B sweep file says    prompt-recovery sweep file=sweeps/grid.yaml
  compare   one report of many runs                  prompt-recovery compare 'runs=[runs/train]'

prompt-recovery <command> --help       groups and options
prompt-recovery <command> --cfg job    everything a run will do
"""
_GRACE_S = 10.0


def config_folder() -> Path:
    """The Hydra configuration: in the wheel, or beside `src/` in a checkout."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf"


def one_line_errors(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Prints what a user can mend as one line, and exits with 1; Ctrl-C exits with 130.

    Of several processes, the first has the first word: when it ends, the others are killed, before
    they would repeat what befell all. `PROMPT_RECOVERY_TRACEBACK=1` shows tracebacks.
    """

    @wraps(task)
    def run(config: DictConfig) -> Any:
        try:
            return task(config)
        except KeyboardInterrupt:
            if is_first():
                alone = task.__name__ == "train" and not _in_multirun()
                mend = "go on with ckpt_path=last" if alone else "the same command goes on"
                print(f"interrupted; {mend}", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except (PromptRecoveryError, OmegaConfBaseException, InstantiationException) as raised:
            # Hydra wraps what the constructors of a configuration raise.
            wrapped = isinstance(raised, InstantiationException)
            error = raised.__cause__ if wrapped else raised
            if os.environ.get("PROMPT_RECOVERY_TRACEBACK") or (
                wrapped and not isinstance(error, PromptRecoveryError)
            ):
                raise
            if not is_first() or isinstance(error, ProcessLostError):
                time.sleep(_GRACE_S)
            message = " ".join(str(error).split("\n    full_key:")[0].split())
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(1) from None

    return run


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="train")
@one_line_errors
def train(config: DictConfig) -> Any:
    """Trains a recoverer; returns `val/scs`, which sweepers maximise."""
    if _in_multirun():
        return run_trial(config)
    end_with_parent()
    if not is_first():
        logging.getLogger("prompt_recovery").setLevel(logging.ERROR)
    folder = Path(HydraConfig.get().runtime.output_dir)
    run = _resumed_run(config.ckpt_path, folder)
    start = None if config.start is None else Path(config.start).expanduser()
    seconds_before = 0.0
    if config.first_stage is not None:
        start, seconds_before = _first_stage(config, folder, run)
        # A run that was stopped in its first stage has no checkpoint of the second.
        run = run if run and (run / "checkpoints" / "last.ckpt").is_file() else None
    resume = _checkpoint(config.ckpt_path, run)
    return _train(config, folder, start, resume, seconds_before=seconds_before)


def _first_stage(config: DictConfig, folder: Path, stopped: Path | None) -> tuple[Path, float]:
    """Trains the stage before the main one, unless it is finished; its folder and its seconds."""
    from prompt_recovery.training.stages import FIRST, finished_stage, stage_config, take_over

    stage, own = stage_config(config), folder / FIRST
    finished = finished_stage(stage, folder, stopped)
    if finished is None:
        checkpoint = stopped and stopped / FIRST / "checkpoints" / "last.ckpt"
        resume = str(checkpoint) if checkpoint and checkpoint.is_file() else None
        _train(stage, own, None, resume, evaluate=False)
    elif is_first():
        take_over(finished, own)
    trained = finished or own
    return trained, (metrics_of(trained) or {}).get("train/seconds", 0.0)


def _in_multirun() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _train(
    config: DictConfig,
    folder: Path,
    start: Path | None,
    resume: str | None,
    evaluate: bool = True,
    seconds_before: float = 0.0,
) -> float:
    # What can fail fails here, before torch and its friends take their seconds to import.
    from hydra.utils import instantiate

    from prompt_recovery.backbones.locate import locate
    from prompt_recovery.data.lead_ins import with_lead_ins
    from prompt_recovery.data.splits import split

    backbone = instantiate(config.model)
    locate(backbone)
    dataset = instantiate(config.data)
    splits = split(dataset, **config.split)
    splits = replace(splits, train=with_lead_ins(splits.train, config.lead_ins))
    scs = instantiate(config.metric)

    from prompt_recovery.data.datamodule import Batching
    from prompt_recovery.training.job import TrainingJob
    from prompt_recovery.training.module import Optimisation
    from prompt_recovery.training.run import train as run_training

    resolved = OmegaConf.to_container(config, resolve=True)
    job = TrainingJob(
        dataset=dataset,
        splits=splits,
        template=instantiate(config.template),
        backbone=backbone,
        adapter=instantiate(config.adapter),
        objective=instantiate(config.objective),
        scs=scs,
        batching=Batching(**config.batching),
        optim=Optimisation(**config.optim),
        decoding=instantiate(config.decoding),
        trainer=dict(config.trainer),
        folder=folder,
        precision=config.precision,
        seed=config.seed,
        logger=config.logger.kind,
        project=config.logger.project,
        name=config.name,
        group=config.group,
        tags=list(config.tags),
        log_adapter=config.logger.log_adapter,
        gradient_checkpointing=config.gradient_checkpointing,
        checkpoint_minutes=config.checkpoint_minutes,
        ckpt_path=resume,
        start=start,
        seconds_before=seconds_before,
        preferences=instantiate(config.preferences),
        evaluate=evaluate,
        config=resolved,  # type: ignore[arg-type]
    )
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(resolved), folder / "config.yaml")
        if not is_trial():
            _point_latest_at(folder if evaluate else folder.parent)
    return run_training(job)["val/scs"]


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="generate")
@one_line_errors
def generate(config: DictConfig) -> int:
    """Makes a dataset; returns how many rows it has."""
    from functools import partial

    from hydra.utils import instantiate

    from prompt_recovery.generation.filters import Filters
    from prompt_recovery.generation.generate import generate as make_dataset
    from prompt_recovery.generation.job import GenerationJob, InstructionSettings, SplitSettings

    def made(part: DictConfig) -> Callable[[], Any]:
        """Makes a part where it is needed, in another process of a cluster too."""
        return partial(instantiate, OmegaConf.to_container(part, resolve=True))

    launcher = instantiate(config.launcher)
    originals = instantiate(config.originals)
    template = instantiate(config.template)
    rewriter = launcher.rewriter(made(config.rewriter))
    preferences = None
    if "preferences" in config:
        from prompt_recovery.generation.candidates import Guesser, PreferenceStage

        guesser = Guesser(**{name: instantiate(part) if isinstance(part, DictConfig) else part
                             for name, part in config.candidates.items()})  # fmt: skip
        preferences = PreferenceStage(
            instantiate(config.preferences), guesser, made(config.metric), launcher, config.seed
        )
    job = GenerationJob(
        originals=originals,
        rewriter=rewriter,
        template=template,
        output=Path(config.output).expanduser(),
        instructions=InstructionSettings(**config.instructions),
        filters=Filters(**config.filters),
        split=SplitSettings(**config.split),
        rows=config.rows,
        seed=config.seed,
        chunk=launcher.chunk,
        scs=cache(made(config.metric)),
        preferences=preferences,
        overwrite=config.overwrite,
        push_to_hub=config.push_to_hub,
    )
    try:
        return make_dataset(job).kept
    finally:
        rewriter.close()


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="sweep")
@one_line_errors
def sweep(config: DictConfig) -> None:
    """Runs a W&B sweep file without an account, or goes on with it."""
    from prompt_recovery.experiments.sweep import sweep as run_sweep

    file = Path(config.file)
    folder = Path(config.folder or f"runs/sweep/{file.stem}")
    run_sweep(file, config.count, config.parallel, folder, config.seed)


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="evaluate")
@one_line_errors
def evaluate(config: DictConfig) -> float:
    """Compares recoverers, baselines and predictions; returns the best mean SCS."""
    from hydra.utils import instantiate

    from prompt_recovery.data.sources import SUFFIXES
    from prompt_recovery.recovery.assemble import Recipe
    from prompt_recovery.recovery.contenders import (
        from_baseline,
        from_column,
        from_file,
        from_recipe,
    )
    from prompt_recovery.recovery.evaluate import (
        EvaluationJob,
        choose_examples,
        run_evaluation,
    )
    from prompt_recovery.training.tracking import environment

    hardware = environment()["hardware"]

    def option(group: str, entry: Any) -> Any:
        return None if entry is None else instantiate(_option("evaluate", group, entry))

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
                second, said = None, "no gaming check: it is the first one"
                logging.getLogger(__name__).warning(
                    "second_metric: has the encoder of metric, which is no second opinion"
                )
        except InstantiationException as error:
            said = f"no gaming check: {error.__cause__}"
            logging.getLogger(__name__).warning(said)
    contenders = []
    for entry in config.recoverers:
        given: dict[str, Any] = {"run": entry} if isinstance(entry, str) else dict(entry)
        recipe = Recipe(
            runs=_run_folders(given["run"]),
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


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="compare")
@one_line_errors
def compare(config: DictConfig) -> None:
    """Compares runs of folders or of a W&B project in one report."""
    from prompt_recovery.reporting.comparison.compare import compare as compare_runs

    compare_runs(list(config.runs), config.project, Path(config.output))


def _option(command: str, group: str, entry: Any) -> DictConfig:
    """One more option of a group, beside the one that a command's configuration has chosen.

    Args:
        command: whose configuration; what the option refers to is taken from it.
        group: the group.
        entry: the option's name, or a name with what to change in it.
    """
    [(name, changes)] = [(entry, {})] if isinstance(entry, str) else entry.items()
    overrides = [*HydraConfig.get().overrides.task, f"+{group}@_chosen={name}"]
    try:
        chosen = hydra.compose(command, overrides)._chosen
    except MissingConfigException as error:
        known = ", ".join(sorted(f.stem for f in (config_folder() / group).glob("*.yaml")))
        raise PromptRecoveryError(f"{group} '{name}' is unknown; known are {known}") from error
    chosen.merge_with(changes)
    return chosen


_TEXTS: dict[str, str] = {}


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="recover")
@one_line_errors
def recover(config: DictConfig) -> None:
    """Recovers the prompts of a file of pairs, or of one pair."""
    recipe = _recipe(config)
    from prompt_recovery.recovery.pairs import PairColumns
    from prompt_recovery.recovery.recover import RecoveryJob
    from prompt_recovery.recovery.recover import recover as recover_prompts

    job = RecoveryJob(
        recipe=recipe,
        input=None if config.input is None else Path(config.input),
        output=Path(config.output),
        columns=PairColumns(**config.columns),
        original=_TEXTS.get("original", config.original),
        rewritten=_TEXTS.get("rewritten", config.rewritten),
        threshold=config.threshold,
    )
    recover_prompts(job)


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="app")
@one_line_errors
def app(config: DictConfig) -> None:
    """Serves a web page until Ctrl-C."""
    recipe = _recipe(config)

    from prompt_recovery.app import serve

    serve(recipe, config.host, config.port)


def _recipe(config: DictConfig) -> Any:
    """What answers, for `recover` and `app`."""
    from hydra.utils import instantiate

    folders = _run_folders(config.run)

    from prompt_recovery.recovery.assemble import Recipe

    return Recipe(
        runs=folders,
        decoding=instantiate(config.decoding),
        weights=list(config.weights or []),
        channel=instantiate(config.channel) if "channel" in config else None,
        retrieval=instantiate(config.retrieval) if "retrieval" in config else None,
        **{name: config[name] for name in
           ("confidence", "precision", "backbone_path", "trust_remote_code")},
    )  # fmt: skip


def _take_texts(arguments: list[str]) -> list[str]:
    """Takes the texts of one pair out of the arguments: Hydra would read them as its grammar."""
    left = []
    for argument in arguments:
        name, _, text = argument.partition("=")
        if name in ("original", "rewritten"):
            _TEXTS[name] = text
        else:
            left.append(argument)
    return left


def _run_folders(runs: Any) -> list[Path]:
    """What `run=` means: one run, or a list of them."""
    return [_run_folder(run) for run in (list(runs) if OmegaConf.is_list(runs) else [runs])]


def _run_folder(run: str) -> Path:
    if run != "latest":
        return Path(run).expanduser()
    folder = Path("runs") / "latest"
    if not folder.is_dir():
        raise PromptRecoveryError(
            "run=latest: there is no runs/latest here; give run=<run or adapter folder>, or train "
            "a recoverer first (prompt-recovery train)"
        )
    return folder


def main() -> None:
    """`prompt-recovery <command> …`."""
    commands = {
        "train": train,
        "generate": generate,
        "evaluate": evaluate,
        "recover": recover,
        "app": app,
        "sweep": sweep,
        "compare": compare,
    }
    if not is_first() and len(sys.argv) > 1 and sys.argv[1] not in commands:
        sys.argv.insert(1, "train")  # started by Lightning, with the arguments that Hydra saw
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        asked = len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help")
        print(_HELP if asked else f"error: unknown command '{sys.argv[1]}'\n\n{_HELP}", end="")
        raise SystemExit(0 if asked else 2)
    command = sys.argv.pop(1)
    if command == "recover":
        sys.argv[1:] = _take_texts(sys.argv[1:])
    sys.argv[1:] = map(_without_group, sys.argv[1:])
    commands[command]()


def _without_group(argument: str) -> str:
    """`group=null` as Hydra's grammar has it (`~group`); it would answer with a traceback."""
    name, _, value = argument.partition("=")
    if value == "null" and name and (config_folder() / name.split("@")[0]).is_dir():
        return f"~{name}"
    return argument


def _resumed_run(ckpt_path: str | None, folder: Path) -> Path | None:
    """The run that `ckpt_path=last` goes on with: its own, or the newest that left a checkpoint."""
    if ckpt_path != "last":
        return None
    if unfinished(folder):
        return folder
    found = sorted(run for run in folder.parent.glob("*") if unfinished(run))
    if not found:
        raise PromptRecoveryError(
            f"ckpt_path=last: no run in {folder.parent} has left a checkpoint; start without it"
        )
    return found[-1]


def _checkpoint(ckpt_path: str | None, run: Path | None) -> str | None:
    """The checkpoint file to resume from."""
    if ckpt_path is None or ckpt_path == "last":
        return None if run is None else str(run / "checkpoints" / "last.ckpt")
    path = Path(ckpt_path).expanduser()
    if not path.is_file():
        raise PromptRecoveryError(f"ckpt_path={ckpt_path}: no such file")
    return str(path)


def _point_latest_at(folder: Path) -> None:
    """Makes `runs/latest` a link to a run, where links can be made."""
    runs = next((p for p in folder.parents if p.name == "runs"), None)
    if runs is None:
        return
    link, fresh = runs / "latest", runs / f".latest.{os.getpid()}"
    try:
        fresh.symlink_to(folder.resolve(), target_is_directory=True)
        fresh.replace(link)
    except OSError:
        fresh.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
