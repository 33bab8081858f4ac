"""Packs finished runs into the folder of a shipped recoverer, and fits how they answer together."""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from prompt_recovery.backbones.encoders import EncoderBackbone, locate_encoder
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.recorded import recorded_metric
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.bank import PromptBank, nearest, read_prompts
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.fitted import keep_fit, kept_fit
from prompt_recovery.recovery.interface import ConstantRecoverer, pairs_of
from prompt_recovery.recovery.job import steps
from prompt_recovery.recovery.load import fit_place, kind_of, load_writer, splits_of
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.records import read_record
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import Retriever
from prompt_recovery.runs.differences import difference, read_weights, restored, write_weights
from prompt_recovery.runs.folder import (
    RunFolder,
    bank_file,
    bank_vectors_file,
    calibration_file,
    familiarity_file,
    form_file,
    is_retriever,
    probe_file,
    recoverer_file,
    recoverer_folders,
    training_file,
)
from prompt_recovery.runs.shipped import (
    MANIFEST,
    Manifest,
    Restored,
    digest_of,
    unpack,
    weights_in,
)
from prompt_recovery.settings import LocalPath, Precision
from prompt_recovery.settings.extras import is_extra
from prompt_recovery.shipping.card import CARD, card
from prompt_recovery.storage import read_yaml, write_json
from prompt_recovery.terminal import progress_bar
from prompt_recovery.training.checkpoints import write_record
from prompt_recovery.training.probe import fit_probe, probe_record, write_probe
from prompt_recovery.training.results import (
    RunEvaluations,
    evaluate_recoverer,
    evaluate_sources,
    prediction_rows,
    test_metrics,
)

log = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"
_DIFFERENCE = "difference.safetensors"
_PIP = "pip install --no-deps "
_OTHER_PRECISION = "torch.bfloat16"
SAMPLE = "sample.json"
"""Pairs with what the retriever finds for them on the machine where it was shipped."""
_SAMPLED, _NEAREST = 10, 5
_NOT_SHIPPED = {_WEIGHTS, "calibration.json"}
_SHARED = {".safetensors", ".npy", ".npz"}


@dataclass(frozen=True, kw_only=True)
class ShippingSettings:
    """What a shipped recoverer is made of.

    Attributes:
        runs: A finished run with an adapter and a retriever, or a run with each. Without any, the
            recoverer in `output` is tested or gets a new card.
        output: The folder to write. Its name is that of the recoverer. It is replaced if it exists.
        test: Whether to answer the test examples of the runs, for the card and for `compare`.
        reports: Files `report.json` of `prompt-recovery evaluate recoverers=[<name>]`, with results
            for the card.
        precision: In which everything is fitted and tested: "fp32", or "int8" for a large model.
    """

    runs: Sequence[LocalPath] = ()
    output: LocalPath
    test: bool = False
    reports: Sequence[LocalPath] = ()
    precision: Literal["fp32", "int8"] = "fp32"


