"""Pairs without a true prompt, on which a recoverer trains itself."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.interface import Pair, is_usable
from prompt_recovery.recovery.load import load_retriever
from prompt_recovery.recovery.pairs import read_pairs
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.runs.folder import weights_digest
from prompt_recovery.settings import Precision
from prompt_recovery.storage import fingerprint
from prompt_recovery.training.job import UnlabelledPairs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelfTraining:
    """Unlabelled pairs with what the retriever believes about their prompts.

    Attributes:
        examples: The pairs as examples without a prompt. Their ids begin with "unlabelled/".
        posteriors: The retriever's posterior of each example by its id.
        record: What the record of the recoverer says of them.
    """

    examples: list[RewriteExample] = field(default_factory=list)
    posteriors: Mapping[str, Posterior] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


def self_training(
    settings: UnlabelledPairs, retriever: Path | None, scs: SCS, precision: Precision
) -> SelfTraining:
    """Reads the unlabelled pairs and asks the retriever about them.

    Args:
        settings: The file. Without a path, nothing is read.
        retriever: The folder of the retriever; None if nothing is read.
        scs: The metric.
        precision: The precision in which the retriever computes.

    Raises:
        PromptRecoveryError: If the file cannot be read, or no pair in it has two usable texts.
    """
    if settings.path is None:
        return SelfTraining()
    assert retriever is not None, "`train_stages` refuses a run without one"
    path = Path(settings.path).expanduser()
    pairs = read_pairs(path, settings.columns, "unlabelled.path", "unlabelled.columns")
    usable = [Pair(f"unlabelled/{p.id}", p.original_text, p.rewritten_text)
              for p in pairs if is_usable(p)]  # fmt: skip
    if not usable:
        raise PromptRecoveryError(f"unlabelled.path={path}: no row has two usable texts")
    log.info(
        "%d unlabelled pairs of %s, %d rows left out since a text is blank or unusable",
        len(usable),
        path.name,
        len(pairs) - len(usable),
    )
    posteriors = load_retriever(retriever, scs, precision).posteriors(usable, MBR())
    return SelfTraining(
        [RewriteExample(p.id, p.original_text, p.rewritten_text, "") for p in usable],
        {usable[i].id: posterior for i, posterior in posteriors.items()},
        {
            "pairs": len(usable),
            "fingerprint": fingerprint([[p.original_text, p.rewritten_text] for p in usable]),
            "rewarded by": weights_digest(retriever),
        },
    )
