"""Chooses bf16 where it is really faster, and fp32 otherwise."""

import time
from dataclasses import dataclass
from typing import Literal

import torch

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.kernels.eight_bit import eight_bits_work
from prompt_recovery.kernels.linear import bf16_is_native

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
            processor has bf16 arithmetic at all. It never chooses "int8", which rounds more.
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
    for rows in (64, 512):
        slow, fast = (_matmul_seconds(t, device, rows) for t in (torch.float32, torch.bfloat16))
        ratio = slow / fast
        if ratio < _EMULATED:
            break
    if ratio >= _WORTH_IT:
        return Precision(torch.bfloat16, f"measured {ratio:.1f}× as fast as fp32 on this {device}")
    return Precision(torch.float32, f"bf16 measured only {ratio:.1f}× as fast on this {device}")


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