def ship(given: ShippingSettings) -> Path:
    """Makes the folder of a shipped recoverer. The same runs give the same files.

    The weights of the sources and the confidence are fitted on the validation split, with the
    weights of the models as they are unpacked. They are kept for the other precisions, too, which
    change the samples of a model, but not how far to trust them.

    Raises:
        PromptRecoveryError: If the runs don't have one retriever and at most one adapter, were not
            trained with the same data and split, or cannot be loaded; or if `output` is something
            other than a shipped recoverer.
    """
    output = Path(given.output).expanduser()
    if output.exists() and not (output / MANIFEST).is_file():
        raise PromptRecoveryError(
            f"output={output}: is not a shipped recoverer, and would be replaced; give a new folder"
        )
    scratch = output.with_name(f".{output.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        if given.runs:
            _pack(given.runs, scratch, given.precision)
        elif (output / MANIFEST).is_file():
            shutil.copytree(output, scratch)
        else:
            raise PromptRecoveryError(
                f"output={output}: holds no shipped recoverer; give the runs to make it of"
            )
        if given.runs or given.test:
            with tempfile.TemporaryDirectory() as temporary:
                _complete(scratch, RunFolder(Path(temporary) / output.name), given)
        _share(scratch, output)
        (scratch / CARD).write_text(card(output.name, scratch, given.reports), "utf-8")
        shutil.rmtree(output, ignore_errors=True)
        scratch.rename(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    log.info("%s: %.1f MB", output, size / 1e6)
    return output


def _pack(runs: Sequence[str], scratch: Path, precision: Precision) -> None:
    """Packs the parts of the runs, with a manifest, into a new folder."""
    adapter, retriever = _parts(runs)
    folders = [folder for folder in (adapter, retriever) if folder is not None]
    scratch.mkdir(parents=True)
    parts = {"retriever/" + _WEIGHTS: _pack_retriever(retriever, scratch / "retriever")}
    if adapter is not None:
        _pack_adapter(adapter, scratch / "adapter", precision)
    _write_config(folders, scratch)
    Manifest(_digests(scratch), _packages(folders), parts).write(scratch)


def _share(scratch: Path, output: Path) -> None:
    """Removes the weights and embeddings that another recoverer in the same folder holds, too."""
    manifest = Manifest.read(scratch)
    shared = {}
    for other in sorted(path.parent for path in scratch.parent.glob(f"*/{MANIFEST}")):
        theirs = Manifest.read(other)
        if other.name in (scratch.name, output.name) or theirs.shared:
            continue
        for name, sha256 in manifest.files.items():
            if theirs.files.get(name) == sha256 and Path(name).suffix in _SHARED:
                shared[name] = other.name
    for name in shared:
        (scratch / name).unlink(missing_ok=True)
    replace(manifest, shared=shared).write(scratch)


def _complete(scratch: Path, run: RunFolder, given: ShippingSettings) -> None:
    """Adds what an unpacked recoverer tells: what is fitted, a sample and, if wanted, a test.

    Args:
        scratch: The packed folder.
        run: Where it is unpacked.
        given: Whether to answer the test examples, and the precision.
    """
    run.path.mkdir()
    unpack(scratch, run.path)
    own = calibration_file(run.recoverers[0])
    own.unlink(missing_ok=True)  # what was fitted before is for other settings
    recoverer = _fit(run, given.precision)
    shutil.copyfile(own, scratch / own.relative_to(run.path))
    write_json(scratch / SAMPLE, _sample(recoverer, run), indent=1)
    if given.test:
        _test(recoverer, run, RunFolder(scratch))
    manifest = Manifest.read(scratch)
    shared = {name: manifest.files[name] for name in manifest.shared}
    files = dict(sorted((_digests(scratch) | shared).items()))
    replace(manifest, files=files).write(scratch)


def _parts(runs: Sequence[str]) -> tuple[Path | None, Path]:
    """The adapter, if any, and the retriever of the runs."""
    folders = [folder for run in runs for folder in recoverer_folders(run)]
    retrievers = [folder for folder in folders if is_retriever(folder)]
    adapters = [folder for folder in folders if not is_retriever(folder)]
    if len(retrievers) != 1 or len(adapters) > 1:
        raise PromptRecoveryError(
            f"runs={list(runs)}: have {len(retrievers)} retrievers and {len(adapters)} adapters; "
            "give runs with one retriever and at most one adapter together"
        )
    return (adapters[0] if adapters else None), retrievers[0]


def _pack_adapter(adapter: Path, folder: Path, precision: Precision) -> None:
    """Copies an adapter with its weights in bf16, and its probe, which is fitted if it has none."""
    folder.mkdir()
    for name in ("adapter_config.json", "recoverer.yaml"):
        shutil.copyfile(adapter / name, folder / name)
    weights = load_file(adapter / "adapter_model.safetensors")
    thin = {name: weight.to(torch.bfloat16) for name, weight in sorted(weights.items())}
    save_file(thin, folder / "adapter_model.safetensors", {"format": "pt"})
    scs = recorded_metric(read_record(adapter)["metric"])
    if probe_file(adapter).is_file():
        for path in (f(adapter) for f in (probe_file, bank_file, familiarity_file, form_file)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    else:
        probe = fit_probe(load_writer(folder, precision), splits_of(adapter), scs)
        write_probe(folder, probe)
        write_record(folder, {**read_yaml(recoverer_file(folder)), **probe_record(probe)})
    bank = PromptBank.of(read_prompts(bank_file(folder)), scs.encoder)
    bank.write_vectors(bank_vectors_file(folder))


def _pack_retriever(retriever: Path, folder: Path) -> Restored:
    """Copies a retriever with its prompts embedded and its weights as a difference."""
    for path in sorted(retriever.rglob("*")):
        name = path.relative_to(retriever)
        if path.is_file() and str(name) not in _NOT_SHIPPED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    record = read_record(retriever)
    scs = recorded_metric(record["metric"])
    bank = PromptBank.of(read_prompts(bank_file(retriever)), scs.encoder)
    bank.write_vectors(bank_vectors_file(folder))
    weights = read_weights(retriever / _WEIGHTS)
    backbone = EncoderBackbone(**record["backbone"])
    part = _base(backbone)
    base = {} if part.package is None else read_weights(weights_in(part))
    packed = difference(weights, base)
    if not base:
        packed = {name: weight.astype(np.float16) for name, weight in packed.items()}
    write_weights(folder / _DIFFERENCE, packed)
    again = restored(packed, base)
    log.info("retriever: relative error of the difference %.2e", _error(weights, again, base))
    with tempfile.TemporaryDirectory() as temporary:
        write_weights(Path(temporary) / _WEIGHTS, again)
        digest = digest_of(Path(temporary) / _WEIGHTS)
    return Restored(f"retriever/{_DIFFERENCE}", digest, part.package, part.weights)


def _base(backbone: EncoderBackbone) -> Restored:
    """Where the weights are that the retriever was made of, if a package holds them."""
    spec = None if backbone.package is None else find_spec(backbone.package)
    if backbone.path is not None or spec is None or not spec.submodule_search_locations:
        return Restored("", "")
    file = locate_encoder(backbone).folder / _WEIGHTS
    place = Path(next(iter(spec.submodule_search_locations)))
    return Restored("", "", backbone.package, file.relative_to(place).as_posix())


def _error(weights: Mapping[str, Any], again: Mapping[str, Any], base: Mapping[str, Any]) -> float:
    """The length of what was lost, relative to that of the whole difference."""
    lost = sum(float(np.square(again[n] - w).sum()) for n, w in weights.items())
    whole = sum(float(np.square(w - base.get(n, 0)).sum()) for n, w in weights.items())
    return float((lost / max(whole, 1e-30)) ** 0.5)


def _write_config(folders: Sequence[Path], scratch: Path) -> None:
    """Writes the settings of the runs; `config.yaml` says where the data is and how it is split.

    One of the parts may have been trained on more examples, as of `data=starter_full`, as long as
    both are validated and tested on the same ones.
    """
    configs = [RunFolder.of_adapter(folder).config_of(folder) for folder in folders]
    splits = [splits_of(folder) for folder in folders]
    held_out = [[{e.id for e in part} for part in (s.val, s.test)] for s in splits]
    if held_out[0] != held_out[-1]:
        raise PromptRecoveryError(
            f"{folders[0].parent} and {folders[-1].parent} have other validation or test examples; "
            "give runs that share both"
        )
    RunFolder(scratch).write_config(configs[0])
    if folders[0].parent != folders[-1].parent:
        text = yaml.safe_dump(configs[-1], allow_unicode=True, sort_keys=False)
        training_file(scratch / "retriever").write_text(text, "utf-8")


def _packages(folders: Sequence[Path]) -> dict[str, str]:
    """The packages that hold the backbones and the metric's encoder, by the requirement."""
    found = {}
    for folder in folders:
        record = read_record(folder)
        for source in (record["backbone"], record["metric"]["source"]):
            package, install = source.get("package"), source.get("install") or ""
            known = install.startswith(_PIP) or is_extra(install)
            if package is not None and source.get("path") is None and known:
                found[package.replace("{part}", "1")] = install.removeprefix(_PIP)
    return found


def _digests(folder: Path) -> dict[str, str]:
    """The digests of all files that are unpacked, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    return {
        name: digest_of(folder / name) for name in names if name not in (MANIFEST, CARD, SAMPLE)
    }


def _fit(run: RunFolder, precision: Literal["fp32", "int8"]) -> PosteriorRecoverer:
    """Fits a recoverer as `recover` does, and keeps what it finds for other precisions, too."""
    with progress_bar() as progress:
        recipe = Recipe([run.path], MBR(), precision=precision)
        ready = assemble(recipe, steps(progress), keeps_samples=True)  # a killed one goes on
    recoverer = ready.recoverer
    assert isinstance(recoverer, PosteriorRecoverer) and recoverer.scs is not None
    parts = (recoverer, run.adapter, run.retriever)
    found = kept_fit(*fit_place(*parts), recoverer)
    if found is None:
        raise PromptRecoveryError(
            f"{run.path.name}: nothing could be fitted; give runs with a validation split whose "
            "data is at hand"
        )
    keep_fit(*fit_place(*parts, dtype=_OTHER_PRECISION), found)
    return recoverer


def _sample(recoverer: PosteriorRecoverer, run: RunFolder) -> list[dict[str, Any]]:
    """Validation examples with the prompts that the retriever finds nearest, for a test."""
    examples = splits_of(run.recoverers[0]).val[:_SAMPLED]
    [source] = [s for s, _ in recoverer.sources if kind_of(s) == "retriever"]
    assert isinstance(source, Retriever)
    predicted = source.encoder.embed(pairs_of(examples))
    indices, cosines = nearest(predicted, source.bank.vectors, _NEAREST)
    return [
        {
            "original_text": example.original_text,
            "rewritten_text": example.rewritten_text,
            "nearest": {
                source.bank.prompts[i]: round(float(cosine), 5)
                for i, cosine in zip(row, own, strict=True)
            },
        }
        for example, row, own in zip(examples, indices, cosines, strict=True)
    ]


def _test(recoverer: PosteriorRecoverer, run: RunFolder, packed: RunFolder) -> None:
    """Answers the test examples, and writes the predictions and the metrics of a run."""
    test = splits_of(run.recoverers[0]).test
    if not test:
        raise PromptRecoveryError("test=true: the runs were trained without a test split")
    assert recoverer.scs is not None
    scs = recorded_metric(read_record(run.recoverers[0])["metric"])
    together, alone = evaluate_sources(recoverer, test, scs)
    constant = evaluate_recoverer(ConstantRecoverer(recoverer.fallback), test, scs)
    found = RunEvaluations(together, None, None, constant, alone=alone)
    packed.write_predictions(prediction_rows(test, found))
    packed.write_metrics(test_metrics(found))
