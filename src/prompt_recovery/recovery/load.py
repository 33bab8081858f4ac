"""Loads trained recoverers from run folders.

To answer a pair of texts:

    from prompt_recovery.recovery import MBR, Pair, load_recoverer

    recoverer = load_recoverer("runs/latest")
    pairs = [Pair("1", original_text, rewritten_text)]
    [prediction] = recoverer.recover(pairs, decoding=MBR())

`assemble` loads what `prompt-recovery recover` answers with, which may be several runs.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from prompt_recovery.backbones.adapters import load_adapter
from prompt_recovery.backbones.load import (
    four_bit_obstacle,
    load_merged,
    load_model,
    load_reading_tokenizer,
)
from prompt_recovery.backbones.locate import Backbone, Location, locate
from prompt_recovery.backbones.precision import Precision, choose_precision
from prompt_recovery.data.splits import Splits
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.bert import load_reader
from prompt_recovery.metrics.recorded import recorded_metric
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.bank import PromptBank, read_prompts
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.familiarity import Familiarity
from prompt_recovery.recovery.fitted import Fitted, fit_key, kept_fit, unfitted_joining
from prompt_recovery.recovery.form import BankForm
from prompt_recovery.recovery.probe import Probe, ProbeEncoder
from prompt_recovery.recovery.records import (
    decoding_of,
    read_record,
    recorded_backbone,
    recorded_name,
)
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import PairEncoder, Retriever, is_probe
from prompt_recovery.recovery.sources import Source, WriterSource
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.runs.folder import (
    RunFolder,
    bank_file,
    bank_vectors_file,
    familiarity_file,
    form_file,
    is_retriever,
    probe_file,
    recoverer_folders,
    require_adapter_folder,
    weights_digest,
)
from prompt_recovery.storage import fingerprint, local_path
from prompt_recovery.templates import Template
from prompt_recovery.terminal import announced
from prompt_recovery.trees import causal_lm_of

log = logging.getLogger(__name__)


def load_recoverer(
    path: str | Path,
    decoding: Decoding | None = None,
    precision: str = "auto",
    scs: SCS | None = None,
    backbone_path: str | None = None,
    trust_remote_code: bool = False,
) -> PosteriorRecoverer:
    """A trained recoverer, on the GPU if there is one.

    It answers from its own posterior alone: that of a language model's samples, that of a dense
    retriever, or the sum of both. The weights of the sum and the confidence are those that were
    fitted for this decoding when the run ended or was first used; otherwise, they are the default,
    and there is no confidence. `prompt-recovery recover` runs what `assemble` builds, which fits
    what is missing and also has neighbours and a channel, as its recipe says.

    Args:
        path: A run folder such as `runs/latest`, an adapter or retriever folder, or the name of a
            recoverer that comes with the package, such as "shipped".
        decoding: How answers are chosen; by default as in the run.
        precision: auto, bf16, fp32 or int8 (frozen linear layers on a CPU; see `load_model`).
        scs: The metric for MBR; by default the one that the recoverer was trained with.
        backbone_path: Where the backbone is now, if it isn't where the run found it.
        trust_remote_code: Run Python code that comes with the backbone. Records cannot ask for it.

    Raises:
        PromptRecoveryError: If the folder doesn't exist, holds no recoverer or a damaged file, or
            the backbone isn't the one that the adapter was trained on.
    """
    folders = recoverer_folders(path)
    scs = scs or recorded_metric(read_record(folders[0])["metric"])
    decoding = decoding or decoding_of(folders)
    found = load_sources(folders, scs, decoding, precision, backbone_path, trust_remote_code)
    folders, sources = [folder for folder, _ in found], [source for _, source in found]
    records = [read_record(folder) for folder in folders]
    recoverer = PosteriorRecoverer(
        [(source, 1.0) for source in sources],
        decoding,
        records[0]["fallback"],
        choosing_metric(scs, sources),
    )
    key = fit_key(decoding, scs, folders, records, sources)
    fitted = kept_fit(folders[0], key, recoverer) or Fitted(unfitted_joining(recoverer))
    fitted.applied_to(recoverer)
    return recoverer


def choosing_metric(scs: SCS, sources: Sequence[Source]) -> SCS:
    """The metric by which a recoverer chooses: it need not embed prompts that come embedded."""
    for source in sources:
        if isinstance(source, Retriever) and source.bank.given:
            scs = scs.knowing(source.bank.prompts, source.bank.vectors)
    return scs


def load_sources(
    folders: Sequence[Path],
    scs: SCS,
    decoding: Decoding,
    precision: str = "auto",
    backbone_path: str | None = None,
    trust_remote_code: bool = False,
    keeps: bool = False,
    probe: bool = True,
) -> list[tuple[Path, WriterSource | Retriever]]:
    """The sources of posteriors in folders, each with its folder.

    An adapter folder has a language model and perhaps its probe.

    Args:
        folders: Adapter and retriever folders.
        scs: The metric; a retriever embeds its prompts with its encoder.
        decoding: The decoding. Only one that uses the metric has a use for a probe.
        precision: auto, bf16, fp32 or int8 (frozen linear layers on a CPU; see `load_model`).
        backbone_path: Where the backbone is now, if it isn't where the run found it.
        trust_remote_code: Run Python code that comes with the backbone.
        keeps: Keep the samples of a language model in the cache.
        probe: Whether a language model's probe is a source, too.

    Raises:
        PromptRecoveryError: If the folder holds no recoverer or a damaged file, or the backbone
            isn't the one that the adapter was trained on.
    """
    found: list[tuple[Path, WriterSource | Retriever]] = []
    for folder in folders:
        if is_retriever(folder):
            found.append((folder, load_retriever(folder, scs, precision)))
            continue
        writer = load_writer(folder, precision, backbone_path, trust_remote_code)
        own = load_probe(folder, writer, scs) if probe and decoding.uses_metric else None
        found += [(folder, source) for source in sources_of(writer, own, keeps)]
    return found


def sources_of(
    writer: Writer, probe: Retriever | None, keeps: bool = False
) -> list[WriterSource | Retriever]:
    """A language model as a source and, if it has a probe, the probe, which reads nothing twice.

    Args:
        writer: The language model.
        probe: The retriever whose encoder is its probe.
        keeps: Keep the samples in the cache.
    """
    if probe is None:
        return [WriterSource(writer, keeps=keeps)]
    assert isinstance(probe.encoder, ProbeEncoder)
    return [WriterSource(probe.encoder.listening, keeps=keeps), probe]


def load_probe(folder: Path, writer: Writer, scs: SCS) -> Retriever | None:
    """The retriever that the probe in an adapter folder makes of its language model.

    Args:
        folder: The adapter folder.
        writer: Its language model.
        scs: The metric, whose encoder embeds the prompts.

    Returns:
        None if there is no probe, or if it was fitted for another sentence encoder, which a warning
        says.

    Raises:
        PromptRecoveryError: If a file is missing or damaged.
    """
    saved = read_record(folder)
    if saved.get("probe") is None:
        return None
    if saved["metric"]["encoder"] != scs.encoder.identity:
        log.warning(
            "%s: its probe is for another sentence encoder than %s, and is not used",
            folder,
            scs.encoder.name,
        )
        return None
    bank = _bank(folder, scs)
    size = causal_lm_of(writer.model).config.get_text_config().hidden_size
    probe = Probe.read(probe_file(folder), bank.vectors.shape[1], size)
    encoder = ProbeEncoder(writer, probe)
    return _retriever(folder, encoder, bank, saved["probe"], f"{writer.name} probe")


def _bank(folder: Path, scs: SCS) -> PromptBank:
    """The prompts in a folder."""
    prompts, vectors = read_prompts(bank_file(folder)), bank_vectors_file(folder)
    if vectors.is_file():
        return PromptBank.read(prompts, vectors)
    return PromptBank.of(prompts, scs.encoder)


def _retriever(
    folder: Path,
    encoder: PairEncoder | ProbeEncoder,
    bank: PromptBank,
    posterior: Mapping[str, Any],
    name: str,
) -> Retriever:
    """The retriever with what its folder knows of the training pairs.

    Args:
        folder: A retriever folder, or an adapter folder with a probe.
        encoder: The encoder.
        bank: The prompts in the folder.
        posterior: The recorded `temperature` and `k`.
        name: Its name in tables.
    """
    return Retriever(
        encoder,
        bank,
        posterior["temperature"],
        posterior["k"],
        name,
        known=Familiarity.read(familiarity_file(folder)),
        form=BankForm.read(form_file(folder), bank.prompts),
    )


def kind_of(source: Source) -> Literal["model", "probe", "retriever"]:
    """What a source of a trained recoverer is: a language model, its probe, or a retriever."""
    if isinstance(source, WriterSource):
        return "model"
    return "probe" if is_probe(source) else "retriever"


def fit_place(
    recoverer: PosteriorRecoverer, adapter: Path, retriever: Path, dtype: str | None = None
) -> tuple[Path, str]:
    """Where `load_recoverer` looks for what was fitted for a recoverer: the folder and the key.

    Args:
        recoverer: A recoverer with a metric.
        adapter: The folder of its language model, if it has one.
        retriever: The folder of its retriever, if it has one.
        dtype: As in `fit_key`.
    """
    assert recoverer.scs is not None
    sources = [s for s, _ in recoverer.sources if isinstance(s, WriterSource | Retriever)]
    folders = [retriever if kind_of(source) == "retriever" else adapter for source in sources]
    records = [read_record(folder) for folder in folders]
    key = fit_key(recoverer.decoding, recoverer.scs, folders, records, sources, dtype=dtype)
    return folders[0], key


def load_retriever(folder: Path, scs: SCS, precision: str = "auto") -> Retriever:
    """The dense retriever in a folder, with the prompts that it was trained on as its bank.

    Args:
        folder: A retriever folder.
        scs: The metric, whose encoder embeds the prompts.
        precision: auto, bf16, fp32 or int8 (frozen linear layers on a CPU; see `load_model`).

    Raises:
        PromptRecoveryError: If a file is missing or damaged, or the metric has another encoder than
            the one in whose space the retriever was trained.
    """
    saved = read_record(folder)
    if saved["metric"]["encoder"] != scs.encoder.identity:
        raise PromptRecoveryError(
            f"{folder}: was trained for another sentence encoder than "
            f"{scs.encoder.name}; use the metric that it was trained with, or train a retriever "
            "with this one"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with announced(f"loading the retriever in {folder}"):
        model = load_reader(folder).requires_grad_(False).to(device)
    digest = fingerprint(weights_digest(folder), saved)
    bank = _bank(folder, scs)
    if bank.vectors.shape[1] != model.get_embedding_dimension():
        raise PromptRecoveryError(
            f"{folder}: embeds in {model.get_embedding_dimension()} dimensions, and the metric in "
            f"{bank.vectors.shape[1]}; copy the retriever folder again"
        )
    encoder = PairEncoder(model, choose_precision(precision, device).dtype, digest)
    return _retriever(folder, encoder, bank, saved, recorded_name(saved))


def load_writer(
    path: str | Path,
    precision: str = "auto",
    backbone_path: str | None = None,
    trust_remote_code: bool = False,
) -> Writer:
    """The language model of a trained recoverer; takes the arguments of `load_recoverer`."""
    folder = require_adapter_folder(path)
    saved = read_record(folder)
    backbone, location = located_backbone(folder, backbone_path, trust_remote_code)
    if saved.get("backbone_identity", location.identity) != location.identity:
        if backbone_path is None:
            raise PromptRecoveryError(
                f"{location.folder}: is not the backbone that {folder} was trained on; say where "
                "that is with backbone_path=<folder>"
            )
        log.warning("%s: its files are not those that the adapter was trained on", location.folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = choose_precision(precision, device)
    dtype = chosen.dtype
    wanted = saved.get("four_bit", False)
    four_bit = wanted and four_bit_obstacle() is None
    if wanted and not four_bit:
        log.warning(
            "%s was trained on 4-bit weights, which need a CUDA GPU and bitsandbytes; they are not "
            "in 4 bits here, so answers may differ slightly",
            folder,
        )

    def whole() -> Any:
        model = load_model(backbone, location, dtype, four_bit, chosen.eight_bit)
        return load_adapter(model, folder, dtype).eval().requires_grad_(False).to(device)

    merged = (
        None if four_bit or chosen.eight_bit else load_merged(backbone, location, folder, dtype)
    )
    return Writer(
        model=whole() if merged is None else merged,
        tokenizer=load_reading_tokenizer(backbone, location),
        template=Template(**saved["template"]),
        max_prompt_tokens=saved["max_prompt_tokens"],
        name=recorded_name(saved),
        identity=writer_identity(folder, location, chosen, four_bit),
        whole=None if merged is None else cache(whole),
    )


def writer_identity(folder: Path, location: Location, precision: Precision, four_bit: bool) -> str:
    """The identity of a language model with an adapter, as a writer has it."""
    return fingerprint(weights_digest(folder), location.identity, precision.identity, four_bit)


def located_backbone(
    folder: Path, backbone_path: str | None = None, trust_remote_code: bool = False
) -> tuple[Backbone, Location]:
    """The backbone of an adapter, and its files; takes the arguments of `load_recoverer`.

    Raises:
        PromptRecoveryError: If the files cannot be found or downloaded.
    """
    backbone = recorded_backbone(folder, read_record(folder), backbone_path, trust_remote_code)
    moved = backbone_path is None and backbone.path is not None
    if moved and not (local_path(str(backbone.path)) / "config.json").is_file():
        raise PromptRecoveryError(
            f"{folder}: its backbone is no longer in {backbone.path}; say where it is with "
            "backbone_path=<folder>"
        )
    return backbone, locate(backbone, "backbone_path")


def splits_of(folder: Path) -> Splits:
    """What the run that made an adapter or a retriever was trained, validated and tested on.

    Lead-ins are left out.

    Raises:
        PromptRecoveryError: If the configuration of the run or its data cannot be read, or the data
            has changed.
    """
    recorded = (read_record(folder).get("data") or {}).get("fingerprint")
    return RunFolder.of_adapter(folder).splits(recorded, folder)
