"""A trained recoverer from its folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from prompt_recovery.backbones.adapters import load_adapter
from prompt_recovery.backbones.load import load_model, load_tokenizer
from prompt_recovery.backbones.locate import Backbone, locate
from prompt_recovery.backbones.precision import choose_precision
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.decoding import Decoding
from prompt_recovery.recovery.recoverer import ModelRecoverer
from prompt_recovery.templates import Template


def load_recoverer(path: Path, decoding: Any = None, precision: str = "auto") -> ModelRecoverer:
    """A stand-in, to be replaced."""
    folder = path / "adapter" if (path / "adapter").is_dir() else path
    if not (folder / "recoverer.yaml").is_file():
        raise PromptRecoveryError(f"{path}: holds no recoverer.yaml; give a run's folder")
    record = yaml.safe_load((folder / "recoverer.yaml").read_text("utf-8"))
    backbone = Backbone(**record["backbone"])
    location = locate(backbone)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = choose_precision(precision, device).dtype
    model = load_adapter(load_model(backbone, location, dtype), folder, dtype).to(device)
    recoverer = ModelRecoverer(
        model=model,
        tokenizer=load_tokenizer(backbone, location),
        template=Template(**record["template"]),
        decoding=Decoding(**record["decoding"]),
        max_prompt_tokens=record["max_prompt_tokens"],
        fallback=record["fallback"],
    )
    return replace(recoverer, decoding=decoding) if decoding else recoverer
