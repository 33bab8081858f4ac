"""Prepares the training of a language model's adapter."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prompt_recovery.backbones.adapters import (
    add_adapter,
    count_parameters,
    load_adapter,
    require_low_rank,
    set_adapter_weights,
)
from prompt_recovery.backbones.load import load_model, load_tokenizer, require_four_bit
from prompt_recovery.backbones.locate import Backbone, Location, locate
from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.backbones.precision import Precision
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import Objective, PolicyGradient
from prompt_recovery.recovery.baselines import mean_prompt
from prompt_recovery.recovery.decoding import record
from prompt_recovery.recovery.interface import ConstantRecoverer
from prompt_recovery.recovery.load import writer_identity
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import Retriever
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.reporting.evaluation.scores import Evaluation
from prompt_recovery.runs.folder import adapter_folder, weights_digest
from prompt_recovery.storage import fingerprint
from prompt_recovery.templates import chat_prompt, for_tokenizer
from prompt_recovery.training.cards import adapter_card
from prompt_recovery.training.checkpoints import (
    whole_folder,
    write_adapter,
    write_card,
    write_record,
)
from prompt_recovery.training.datamodule import RecoveryData
from prompt_recovery.training.job import TrainingJob
from prompt_recovery.training.module import RecovererModule, WriterModule
from prompt_recovery.training.policy import PolicyModule
from prompt_recovery.training.prepared import (
    Hardware,
    Prepared,
    describe_data,
    describe_model,
    own_names,
)
from prompt_recovery.training.probe import fit_probe, probe_record, write_probe
from prompt_recovery.training.results import (
    RunEvaluations,
    evaluate_recoverer,
    evaluate_sources,
)
from prompt_recovery.training.self_training import SelfTraining, self_training
from prompt_recovery.training.together import fit_and_keep, trained_recoverer
from prompt_recovery.training.trees import training_trees
from prompt_recovery.trees import causal_lm_of, trees_share_rows
from prompt_recovery.trees.frozen import FrozenLayers, FrozenStates, frozen_layers

log = logging.getLogger(__name__)


@dataclass
class PreparedLanguageModel(Prepared):
    """A language model with an adapter that is trained on completion trees.

    Attributes:
        job: The job, with the template that fits the tokenizer.
        writer: Writer with the backbone and the adapter that training starts from.
        fallback: The mean prompt of the training split.
        data: The tokenised data.
        module: The Lightning module.
        location: Location of the backbone's files.
        hardware: Where and how precisely this process computes.
        start_weights: Weights of the adapter that training starts from; empty for a new adapter.
        unlabelled: Pairs without prompts that it is trained on, too.
        probe: The retriever that its probe makes of it, once training has ended.
        together: The trained model with its probe and the retriever, once training has ended.
    """

    job: TrainingJob
    writer: Writer
    fallback: str
    data: RecoveryData
    module: WriterModule
    location: Location
    hardware: Hardware
    start_weights: dict[str, torch.Tensor]
    unlabelled: SelfTraining
    probe: Retriever | None = None
    together: PosteriorRecoverer | None = None

    @property
    def own_record(self) -> dict[str, Any]:
        """The template, and how the model reads and answers."""
        return {
            "four_bit": _adapter(self.job).four_bit,
            "template": asdict(self.writer.template),
            "decoding": record(self.job.decoding),
            "max_prompt_tokens": self.job.batching.max_prompt_tokens,
            **({"unlabelled": dict(self.unlabelled.record)} if self.unlabelled.record else {}),
            **probe_record(self.probe),
        }

    @property
    def parameters(self) -> tuple[int, int]:
        """The numbers of trainable and of all parameters."""
        return count_parameters(self.writer.model)

    def save(self, weights: dict[str, torch.Tensor]) -> None:
        """Writes the adapter folder, with the probe if it is fitted."""
        with whole_folder(self.job.run.adapter) as scratch:
            write_adapter(self.module.model, own_names(weights), scratch)
            if self.probe is not None:
                write_probe(scratch, self.probe)
            write_card(scratch, self.card({}))
            write_record(scratch, self.record)

    def card(self, metrics: Mapping[str, float]) -> str:
        """The model card of the adapter."""
        return adapter_card(self.job, self.writer, metrics)

    def take(self, trained: Path) -> dict[str, torch.Tensor]:
        """Loads an adapter that is trained, saves it as this run's, and returns its weights."""
        set_adapter_weights(self.module.model, adapter_folder(trained))
        weights = self.module.trained_weights()
        self.save(weights)
        return weights

    def finish(self, weights: dict[str, torch.Tensor]) -> dict[str, float]:
        """Fits the probe, and the weights and the confidence of the model with its retrievers.

        A stage that is not evaluated answers nothing, and has no probe.
        """
        found: dict[str, float] = {}
        job = self.job
        probes = job.probe and job.evaluate
        if not probes and job.retriever is None:
            return found
        writer = self._with_weights(weights)
        if probes:
            found = self._fit_probe(writer, weights)
        if job.retriever is not None or job.decoding.uses_metric:
            self.together = trained_recoverer(job, self.hardware, job.retriever, writer, self.probe)
            fit_and_keep(job, self.together)
        return found

    def _fit_probe(self, writer: Writer, weights: dict[str, torch.Tensor]) -> dict[str, float]:
        folder, precision = self.job.run.adapter, self.hardware.precision
        identity = writer_identity(folder, self.location, precision, _adapter(self.job).four_bit)
        probe = fit_probe(replace(writer, identity=identity), self.job.splits, self.job.scs)
        self.probe = probe
        self.save(weights)
        return {
            "probe/temperature": probe.temperature,
            "probe/form_weight": probe.form_weight,
        }

    def evaluate(self, weights: dict[str, torch.Tensor]) -> RunEvaluations:
        """Evaluates the trained adapter, what it started from and the bare backbone.

        With a probe or a retriever, all together are evaluated, and each alone from the same
        posteriors.
        """
        job, writer = self.job, self._with_weights(weights)

        def evaluated(writer: Writer) -> Evaluation:
            recoverer = PosteriorRecoverer.of_writer(writer, job.decoding, self.fallback, job.scs)
            return evaluate_recoverer(recoverer, job.splits.test, job.scs)

        alone: dict[str, Evaluation] = {}
        start = None
        if self.together is None:
            trained = evaluated(writer)
        else:
            trained, alone = evaluate_sources(self.together, job.splits.test, job.scs)
        if self.start_weights:
            with torch.no_grad():
                for name, parameter in writer.model.named_parameters():
                    if name in self.start_weights:
                        parameter.copy_(self.start_weights[name])
            without = ", without retriever" if job.retriever else ", without probe" if alone else ""
            start = evaluated(replace(writer, name=f"before {job.objective.name}{without}"))
        zero_shot = replace(writer, adapter=False, name=f"{job.backbone.name} zero-shot")
        return RunEvaluations(
            trained,
            start,
            evaluated(zero_shot),
            evaluate_recoverer(ConstantRecoverer(self.fallback), job.splits.test, job.scs),
            alone=alone,
        )

    def _with_weights(self, weights: dict[str, torch.Tensor]) -> Writer:
        """Returns the writer with these weights. A sharded model is loaded again."""
        module = self.module
        if module.sharded:
            module.cpu()
            model = _model(self.job, self.location, self.hardware.precision)
            writer = replace(module.writer, model=model)
            module = _module(self.job, writer, self.fallback, module.fingerprint, self.unlabelled)
        module.load_trained_weights(weights)
        module.model.to(self.hardware.device)
        return module.writer


