"""What answers: one run or several, with a channel or without, with confidence or without."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.channel import (
    ChannelSettings,
    NoisyChannel,
    fit_channel,
    judge,
)
from prompt_recovery.recovery.confidence import Calibration, calibrate, keep, kept
from prompt_recovery.recovery.decoding import MBR, Decoding, record
from prompt_recovery.recovery.ensemble import Ensemble
from prompt_recovery.recovery.interface import Recoverer, pairs_of
from prompt_recovery.recovery.likelihood import load_likelihood
from prompt_recovery.recovery.load import (
    adapter_folder,
    load_recoverer,
    read_record,
    splits_of,
    weights_digest,
)
from prompt_recovery.recovery.recoverer import ModelRecoverer
from prompt_recovery.recovery.retrieval import Retrieval, Voters
from prompt_recovery.storage import fingerprint

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is done, the number of pairs just done, and that of all."""


@dataclass(frozen=True)
class Recipe:
    """What answers.

    Attributes:
        runs: run or adapter folders; several are an ensemble.
        decoding: how answers are chosen; None is as the run did.
        weights: how much each run's samples count in an ensemble; empty is alike.
        channel: rescore candidates by a rewriter model.
        retrieval: under MBR, the prompts of similar training examples of the first run vote, too.
        confidence: say what SCS to expect; fitted on the first run's validation split and kept
            beside its adapter.
        precision: auto, bf16 or fp32.
        backbone_path: where the backbone is now, if not where the run found it.
        trust_remote_code: run Python code that comes with a backbone.
    """

    runs: Sequence[Path]
    decoding: Decoding | None = None
    weights: Sequence[float] = ()
    channel: ChannelSettings | None = None
    confidence: bool = True
    precision: str = "auto"
    backbone_path: str | None = None
    trust_remote_code: bool = False
    retrieval: Retrieval | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise PromptRecoveryError("run=[]: give at least one run")
        if self.weights and len(self.weights) != len(self.runs):
            raise PromptRecoveryError(
                f"weights={list(self.weights)}: give one for each of the {len(self.runs)} runs"
            )
        if len(self.runs) > 1 and not isinstance(self.decoding, MBR):
            raise PromptRecoveryError("several runs choose together by decoding=mbr only")
        if len(self.runs) > 1 and self.backbone_path is not None:
            raise PromptRecoveryError("backbone_path= is for one run")


@dataclass
class Assembled:
    """What answers, ready.

    Attributes:
        recoverer: it.
        fallback: the mean prompt of its first run.
        identity: changes when anything changes that its predictions depend on.
        calibration: from a candidate's score to its expected SCS; None without confidence.
    """

    recoverer: Recoverer
    fallback: str
    identity: str
    calibration: Calibration | None


def assemble(recipe: Recipe, progress: Progress = lambda *_: None) -> Assembled:
    """Loads what answers, and fits what is to be fitted unless it was before.

    Where a run's validation split cannot be had, a warning says why and there is no confidence.

    Raises:
        PromptRecoveryError: as `load_recoverer`; or a channel has one candidate to choose from, or
            its weight is to be fitted and there is no validation split.
    """
    folders = [adapter_folder(run) for run in recipe.runs]  # all of them, before one is loaded
    members = [
        load_recoverer(
            run,
            recipe.decoding,
            recipe.precision,
            backbone_path=recipe.backbone_path,
            trust_remote_code=recipe.trust_remote_code,
        )
        for run in recipe.runs
    ]
    first = members[0]
    if recipe.channel is not None and first.decoding.branches == 1:
        raise PromptRecoveryError(
            f"a channel chooses among candidates, and decoding={first.decoding.name} makes one: "
            "take decoding=mbr, or leave the channel out"
        )
    scs = first.metric()
    settings: dict[str, Any] = {
        "decoding": record(first.decoding),
        "weights": list(recipe.weights),
        "channel": None if recipe.channel is None else asdict(recipe.channel),
        "metric": [scs.encoder.identity, scs.exponent],
        "members": [
            [weights_digest(f), read_record(f), str(m.model.dtype)]
            for f, m in zip(folders, members, strict=True)
        ],
    }
    voters = _voters(recipe, first, folders[0])
    if voters is not None:
        settings["retrieval"] = asdict(voters.neighbours.settings) | {"weight": voters.weight}
        settings["neighbours"] = fingerprint(voters.neighbours.prompts)
    key = fingerprint(settings)
    recoverer: ModelRecoverer | Ensemble | NoisyChannel = first
    if isinstance(first.decoding, MBR) and (len(members) > 1 or voters is not None):
        recoverer = Ensemble(members, first.decoding, recipe.weights, voters)
    if recipe.channel is not None:
        recoverer = _with_channel(recipe, recoverer, first, folders, key, progress)
    elif recipe.confidence:
        found = _calibration(recoverer, first, folders, key, progress)
        if isinstance(recoverer, ModelRecoverer):
            recoverer.calibrations |= {first.decoding: found} if found else {}
        else:
            recoverer.calibration = found
    if isinstance(recoverer, ModelRecoverer):
        calibration = recoverer.calibrations.get(first.decoding)
    else:
        calibration = recoverer.calibration
    identity = fingerprint(key, str(calibration), getattr(recoverer, "weight", None))
    return Assembled(recoverer, first.fallback, identity, calibration)


