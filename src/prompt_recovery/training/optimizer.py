from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from prompt_recovery.training.sharding import gathered, sharded_like


class MasterAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) on fp32 copies of low-precision parameters.

    A bf16 weight has 8 bits of precision, so that small updates are rounded away. The optimiser
    therefore updates fp32 masters and writes their rounded values back. fp32 parameters are updated
    directly. The masters are part of the optimiser's state, so that a run is resumed exactly. The
    state contains whole tensors even if the parameters are sharded, in which case all processes
    must call `state_dict` together.

    Call `pull_gradients` before clipping and stepping.

    Args:
        parameters: Trainable parameters of any floating-point type.
        options: Options of `torch.optim.AdamW`.
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
        """Writes the rounded masters to their parameters."""
        for parameter, master in self._pairs:
            if master is not parameter:
                parameter.copy_(master)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates masters and parameters once."""
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
        """Returns AdamW's state and the masters."""
        state = super().state_dict()
        moments = {
            index: {name: gathered(value) for name, value in values.items()}
            for index, values in state["state"].items()
        }
        masters = [gathered(m.detach()).clone() for _, m in self._pairs]
        return {**state, "state": moments, "masters": masters}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores AdamW's state and the masters, and sets the parameters from them."""
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
