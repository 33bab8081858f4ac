from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from prompt_recovery.training.sharding import gathered, sharded_like


class MasterAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) on fp32 copies of low-precision parameters.

    A bf16 weight has 8 bits of precision: small updates vanish in it. The optimiser therefore
    steps fp32 masters and writes their rounded values back. fp32 parameters are stepped directly.
    The masters are part of the optimiser's state, so a resumed run has every bit back. The state
    is of whole tensors, also where the parameters are sharded: then all processes must ask for it
    together.

    Before clipping and stepping, call `pull_gradients`.

    Args:
        parameters: trainable parameters of any floating-point type.
        options: those of `torch.optim.AdamW`.
    """

    def __init__(self, parameters: Iterable[Tensor], **options: Any) -> None:
        self._pairs = [
            (p, p if p.dtype == torch.float32 else p.detach().float().requires_grad_())
            for p in parameters
        ]
        super().__init__([master for _, master in self._pairs], **options)

    def pull_gradients(self) -> None:
        """Moves the gradients of low-precision parameters to their masters."""
        for parameter, master in self._pairs:
            if master is not parameter and parameter.grad is not None:
                master.grad = parameter.grad.float()
                parameter.grad = None

    @torch.no_grad()
    def push_weights(self) -> None:
        """Writes the masters, rounded, to their parameters."""
        for parameter, master in self._pairs:
            if master is not parameter:
                parameter.copy_(master)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of masters and parameters."""
        result = super().step(closure)
        self.push_weights()
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of parameters and masters."""
        super().zero_grad(set_to_none)
        for parameter, master in self._pairs:
            if master is not parameter:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """AdamW's state and the masters."""
        state = super().state_dict()
        moments = {
            index: {name: gathered(value) for name, value in values.items()}
            for index, values in state["state"].items()
        }
        masters = [gathered(m.detach()).clone() for _, m in self._pairs]
        return {**state, "state": moments, "masters": masters}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores state and masters, and the parameters from them."""
        state = dict(state_dict)
        masters = state.pop("masters")
        state["state"] = {
            index: {name: sharded_like(v, self._pairs[index][1]) for name, v in values.items()}
            for index, values in state["state"].items()
        }
        super().load_state_dict(state)
        with torch.no_grad():
            for (_, master), saved in zip(self._pairs, masters, strict=True):
                master.copy_(sharded_like(saved, master))
        self.push_weights()
