"""Metrics as plain values, for the record that is kept with an adapter."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.e5 import E5Encoder
from prompt_recovery.metrics.encoder import EncoderSource, SentenceEncoder
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.settings.packages import known_packages

log = logging.getLogger(__name__)


def metric_record(scs: SCS) -> dict[str, Any]:
    """The plain values from which `recorded_metric` makes the metric again.

    It can't if the encoder's class isn't one of this package.
    """
    encoder = scs.encoder
    source = encoder.source if isinstance(encoder, SentenceEncoder | E5Encoder) else EncoderSource()
    return {
        "encoder": encoder.identity,
        "exponent": scs.exponent,
        "source": {k: v for k, v in asdict(source).items() if v is not None},
    }


def recorded_metric(record: Mapping[str, Any]) -> SCS:
    """The metric that a record describes; logs a warning if its encoder has changed since.

    Raises:
        PromptRecoveryError: If the encoder cannot be found, or the record names none, or a package
            that isn't one of this project's.
    """
    source = EncoderSource(**record["source"])
    if source == EncoderSource():
        raise PromptRecoveryError(
            f"the recoverer was trained with an encoder ({record['encoder']}) that is not one of "
            "this package's: give the metric (load_recoverer(…, scs=…))"
        )
    is_e5 = source.package == E5Encoder.source.package
    if source.path is None and source.package is not None and not is_e5:
        if source.package not in known_packages():
            raise PromptRecoveryError(
                f"the recoverer's record names the package '{source.package}' for its metric, "
                "which is not one of this project's and could run code: give the metric "
                "(load_recoverer(…, scs=…))"
            )
        source = replace(source, install=known_packages()[source.package])
    encoder = E5Encoder() if is_e5 else SentenceEncoder(source)
    if record["encoder"] != encoder.identity:
        log.warning(
            "the sentence encoder %s is not the one that the recoverer was trained with",
            encoder.name,
        )
    return SCS(encoder, record["exponent"])
