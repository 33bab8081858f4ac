"""Loads trained recoverers from run folders.

from prompt_recovery.recovery import MBR, Pair, load_recoverer

recoverer = load_recoverer("runs/latest")
[prediction] = recoverer.recover([Pair("1", original_text, rewritten_text)], decoding=MBR())
"""

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from prompt_recovery.backbones.adapters import load_adapter
from prompt_recovery.backbones.load import four_bit_obstacle, load_model, load_tokenizer
from prompt_recovery.backbones.locate import Backbone, locate
from prompt_recovery.backbones.precision import choose_precision
from prompt_recovery.data.splits import Splits
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.encoder import EncoderSource
from prompt_recovery.metrics.recorded import recorded_metric
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery.decoding import Decoding, from_record
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.runs.folder import RunFolder, recoverer_file, require_adapter_folder
from prompt_recovery.templates import Template

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

    It answers from its model's samples alone. `prompt-recovery recover` runs what `assemble`
    builds, which also has neighbours, a channel and a confidence, as its recipe says.

    Args:
        path: A run folder such as `runs/latest`, or an adapter folder.
        decoding: How answers are chosen; by default as in the run.
        precision: auto, bf16 or fp32.
        scs: The metric for MBR; by default the one that the recoverer was trained with.
        backbone_path: Where the backbone is now, if it isn't where the run found it.
        trust_remote_code: Run Python code that comes with the backbone. Records cannot ask for it.

    Raises:
        PromptRecoveryError: The folder doesn't exist, holds no recoverer or a damaged file, or the
            backbone isn't the one that the adapter was trained on.
    """
    saved = read_record(require_adapter_folder(path))
    decoding = decoding or from_record(saved["decoding"])
    writer = load_writer(path, precision, backbone_path, trust_remote_code)
    scs = scs or recorded_metric(saved["metric"])
    return PosteriorRecoverer.of_writer(writer, decoding, saved["fallback"], scs)


def load_writer(
    path: str | Path,
    precision: str = "auto",
    backbone_path: str | None = None,
    trust_remote_code: bool = False,
) -> Writer:
    """The model of a trained recoverer; takes the arguments of `load_recoverer`."""
    folder = require_adapter_folder(path)
    saved = read_record(folder)
    backbone = replace(Backbone(**saved["backbone"]), trust_remote_code=trust_remote_code)
    if backbone_path is not None:
        backbone = replace(backbone, path=backbone_path)
    location = locate(backbone)
    if saved.get("backbone_identity", location.identity) != location.identity:
        if backbone_path is None:
            raise PromptRecoveryError(
                f"{location.folder}: is not the backbone that {folder} was trained on; say where "
                "that is with backbone_path=<folder>"
            )
        log.warning("%s: other files than the adapter was trained on", location.folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = choose_precision(precision, device).dtype
    wanted = saved.get("four_bit", False)
    four_bit = wanted and four_bit_obstacle() is None
    if wanted and not four_bit:
        log.warning(
            "%s was trained on 4-bit weights, which need a CUDA GPU and bitsandbytes: here they "
            "are whole, and answers may differ a little",
            folder,
        )
    model = load_adapter(load_model(backbone, location, dtype, four_bit), folder, dtype).eval()
    return Writer(
        model=model.requires_grad_(False).to(device),
        tokenizer=load_tokenizer(backbone, location),
        template=Template(**saved["template"]),
        max_prompt_tokens=saved["max_prompt_tokens"],
        name=f"{backbone.name} {saved['objective']}",
    )


def read_record(folder: Path) -> dict[str, Any]:
    """What `recoverer.yaml` in an adapter folder says; `training.run` writes it.

    Raises:
        PromptRecoveryError: it is damaged or lacks something.
    """
    path = recoverer_file(folder)
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        missing = _RECORD - set(saved)
        known = {f.name for f in fields(Backbone)}
        saved["backbone"] = {k: v for k, v in saved["backbone"].items() if k in known}
        if "metric" not in missing:
            EncoderSource(**saved["metric"]["source"])
    except (OSError, ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
        raise PromptRecoveryError(
            f"{path}: is damaged ({type(error).__name__}); copy the adapter folder again"
        ) from error
    if missing:
        raise PromptRecoveryError(f"{path}: lacks {', '.join(sorted(missing))}; copy it again")
    return dict(saved)


_RECORD = {"backbone", "template", "decoding", "max_prompt_tokens", "fallback", "objective",
           "metric"}  # fmt: skip


def splits_of(folder: Path) -> Splits:
    """What the run that made an adapter was trained, validated and tested on, without lead-ins.

    Raises:
        PromptRecoveryError: the run's configuration or its data cannot be had, or has changed.
    """
    recorded = read_record(folder).get("data", {}).get("fingerprint")
    return RunFolder.of_adapter(folder).splits(recorded)
