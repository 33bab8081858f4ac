"""Chooses bf16 where it is really faster, and fp32 otherwise."""

import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.kernels.eight_bit import eight_bits_work
from prompt_recovery.kernels.linear import bf16_is_native
from prompt_recovery.storage import KeyValueStore, cache_dir, fingerprint, locked

_WORTH_IT = 1.2  # bf16 costs accuracy, which a smaller speed-up is not worth
_EMULATED = 0.4  # bf16 is so slow only if it is emulated, and a larger product then takes long


@dataclass(frozen=True)
class Precision:
    """How a model computes, and the reason why it was chosen.

    Attributes:
        dtype: The floating-point type.
        reason: The reason.
        eight_bit: Whether the frozen linear layers of a language model multiply 8-bit integers.
    """

    dtype: torch.dtype
    reason: str
    eight_bit: bool = False

    @property
    def name(self) -> Literal["bf16", "fp32", "int8"]:
        """As in the setting `precision`."""
        if self.eight_bit:
            return "int8"
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    @property
    def identity(self) -> str:
        """What tells it apart where results are kept."""
        return "int8" if self.eight_bit else str(self.dtype)


def choose_precision(precision: str, device: str) -> Precision:
    """Resolves `precision=auto|bf16|fp32|int8` for a device.

    Args:
        precision: "auto" measures a matrix product of a transformer's shape in both types, if the
            processor has bf16 arithmetic at all, and keeps the result in the cache. It never
            chooses "int8", which rounds more.
        device: "cpu" or "cuda".

    Raises:
        PromptRecoveryError: If `precision` is none of these four, or "int8" on a GPU or a
            processor whose products of 8-bit integers are wrong.
    """
    if precision == "int8":
        if device != "cpu":
            raise PromptRecoveryError(
                "precision=int8 is for CPUs: use precision=auto, or adapter=qlora to save memory"
            )
        if not eight_bits_work():
            raise PromptRecoveryError(
                "precision=int8: this processor cannot add products of 8-bit integers exactly, for "
                "which it would need AVX512-VNNI or AVX-VNNI: use precision=auto"
            )
        return Precision(torch.float32, "asked for; everything but linear layers is fp32", True)
    if precision in ("fp32", "bf16"):
        return Precision(torch.bfloat16 if precision == "bf16" else torch.float32, "asked for")
    if precision != "auto":
        raise PromptRecoveryError(f"precision={precision}: must be auto, bf16, fp32 or int8")
    if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision(torch.float32, "this GPU has no bf16 arithmetic")
    if device == "cpu" and not bf16_is_native():
        return Precision(torch.float32, "this processor has no bf16 arithmetic")
    ratio = _known_ratio(device)
    if ratio >= _WORTH_IT:
        return Precision(torch.bfloat16, f"measured {ratio:.1f}× as fast as fp32 on this {device}")
    return Precision(torch.float32, f"bf16 measured only {ratio:.1f}× as fast on this {device}")


def _known_ratio(device: str) -> float:
    """How many times as fast as fp32 bf16 is, measured once for each kind of device.

    Where it is about as fast, each measurement might choose another type, so that a run would give
    other numbers than before, and could not continue after a kill.
    """
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, {threads}"
    identity = fingerprint(name, torch.__version__)
    store = KeyValueStore("precision", identity)
    with locked(cache_dir("precision") / identity):
        known = store.read([b"ratio"]).get(b"ratio")
        if known is not None:
            with suppress(ValueError):
                return float(known)
        ratio = _ratio(device)
        store.write({b"ratio": repr(ratio).encode()})
    return ratio


def _ratio(device: str) -> float:
    ratio = 0.0
    for rows in (64, 512):
        slow, fast = (_matmul_seconds(t, device, rows) for t in (torch.float32, torch.bfloat16))
        ratio = slow / fast
        if ratio < _EMULATED:
            break
    return ratio


def _processor() -> str:
    """The model of the processor, as far as the system says it."""
    with suppress(OSError), Path("/proc/cpuinfo").open(errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{platform.machine()} {platform.processor()}"


def _matmul_seconds(dtype: torch.dtype, device: str, rows: int) -> float:
    left = torch.ones(rows, 576, dtype=dtype, device=device)
    right = torch.ones(1536, 576, dtype=dtype, device=device)
    times: list[float] = []
    # Where bf16 is emulated, a product takes half a second: two show it, and the first warms up.
    while len(times) < 2 or (len(times) < 8 and sum(times) < 0.1):
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
