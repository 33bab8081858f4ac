"""Prepares the training of a dense retriever: a sentence encoder that places pairs near prompts."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prompt_recovery.backbones.adapters import count_parameters
from prompt_recovery.backbones.encoders import EncoderBackbone, locate_encoder
from prompt_recovery.backbones.locate import Location
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.backbones.sentence_model import (
    load_fitted,
    save_sentence_model,
    trained_parts,
    with_weights,
)
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import Contrastive
from prompt_recovery.recovery.bank import PromptBank
from prompt_recovery.recovery.baselines import mean_prompt
from prompt_recovery.recovery.decoding import MBR, Decoding, Greedy, record
from prompt_recovery.recovery.familiarity import Familiarity
from prompt_recovery.recovery.form import BankForm
from prompt_recovery.recovery.interface import ConstantRecoverer
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import (
    PairEncoder,
    Retriever,
    fit_on_validation,
)
from prompt_recovery.reporting.evaluation.scores import Evaluation
from prompt_recovery.runs.folder import (
    retriever_folder,
    weights_digest,
)
from prompt_recovery.storage import fingerprint
from prompt_recovery.training.cards import retriever_card
from prompt_recovery.training.checkpoints import whole_folder, write_card, write_record
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.pairs import PairData, RetrieverModule
from prompt_recovery.training.prepared import (
    Hardware,
    Prepared,
    describe_data,
    describe_model,
    own_names,
)
from prompt_recovery.training.results import RunEvaluations, evaluate_recoverer
from prompt_recovery.training.together import fit_and_keep, trained_recoverer

log = logging.getLogger(__name__)

_FEW_PROMPTS = 50


@dataclass
class PreparedRetriever(Prepared):
    """A sentence encoder that is trained on pairs of texts and the embeddings of their prompts.

    Attributes:
        job: The job.
        retriever: The model with the prompts of the training split.
        fallback: The mean prompt of the training split.
        data: The tokenised data.
        module: The Lightning module.
        location: Location of the backbone's files.
        hardware: Where and how precisely this process computes.
        beginning: The model before training: the one that it starts from or the encoder itself,
            with a linear layer if it embeds in another dimension. None if it isn't evaluated.
        recoverer: What `recover` would load from the run, once training has ended.
    """

    job: TrainingJob
    retriever: Retriever
    fallback: str
    data: PairData
    module: RetrieverModule
    location: Location
    hardware: Hardware
    beginning: Any | None
    recoverer: PosteriorRecoverer | None = None

    @property
    def own_record(self) -> dict[str, Any]:
        """How the model reads pairs, and its posterior."""
        return {
            "input": ["rewritten_text", "original_text"],
            "max_prompt_tokens": int(self.module.model.max_seq_length),
            "temperature": float(self.retriever.temperature),
            "k": self.retriever.k,
            "decoding": record(MBR()),
        }

    @property
    def parameters(self) -> tuple[int, int]:
        """The numbers of trainable and of all parameters."""
        return count_parameters(self.module.model)

    def save(self, weights: dict[str, Tensor]) -> None:
        """Writes the retriever folder: the model, its record and the prompts of the bank."""
        own = own_names(weights)
        with whole_folder(self.job.run.retriever) as scratch:
            save_sentence_model(self.module.model, own, scratch)
            self.retriever.write_parts(scratch)
            write_card(scratch, self.card({}))
            write_record(scratch, self.record)

    def card(self, metrics: Mapping[str, float]) -> str:
        """The model card of the retriever."""
        return retriever_card(self.job, metrics)

    def finish(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """Fits the temperature of the posterior, the weight of the form and the confidence on the
        validation split, if there is one."""
        found = self._fit(weights) if self.job.splits.val else {}
        if not self.job.splits.val and not self.job.is_tested:
            return found  # nothing is fitted or answered
        self.recoverer = trained_recoverer(self.job, self.hardware, self.job.run.retriever)
        fit_and_keep(self.job, self.recoverer)
        return found

    def _fit(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """Fits the temperature and the weight of the form."""
        objective = self.job.objective
        form = isinstance(objective, Contrastive) and objective.form
        trained = fit_on_validation(
            replace(self._trained(weights), form=None),
            BankForm.of(self.job.splits.train) if form else None,
            self.job.splits.val,
            self.job.scs,
        )
        found = {"retriever/temperature": trained.temperature}
        if form:
            found["retriever/form_weight"] = trained.form_weight
        old = self.retriever
        self.retriever = replace(old, temperature=trained.temperature, form=trained.form)
        if trained.temperature != old.temperature or trained.form is not old.form:
            self.save(weights)
        return found

    def evaluate(self, weights: dict[str, Tensor]) -> RunEvaluations:
        """Evaluates MBR, the nearest prompt, and the model before training."""
        assert self.recoverer is not None, "`finish` comes first"
        name, started = self.retriever.name, self.job.start is not None
        together = replace(self.recoverer, name=name)
        form = self.retriever.form if started else None  # an untrained model has none
        before = None if self.beginning is None else self._with_model(self.beginning, form=form)
        return RunEvaluations(
            evaluate_recoverer(together, self.job.splits.test, self.job.scs),
            self._evaluated(before, MBR(), f"before {self.job.objective.name}")
            if before is not None and started
            else None,
            self._evaluated(before, MBR(), f"{self.job.backbone.name} zero-shot")
            if before is not None and not started
            else None,
            evaluate_recoverer(
                ConstantRecoverer(self.fallback), self.job.splits.test, self.job.scs
            ),
            nearest=self._evaluated(self._trained(weights), Greedy(), f"{name}, nearest prompt"),
        )

    def _evaluated(self, retriever: Retriever, decoding: Decoding, name: str) -> Evaluation:
        recoverer = PosteriorRecoverer(
            [(retriever, 1.0)], decoding, self.fallback, self.job.scs, name=name
        )
        return evaluate_recoverer(recoverer, self.job.splits.test, self.job.scs)

    def _trained(self, weights: dict[str, Tensor]) -> Retriever:
        return self._with_model(with_weights(self.module.model, own_names(weights)))

    def _with_model(self, model: Any, **changes: Any) -> Retriever:
        encoder = PairEncoder(model.to(self.hardware.device), self.hardware.precision.dtype)
        return replace(self.retriever, encoder=encoder, **changes)


def prepare_retriever(job: TrainingJob, hardware: Hardware) -> PreparedRetriever:
    """Loads the sentence encoder, embeds the prompts and tokenises the pairs."""
    backbone, objective = job.backbone, job.objective
    assert isinstance(backbone, EncoderBackbone), "`TrainingJob` refuses what does not fit"
    assert isinstance(objective, Contrastive), "`TrainingJob` refuses what does not fit"
    if hardware.sharded:
        raise PromptRecoveryError(
            "trainer=fsdp is for language models: a sentence encoder takes trainer=ddp"
        )
    location = locate_encoder(backbone)
    start = None if job.start is None else retriever_folder(job.start)
    if start is not None:
        log.info("training starts from the retriever in %s", job.start)
    bank = PromptBank.of((e.rewrite_prompt for e in job.splits.train), job.scs.encoder)
    folder, max_tokens = start or location.folder, job.batching.max_prompt_tokens
    model = load_fitted(folder, bank.prompts, bank.vectors, max_tokens)
    beginning = copy.deepcopy(model) if job.evaluate else None
    adapter = job.adapter if isinstance(job.adapter, Adapter) else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)  # of a new adapter's weights
        trained_parts(model, adapter)
    if job.gradient_checkpointing:
        model[0].auto_model.gradient_checkpointing_enable({"use_reentrant": False})
    model.to(hardware.device)
    retriever = Retriever(
        PairEncoder(model, hardware.precision.dtype),
        bank,
        objective.temperature,
        objective.k,
        f"{backbone.name} {objective.name}",
        known=Familiarity.of(job.splits.train),
    )
    data = PairData(job.splits, model, bank.prompts, job.batching, job.seed)
    describe_model(job, *count_parameters(model))
    describe_data(job)
    if len(bank.prompts) < _FEW_PROMPTS:
        log.warning(
            "a retriever only answers with the prompts of its training examples, here %d: "
            "where other prompts are expected, give them with bank= when it answers, or train a "
            "language model without a retriever (retriever=none)",
            len(bank.prompts),
        )
    identity = fingerprint(
        job.dataset.fingerprint(),
        location.identity,
        str(hardware.precision.dtype),
        None if start is None else weights_digest(start),
        asdict(job.adapter),
        [e.id for e in job.splits.train],
        model.max_seq_length,
    )
    module = RetrieverModule(retriever, objective, job.scs, job.optim, identity, job.batching)
    fallback = mean_prompt(job.scs, [e.rewrite_prompt for e in job.splits.train])
    return PreparedRetriever(job, retriever, fallback, data, module, location, hardware, beginning)
