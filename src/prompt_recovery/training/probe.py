"""Fits the probe of a trained language model, which makes a retriever of it as well."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompt_recovery.data.splits import Splits
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.bank import PromptBank
from prompt_recovery.recovery.familiarity import Familiarity
from prompt_recovery.recovery.form import BankForm
from prompt_recovery.recovery.probe import Probe, ProbeEncoder, hidden_states
from prompt_recovery.recovery.retriever import Retriever, fit_on_validation
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.runs.folder import probe_file
from prompt_recovery.terminal import announced

log = logging.getLogger(__name__)

TEMPERATURE = 0.05
"""The temperature of the posterior, unless another is clearly better on validation."""
_PROMPTS = 200
_MOST = 20_000  # training examples; the time and the memory of the regression grow with them


def fit_probe(writer: Writer, splits: Splits, scs: SCS) -> Retriever:
    """The retriever that a probe makes of a trained language model.

    The probe is fitted to the training split. The temperature of its posterior and the weight of
    the form of pairs are fitted to the validation split, if there is one.

    Args:
        writer: The trained language model. If it has an identity, an interrupted pass over the
            training examples goes on where it stopped.
        splits: The examples.
        scs: The metric, whose encoder embeds the prompts.
    """
    examples = splits.train[:: -(-len(splits.train) // _MOST)]
    log.info("fitting the probe on %s training examples", f"{len(examples):,}")
    states = hidden_states(writer, examples)
    bank = PromptBank.of((example.rewrite_prompt for example in splits.train), scs.encoder)
    place = {prompt: n for n, prompt in enumerate(bank.prompts)}
    prompts = [example.rewrite_prompt for example in examples]
    vectors = bank.vectors[[place[prompt] for prompt in prompts]]
    with announced("fitting the probe"):
        probe = Probe.fit(states, vectors, prompts)
    found = Retriever(
        ProbeEncoder(writer, probe),
        bank,
        TEMPERATURE,
        _PROMPTS,
        f"{writer.name} probe",
        known=Familiarity.of(splits.train),
    )
    form = BankForm.of(splits.train)
    return fit_on_validation(found, form, splits.val, scs)


def write_probe(folder: Path, probe: Retriever) -> None:
    """Writes a probe, and what its retriever needs, into an adapter folder without one."""
    assert isinstance(probe.encoder, ProbeEncoder)
    probe.write_parts(folder)
    probe.encoder.probe.write(probe_file(folder))


def probe_record(probe: Retriever | None) -> Mapping[str, Any]:
    """What `recoverer.yaml` says about a probe."""
    if probe is None:
        return {}
    return {"probe": {"temperature": float(probe.temperature), "k": probe.k}}
