"""The functions of `import prompt_recovery as pr`, which do the work of the commands in Python.

`recover` and `recover_pairs` answer as `prompt-recovery recover` does, and `train` trains as
`prompt-recovery train` does. The names are imported by the package when they are first used.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import prompt_recovery.runs.resolvers  # noqa: F401  (what the configuration asks for)
from prompt_recovery.data.examples import ColumnNames, Dataset
from prompt_recovery.data.sources import file, folder, starter
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import Objective, PolicyGradient
from prompt_recovery.recovery.assemble import Assembled, assemble
from prompt_recovery.recovery.channel import ChannelSettings
from prompt_recovery.recovery.confidence import with_fallback
from prompt_recovery.recovery.decoding import MBR, Decoding
from prompt_recovery.recovery.evidence import require_explainable, with_evidence
from prompt_recovery.recovery.interface import Pair, Prediction
from prompt_recovery.recovery.job import RecoveryJob, single_pair, steps
from prompt_recovery.recovery.pairs import RecoveryOptions
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.retrieval import Retrieval
from prompt_recovery.recovery.sources import SourceSettings
from prompt_recovery.recovery.spans import Explain, method_of
from prompt_recovery.runs.folder import RunFolder, named_runs, recoverer_folders, weights_digest
from prompt_recovery.runs.processes import agreed, is_first
from prompt_recovery.settings import Precision
from prompt_recovery.settings.arguments import prepared
from prompt_recovery.settings.checking import check
from prompt_recovery.settings.declared import name_of
from prompt_recovery.settings.folder import config_folder
from prompt_recovery.settings.words import in_one_line
from prompt_recovery.storage import fingerprint
from prompt_recovery.terminal import announced, logged_to, progress_bar
from prompt_recovery.training.job import TrainSettings
from prompt_recovery.training.stages import train_stages

Runs = str | Path | Sequence[str | Path]
"""A run, an adapter or a retriever folder, or several that choose together."""

_MBR = MBR()
_NEIGHBOURS = Retrieval()


def recover(
    original_text: str,
    rewritten_text: str,
    run: Runs | None = None,
    *,
    decoding: Decoding | None = _MBR,
    retrieval: SourceSettings | None = _NEIGHBOURS,
    weights: Sequence[float] = (),
    channel: ChannelSettings | None = None,
    bank: str | Path | None = None,
    confidence: bool = True,
    threshold: float | None = None,
    explain: Explain = False,
    backbone_path: str | Path | None = None,
    precision: Precision = "auto",
) -> Prediction:
    """Recovers the prompt behind a pair of texts, as `prompt-recovery recover` does.

    The recoverer is loaded by the first call and kept for further ones with the same arguments. If
    its confidence has not been fitted before, the first call also fits it on the validation split
    of the run, which may take minutes.

    Args:
        original_text: The original text.
        rewritten_text: What a model made of it.
        run: A run, an adapter or a retriever folder, or several that choose together. "latest" is
            `runs/latest`, the run that was started last, and "shipped" the recoverer that comes
            with the package. None takes "latest" or, if there is no run here, "shipped".
        decoding: How the answer is chosen, by default `MBR()`. None takes the decoding of the run.
        retrieval: A source whose prompts join the samples under MBR, unless a run has a dense
            retriever; by default `Retrieval()`, the prompts of similar training examples. None
            leaves it out.
        weights: The weight of each of several runs, > 0. Empty weights them equally.
        channel: Rescores the candidates with a rewriter model.
        bank: A file with prompts that a dense retriever can also answer with.
        confidence: Whether the prediction has a confidence, which is its expected SCS.
        threshold: An answer with a lower confidence is replaced by the mean prompt, in [-1, 1].
            None replaces none.
        explain: Whether the prediction has evidence, the words of both texts that support it;
            `True` or "occlusion", or "integrated_gradients" (extra `explain`).
        backbone_path: Where the backbone is now, if it isn't where the run found it.
        precision: auto, bf16, fp32 or int8.

    Returns:
        The prediction: its `rewrite_prompt`, `confidence`, all `candidates`, the best first, and
        its `evidence`.

    Raises:
        PromptRecoveryError: If a text is blank, the run cannot be loaded, or arguments contradict
            each other.
    """
    texts = RecoveryOptions(
        original=original_text, rewritten=rewritten_text, threshold=threshold, explain=explain
    )
    texts.refuse_contradictions(confidence)
    [prediction] = recover_pairs(
        [single_pair(original_text, rewritten_text)],
        run,
        decoding=decoding,
        retrieval=retrieval,
        weights=weights,
        channel=channel,
        bank=bank,
        confidence=confidence,
        threshold=threshold,
        explain=explain,
        backbone_path=backbone_path,
        precision=precision,
    )
    return prediction


def recover_pairs(
    pairs: Sequence[Pair],
    run: Runs | None = None,
    *,
    decoding: Decoding | None = _MBR,
    retrieval: SourceSettings | None = _NEIGHBOURS,
    weights: Sequence[float] = (),
    channel: ChannelSettings | None = None,
    bank: str | Path | None = None,
    confidence: bool = True,
    threshold: float | None = None,
    explain: Explain = False,
    backbone_path: str | Path | None = None,
    precision: Precision = "auto",
) -> list[Prediction]:
    """Recovers the prompts of many pairs, as `prompt-recovery recover input=<file>` does.

    Samples depend on the ids of the pairs. A pair with a blank or unusable text is answered with
    the mean prompt, and its prediction says so in `fallback`.

    Args:
        pairs: Pairs with distinct ids, such as those of a dataset: `pr.pairs_of(data.examples)`.
        run: As for `recover`, and so are all further arguments.

    Returns:
        One prediction for each pair, in order.

    Raises:
        PromptRecoveryError: If the run cannot be loaded, or arguments contradict each other.
    """
    runs = [run] if isinstance(run, str | Path) else run
    recipe = Recipe(
        named_runs(None if runs is None else map(str, runs)),
        decoding,
        list(weights),
        channel=channel,
        confidence=confidence,
        precision=precision,
        backbone_path=None if backbone_path is None else str(backbone_path),
        retrieval=retrieval,
        bank=None if bank is None else str(bank),
    )
    # Checks the settings.
    RecoveryJob(recipe, original="-", rewritten="-", threshold=threshold, explain=explain)
    ready = _ready(recipe)
    method = method_of(explain)
    if method is not None:
        require_explainable(ready.recoverer, method)
    one = len(pairs) == 1
    with progress_bar(disable=one) as progress, announced("recovering") if one else nullcontext():
        task = progress.add_task(f"recovering: {ready.recoverer.name}", total=len(pairs))
        predictions = ready.recoverer.recover(pairs, lambda n: progress.advance(task, n))
        if method is not None:
            task = progress.add_task("measuring the evidence", total=len(pairs))
            advance = partial(progress.advance, task)
            predictions = list(with_evidence(ready.recoverer, pairs, predictions, method, advance))
    if threshold is not None:
        predictions = with_fallback(predictions, threshold, ready.fallback)
    return predictions


def load_dataset(
    path: str | Path = "starter",
    columns: ColumnNames | None = None,
    drop_invalid: bool = False,
) -> Dataset:
    """Loads a dataset of rewrite examples and validates each row.

    Args:
        path: A CSV, JSONL, JSON or Parquet file, a folder of them, or a folder that
            `prompt-recovery generate` made. "starter" is the dataset in this package.
        columns: The names of the columns in the files; `ColumnNames(id=None)` derives ids from the
            texts.
        drop_invalid: Leave out rows that cannot be used instead of raising an error. Their number
            is in `dropped`, by reason.

    Raises:
        PromptRecoveryError: If a file doesn't exist or cannot be read, or a row cannot be used. The
            message names the file and the row.
    """
    if path == "starter":
        return starter()
    found = Path(path).expanduser()
    read = folder if found.is_dir() else file
    return read(found, columns or ColumnNames(), drop_invalid)


def train(
    *settings: str,
    objective: Objective | PolicyGradient | None = None,
    path: str | Path | None = None,
) -> RunFolder:
    """Trains a recoverer and evaluates it, as `prompt-recovery train` does.

        run = pr.train("model=smollm2", "objective=sft", "trainer.max_epochs=2")
        run.metrics()["test/scs"]

    Args:
        settings: Settings of the command line, such as "model=smollm2", "data=file" and
            "data.path=pairs.csv". `python train.py --cfg job` shows all of them.
        objective: An objective to use in place of the configured one: an instance of a dataclass
            that inherits from `Objective` or `PolicyGradient`, at the top level of a module.
        path: The folder of the run. By default a new one in `runs/train`.

    Returns:
        The folder of the run: its `path` for `recover` and `load_recoverer`, and its `metrics()`.

    Raises:
        PromptRecoveryError: If a setting or a file is wrong, or another process trains in the
            folder.
    """
    given = _composed(settings)
    if objective is not None:
        kind, options = type(objective), cast(Any, objective)
        if "<locals>" in kind.__qualname__:
            raise PromptRecoveryError(
                f"objective={kind.__name__}: is defined inside a function; define it at the top "
                "level of a module, so that the record of the run can name it"
            )
        given["objective"] = {"_target_": name_of(kind), **asdict(options)}
    if path is None:
        path = agreed("RUN_FOLDER", lambda: _new_folder(given["name"]))
    run = RunFolder(Path(path).expanduser())
    run.path.mkdir(parents=True, exist_ok=True)
    with run.begun() if is_first() else nullcontext(), _logged(run):
        train_stages(given, run)
    return run


def _logged(run: RunFolder) -> AbstractContextManager[None]:
    return logged_to(run.log) if is_first() else nullcontext()


_kept: dict[str, tuple[Recipe, Assembled]] = {}  # the last recoverer, by its weights and folder


def _ready(recipe: Recipe) -> Assembled:
    """The recoverer of a recipe: the last one if it is the same, as a model loads for seconds."""
    folders = [folder for run in recipe.runs for folder in recoverer_folders(run)]
    key = fingerprint([(str(folder.resolve()), weights_digest(folder)) for folder in folders])
    kept, ready = _kept.get(key, (None, None))
    if kept != recipe or ready is None:
        _kept.clear()
        with progress_bar() as progress:
            ready = assemble(recipe, steps(progress))
        _kept[key] = (recipe, ready)
    return ready


def _new_folder(name: str) -> str:
    started = time.strftime("%Y-%m-%d_%H-%M-%S")
    return str(RunFolder.create(Path("runs", "train"), f"{started}_{name}").path)


def _composed(settings: Sequence[str]) -> dict[str, Any]:
    """The checked settings of `train`, composed as the command line does."""
    hydras = HydraConfig.instance()
    outer = hydras.cfg  # of the application that calls this, if it uses Hydra
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = compose("train", prepared("train", list(settings)), return_hydra_config=True)
            hydras.set_config(config)
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            return check(own, TrainSettings)
    except (HydraException, OmegaConfBaseException) as error:
        raise PromptRecoveryError(in_one_line(error)) from error
    finally:
        hydras.cfg = outer
