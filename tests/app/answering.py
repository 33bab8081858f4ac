"""A recoverer whose answer has to be escaped."""

from prompt_recovery.recovery.assemble import Assembled
from prompt_recovery.recovery.confidence import Calibration
from prompt_recovery.recovery.interface import Candidate, Prediction

EVIL = '<img src=x onerror="alert(1)"> & "quotes"'


class Answering:
    name = "answering <b>"
    calibration = Calibration((0.0, 1.0), (0.0, 0.4), 9)

    def recover(self, pairs, progress=lambda _: None):
        candidates = (Candidate(EVIL, -1.0, 0.5), Candidate("another", -2.0, 0.25))
        return [Prediction(p.id, EVIL, False, candidates, 0.31) for p in pairs]


READY = Assembled(Answering(), "f", "i", ["2026_<run>"])