def require_usable(job: TrainingJob) -> None:
    """Raises what would stop this stage at once, before earlier stages are trained.

    Raises:
        PromptRecoveryError: If there is no GPU for 4-bit weights, the adapter to start from cannot
            be trained further, the backbone's tokenizer cannot be loaded, or the template cannot be
            filled.
    """
    _require_four_bit(job)
    if job.start is not None:
        require_low_rank(adapter_folder(job.start))
    backbone = _backbone(job)
    tokenizer = load_tokenizer(backbone, locate(backbone))
    texts = job.splits.train[0]
    chat_prompt(
        for_tokenizer(job.template, tokenizer),
        tokenizer,
        original_text=texts.original_text,
        rewritten_text=texts.rewritten_text,
    )


def _require_four_bit(job: TrainingJob) -> None:
    if not _adapter(job).four_bit:
        return
    require_four_bit()
    if job.trainer.get("strategy") == "fsdp":
        raise PromptRecoveryError(
            "trainer=fsdp cannot shard 4-bit weights: use trainer=ddp, or adapter=lora"
        )


def _require_eight_bit(job: TrainingJob, hardware: Hardware) -> None:
    if not hardware.precision.eight_bit:
        return
    if _adapter(job).dora or _adapter(job).four_bit:
        raise PromptRecoveryError(
            f"adapter={_adapter(job).name} needs the weights themselves, which precision=int8 "
            "replaces: use adapter=lora or lora_top"
        )
    if hardware.sharded:
        raise PromptRecoveryError("trainer=fsdp cannot shard 8-bit weights: use trainer=ddp")


