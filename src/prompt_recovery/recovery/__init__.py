"""Recoverers and baselines behind one interface.

How a pair of texts becomes an answer:

1. A `recipe` says which runs answer, and how. `assemble` loads them (`load`), and fits the weights
   of their sources and the confidence on validation examples, or finds what was fitted before
   (`fitted`).
2. Each source gives a posterior for the pair, which is texts with weights (`posterior`). A language
   model writes its texts: the `writer` fills in the template and samples as the `decoding` asks. A
   `retriever` and the neighbours of `retrieval` find texts in a `bank` of known prompts.
3. The `recoverer` adds the posteriors up, with fixed weights or with some that depend on the pair
   (`joining`).
4. The `decoding` ranks the texts: by `mbr`, by their log-probability, or by a `choice` that weighs
   features of them. A noisy `channel` may change the posterior before, by how likely a rewriter
   makes the rewritten text of each.
5. The best text is the answer. A calibration turns its score into a `confidence`. Both are in the
   `Prediction` of `interface`, which `predictions` writes to files.

What loads torch is imported when it is first asked for, so that settings can be read without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prompt_recovery.recovery.decoding import MBR, Beam, Choice, Decoding, Greedy, Sampling
from prompt_recovery.recovery.interface import (
    Candidate,
    ConstantRecoverer,
    Pair,
    Prediction,
    Recoverer,
)
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.recovery.recoverer import PosteriorRecoverer

if TYPE_CHECKING:
    from prompt_recovery.recovery.load import load_recoverer
    from prompt_recovery.recovery.writer import Writer

__all__ = [
    "MBR",
    "Beam",
    "Candidate",
    "Choice",
    "ConstantRecoverer",
    "Decoding",
    "Greedy",
    "Pair",
    "Posterior",
    "PosteriorRecoverer",
    "Prediction",
    "Recoverer",
    "Sampling",
    "Writer",
    "load_recoverer",
]

_HEAVY = {"Writer": "writer", "load_recoverer": "load"}


def __getattr__(name: str) -> Any:
    if name not in _HEAVY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
