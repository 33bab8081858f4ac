"""Prompt recovery: given a text and what an LLM made of it, find the instruction.

    import prompt_recovery as pr

Recover a prompt with the run that was started last, as `prompt-recovery recover` does:

    prediction = pr.recover("It rained all day.", "Arr, the sky be weepin' since dawn!")
    prediction.rewrite_prompt, prediction.confidence, prediction.candidates

Train a recoverer, as `prompt-recovery train` does, and answer with it:

    run = pr.train("model=smollm2", "data=file", "data.path=pairs.csv")
    pr.recover(original_text, rewritten_text, run=run.path)

Score answers with sharpened cosine similarity:

    scs = pr.SCS()
    scs(["Make it rhyme."], ["Turn it into a poem."])

Work on whole datasets:

    data = pr.load_dataset("pairs.csv")
    predictions = pr.recover_pairs(pr.pairs_of(data.examples))

`load_recoverer` loads a run without the neighbours and the fitting that `recover` adds. `MBR`,
`Choice`, `Greedy`, `Beam` and `Sampling` choose how it answers. An objective of your own inherits
from `Objective`, and a recoverer of your own has the methods of `Recoverer`. There is a script for
each of these in `examples/`. Errors that a user can fix are `PromptRecoveryError`.

Everything here is imported when it is first used.
"""

import os as _os

# Threads of OpenMP that wait for work spin 300,000 times by default, and so take a core away from
# other processes: an answer took up to ten times as long on cores that were shared. With 3,000, it
# takes as long as before on cores that nothing else uses.
if "OMP_WAIT_POLICY" not in _os.environ:
    _os.environ.setdefault("GOMP_SPINCOUNT", "3000")

TYPE_CHECKING = False  # as in `typing`, whose import would take longer than this package's
if TYPE_CHECKING:
    from typing import Any

    from prompt_recovery.api import load_dataset, recover, recover_pairs, train
    from prompt_recovery.changes.pair import measures
    from prompt_recovery.data.examples import ColumnNames, Dataset, RewriteExample
    from prompt_recovery.detection.detector import detect
    from prompt_recovery.errors import PromptRecoveryError
    from prompt_recovery.metrics.scs import SCS
    from prompt_recovery.objectives import (
        DPO,
        GRPO,
        IPO,
        ORPO,
        RLOO,
        SFT,
        Contrastive,
        Hinge,
        Listwise,
        Objective,
        ScoredCompletions,
        SimPO,
    )
    from prompt_recovery.recovery.decoding import MBR, Beam, Choice, Greedy, Sampling
    from prompt_recovery.recovery.interface import (
        Candidate,
        ConstantRecoverer,
        Pair,
        Prediction,
        Recoverer,
        pairs_of,
    )
    from prompt_recovery.recovery.load import load_recoverer
    from prompt_recovery.recovery.retrieval import Retrieval

__version__ = "0.1.0"

__all__ = [
    "DPO",
    "GRPO",
    "IPO",
    "MBR",
    "ORPO",
    "RLOO",
    "SCS",
    "SFT",
    "Beam",
    "Candidate",
    "Choice",
    "ColumnNames",
    "ConstantRecoverer",
    "Contrastive",
    "Dataset",
    "Greedy",
    "Hinge",
    "Listwise",
    "Objective",
    "Pair",
    "Prediction",
    "PromptRecoveryError",
    "Recoverer",
    "Retrieval",
    "RewriteExample",
    "Sampling",
    "ScoredCompletions",
    "SimPO",
    "detect",
    "load_dataset",
    "load_recoverer",
    "measures",
    "pairs_of",
    "recover",
    "recover_pairs",
    "train",
]

_MODULES = {
    "api": "load_dataset recover recover_pairs train",
    "changes.pair": "measures",
    "data.examples": "ColumnNames Dataset RewriteExample",
    "detection.detector": "detect",
    "errors": "PromptRecoveryError",
    "metrics.scs": "SCS",
    "objectives": "DPO GRPO IPO ORPO RLOO SFT Contrastive Hinge Listwise Objective "
    "ScoredCompletions SimPO",
    "recovery.decoding": "MBR Beam Choice Greedy Sampling",
    "recovery.interface": "Candidate ConstantRecoverer Pair Prediction Recoverer pairs_of",
    "recovery.load": "load_recoverer",
    "recovery.retrieval": "Retrieval",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name == "objectives":
        return import_module(f"{__name__}.objectives")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prompt_recovery.terminal import IMPORTING, announced

    with announced(IMPORTING):
        module = import_module(f"{__name__}.{_MODULE_OF[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