def prepare_language_model(job: TrainingJob, hardware: Hardware) -> PreparedLanguageModel:
    """Loads the backbone, adds the adapter and tokenises the data."""
    backbone, adapter = _backbone(job), _adapter(job)
    _require_four_bit(job)
    _require_eight_bit(job, hardware)
    precision = hardware.precision
    location = locate(backbone)
    tokenizer = load_tokenizer(backbone, location)
    # From here on, the job has the template that fits the tokenizer; the caller's stays as given.
    job = replace(job, template=for_tokenizer(job.template, tokenizer))
    model = _model(job, location, precision)
    if job.start is not None:
        log.info(
            "training starts from the adapter in %s; its settings replace adapter=…", job.start
        )
    writer = Writer(
        model=model,
        tokenizer=tokenizer,
        template=job.template,
        max_prompt_tokens=job.batching.max_prompt_tokens,
        name=f"{backbone.name} {job.objective.name}",
    )
    fallback = mean_prompt(job.scs, [e.rewrite_prompt for e in job.splits.train])
    unlabelled = self_training(job.unlabelled, job.retriever, job.scs, hardware.precision.name)
    started_with = _identity(location, precision, adapter.four_bit, job.start)
    reference = started_with
    if job.reference != "start":
        other = None if job.reference == "backbone" else Path(job.reference)
        reference = _identity(location, precision, adapter.four_bit, other)
    objective = _objective(job)
    if not hardware.sharded or _needs_preferences(objective):
        model.to(hardware.device)  # otherwise, it is moved layer by layer when it is sharded
    training = None
    if job.trained is None:
        training = training_trees(
            job, objective, writer, started_with, reference, unlabelled.examples
        )
    sharing = trees_share_rows(causal_lm_of(model))
    sampled, updates = 0, 1
    if isinstance(objective, PolicyGradient):
        sampled, updates = objective.samples * job.decoding.max_new_tokens, objective.updates
    data = RecoveryData(
        job.splits,
        job.template,
        tokenizer,
        job.batching,
        job.seed,
        training,
        sharing,
        sampled,
        updates,
    )
    _describe(job, data, model)
    identity = fingerprint(
        job.dataset.fingerprint(),
        started_with,
        *([] if reference == started_with else [reference]),
        *([unlabelled.record] if unlabelled.record else []),
        asdict(adapter),
        asdict(job.template),
        [r.id for r in data.training.rows],
        job.batching.max_prompt_tokens,
    )
    start_weights = {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and job.start is not None
    }
    module = _module(job, writer, fallback, identity, unlabelled)
    if job.keep_hidden_states and isinstance(module, RecovererModule):
        module.frozen = _frozen_states(model, data, location, adapter, hardware)
    skips_layers = bool(frozen_layers(model)) and not hardware.sharded
    if isinstance(module, PolicyModule) and module.scores_again and skips_layers:
        module.frozen = FrozenLayers(model)
    return PreparedLanguageModel(
        job, writer, fallback, data, module, location, hardware, start_weights, unlabelled
    )