def _voters(recipe: Recipe, first: ModelRecoverer, folder: Path) -> Voters | None:
    """The neighbours that vote; none where the training examples cannot be had."""
    if recipe.retrieval is None or not isinstance(first.decoding, MBR):
        return None
    try:
        examples = splits_of(folder).train
    except PromptRecoveryError as error:
        log.warning("no neighbours vote: %s", error)
        return None
    return recipe.retrieval.fit(examples, first.metric())


def _with_channel(
    recipe: Recipe,
    proposing: Recoverer,
    first: ModelRecoverer,
    folders: Sequence[Path],
    key: str,
    progress: Progress,
) -> NoisyChannel:
    settings = recipe.channel
    assert settings is not None
    channel = load_likelihood(settings, recipe.precision)
    values = kept(folders[0]).get(key)
    if values is None and (settings.weight is None or recipe.confidence):
        title = "fitting the channel"
        try:
            examples = _validation(folders)
        except PromptRecoveryError as error:
            if settings.weight is None:
                raise PromptRecoveryError(f"give channel.weight=<0 … 1>: {error}") from error
            log.warning("no confidence: %s", error)
        else:
            judged = judge(
                proposing,
                channel,
                pairs_of(examples),
                settings.candidates,
                lambda n: progress(title, n, len(examples)),
            )
            found = fit_channel(judged, examples, first.metric(), settings.weight)
            if found is not None:
                log.info(
                    "channel weight %.2f: validation SCS %.4f, without the channel %.4f",
                    found.weight, found.scs, found.scs_without,
                )  # fmt: skip
                values = {"weight": found.weight, **asdict(found.calibration)}
                _keep(folders[0], key, values)
    weight = settings.weight if settings.weight is not None else (values or {}).get("weight", 0.0)
    calibration = Calibration.of(values) if values and recipe.confidence else None
    return NoisyChannel(proposing, channel, weight, settings.candidates, calibration)


def _calibration(
    recoverer: Recoverer,
    first: ModelRecoverer,
    folders: Sequence[Path],
    key: str,
    progress: Progress,
) -> Calibration | None:
    values = kept(folders[0]).get(key)
    if values is not None:
        return Calibration.of(values)
    try:
        examples = _validation(folders)
    except PromptRecoveryError as error:
        log.warning("no confidence: %s", error)
        return None
    log.info("confidence: fitted once for this run and decoding, on %d examples", len(examples))
    title = "fitting the confidence"
    found = calibrate(
        recoverer, examples, first.metric(), lambda n: progress(title, n, len(examples))
    )
    if found is not None:
        _keep(folders[0], key, asdict(found))
    return found


def _validation(folders: Sequence[Path]) -> Any:
    """The validation examples of the first run, if no other run was trained on them."""
    examples = splits_of(folders[0]).val
    for folder in folders[1:]:
        theirs = {e.id for e in splits_of(folder).val}
        if not {e.id for e in examples} <= theirs:
            raise PromptRecoveryError(
                f"{folder} was trained with another validation split than {folders[0]}"
            )
    return examples


def _keep(folder: Path, key: str, values: dict[str, Any]) -> None:
    try:
        keep(folder, key, values)
    except PromptRecoveryError as error:
        log.warning("what was fitted is not kept: %s", error)
