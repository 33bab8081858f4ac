"""Makes a folder in Hub format of a GGUF file, with `transformers`."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging as transformers_logging

from prompt_recovery.backbones.locate import Location
from prompt_recovery.backbones.parts import join, require_space
from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.runs.processes import is_first

log = logging.getLogger(__name__)

_WORTH_SAYING = 1 << 29  # bytes of converted weights: below, it takes seconds
_BYTES_PER_SECOND = 4e7  # of converted weights, on one slow core


def convert(location: Location, scratch: Path, target: Path) -> None:
    """Writes the weights, in bf16, and the tokenizer of a GGUF file.

    Args:
        location: The GGUF file, which may be in parts.
        scratch: The folder that is written to.
        target: The folder that it becomes, for messages.

    Raises:
        PromptRecoveryError: If the GGUF file is damaged, or the disk has too little space.
    """
    with _read_once():
        _convert(location, scratch, target)


def _convert(location: Location, scratch: Path, target: Path) -> None:
    started = time.perf_counter()
    file = location.folder / str(location.gguf_file)
    joining = bool(location.parts) and not file.is_file()
    if joining:
        size = sum(part.stat().st_size for part in location.parts)
        require_space(scratch, size)
        file = scratch / "joined.gguf"
        join(location.parts, file, str(location.sha256), location.advice)
    with _progress_bars(False), _one_line(location, file):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        size = _size_in_bf16(config)
    require_space(scratch, size)
    if size >= _WORTH_SAYING and is_first():
        minutes = max(round(size / _BYTES_PER_SECOND / 60), 1)
        log.info(
            "converting %s to bf16 safetensors, once: it takes up to %d minutes and %.1f GB in %s",
            location.gguf_file,
            minutes,
            size / 1e9,
            target,
        )
    with _progress_bars(size >= _WORTH_SAYING), _one_line(location, file):
        options = {"gguf_file": file.name, "config": config}
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            **options,
        )
    if joining:
        file.unlink()  # the packages still hold it; before 3 GB more are written
    # It is dequantised, but still says that it is GGUF, and such a model refuses to be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    with _progress_bars(size >= _WORTH_SAYING):
        model.save_pretrained(scratch, safe_serialization=True)
    tokenizer.save_pretrained(scratch)
    for path in scratch.iterdir():
        path.chmod(0o644)
    if size >= _WORTH_SAYING and is_first():
        log.info("converted it in %.0f s", time.perf_counter() - started)


def _size_in_bf16(config: PreTrainedConfig) -> int:
    """The size of the converted weights in bytes."""
    with torch.device("meta"):
        return 2 * int(AutoModelForCausalLM.from_config(config).num_parameters())


class _Reader(gguf.GGUFReader):
    """Reads a file through a plain array: slices of a `memmap` cost several times as much."""

    _data: Any

    @property
    def data(self) -> Any:
        return self._data

    @data.setter
    def data(self, mapped: Any) -> None:
        self._data = mapped.view(np.ndarray)


@contextmanager
def _read_once() -> Iterator[None]:
    """Keeps what `transformers` asks of the library again and again, seconds of work each time.

    It opens the file three times, and wants the same names of tensors for each module of the model.
    """
    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = lru_cache(_Reader), lru_cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names


@contextmanager
def _one_line(location: Location, file: Path) -> Iterator[None]:
    """Gives what a library says of a damaged file in one line."""
    try:
        yield
    except Exception as error:
        raise PromptRecoveryError(
            f"cannot read {file} ({first_line(error)}): {location.advice}"
        ) from error


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """Shows the progress bars of `transformers` on a terminal, and hides its warnings."""
    level, were_on = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    switch: Any = {
        True: transformers_logging.enable_progress_bar,
        False: transformers_logging.disable_progress_bar,
    }
    shown = shown and is_first() and sys.stderr.isatty()
    switch[shown]()
    transformers_logging.set_verbosity_error()
    bar = modeling_gguf_pytorch_utils.tqdm  # it does not obey the switch
    modeling_gguf_pytorch_utils.tqdm = partial(bar, disable=not shown)
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = bar
        transformers_logging.set_verbosity(level)
        switch[were_on]()