def _identity(
    location: Location, precision: Precision, four_bit: bool, adapter: Path | None
) -> str:
    """Identity of a backbone as it is loaded, with an adapter folder or without."""
    digest = None if adapter is None else weights_digest(adapter_folder(adapter))
    return fingerprint(location.identity, precision.identity, four_bit, digest)


def _backbone(job: TrainingJob) -> Backbone:
    assert isinstance(job.backbone, Backbone), "`TrainingJob` refuses what does not fit"
    return job.backbone


def _adapter(job: TrainingJob) -> Adapter:
    assert isinstance(job.adapter, Adapter), "`TrainingJob` refuses what does not fit"
    return job.adapter


def _objective(job: TrainingJob) -> Objective | PolicyGradient:
    assert isinstance(job.objective, Objective | PolicyGradient), "as for the backbone"
    return job.objective


def _needs_preferences(objective: Objective | PolicyGradient) -> bool:
    return isinstance(objective, Objective) and objective.completions != "truth"


def _frozen_states(
    model: Any, data: RecoveryData, location: Location, adapter: Adapter, hardware: Hardware
) -> FrozenStates | None:
    """Returns the kept hidden states below the lowest adapter, which may still be empty."""
    if hardware.sharded:
        raise PromptRecoveryError(
            "trainer=fsdp cannot skip layers: use trainer=ddp, or keep_hidden_states=false"
        )
    count = frozen_layers(model)
    if not count:
        log.warning(
            "keep_hidden_states has no effect: the adapter begins at the first layer, or there is "
            "dropout below it; adapter.layers=0.4 leaves 60 %% of the layers frozen"
        )
        return None
    identity = fingerprint(location.identity, adapter.four_bit, hardware.precision.identity)
    states = FrozenStates(model, data.training.trees(), identity)
    log.info(
        "keeping the hidden states of %d frozen layers: %.2f GB in %s",
        count,
        states.size / 1e9,
        states.path,
    )
    return states


def _module(
    job: TrainingJob, writer: Writer, fallback: str, identity: str, unlabelled: SelfTraining
) -> WriterModule:
    objective, length = _objective(job), job.decoding.max_new_tokens
    if isinstance(objective, PolicyGradient):
        return PolicyModule(
            writer,
            objective,
            [*job.splits.train, *unlabelled.examples],
            job.scs,
            job.seed,
            job.optim,
            identity,
            length,
            fallback,
            unlabelled.posteriors,
        )
    return RecovererModule(writer, objective, job.scs, job.optim, identity, length, fallback)


def _model(job: TrainingJob, location: Location, precision: Precision) -> Any:
    """Loads the backbone with the adapter that training starts from."""
    if job.start is not None:
        require_low_rank(adapter_folder(job.start))
    model = load_model(
        _backbone(job), location, precision.dtype, _adapter(job).four_bit, precision.eight_bit
    )
    if job.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if job.start is None:
        return add_adapter(model, _adapter(job), precision.dtype)
    return load_adapter(model, adapter_folder(job.start), precision.dtype)


def _describe(job: TrainingJob, data: RecoveryData, model: Any) -> None:
    describe_model(job, *count_parameters(model))
    describe_data(job)
    for name, (prompts, characters) in data.cut_characters().items():
        if prompts:
            log.warning(
                "%s: cut %s characters from the middle of the texts of %d prompts "
                "(batching.max_prompt_tokens=%d)",
                name,
                f"{characters:,}",
                prompts,
                job.batching.max_prompt_tokens,
            )
