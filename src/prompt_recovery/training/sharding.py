"""FSDP2: every process holds a shard of each decoder layer, of frozen weights and adapter alike.

A layer's shards are gathered before its forward and its backward pass, and freed afterwards. The
weights outside the layers (embeddings, last norm, output head) are frozen and replicated on every
device: 0.5 GB for Mistral 7B and 1.6 GB for Gemma 7B, in bf16.
"""

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.kernels.linear import activation_dtype
from prompt_recovery.trees.forward import causal_lm_of


class FullySharded(ModelParallelStrategy):
    """Shards a model over all processes.

    Checkpoints are the same as with any other strategy: one file with whole tensors of the trained
    weights only, which the first process writes and any number of processes can read.
    """

    lightning_restore_optimizer = True
    lightning_module_state_dict = ParallelStrategy.lightning_module_state_dict
    optimizer_state = ParallelStrategy.optimizer_state
    load_checkpoint = ParallelStrategy.load_checkpoint
    load_model_state_dict = ParallelStrategy.load_model_state_dict
    load_optimizer_state_dict = ParallelStrategy.load_optimizer_state_dict

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Starts the communication between processes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: Any) -> None:
        """Shards a `PeftModel` in place.

        Raises:
            PromptRecoveryError: If a weight outside the decoder layers is trained.
        """
        from torch.distributed.fsdp import fully_shard

        causal_lm = causal_lm_of(model)
        decoder = causal_lm.get_decoder()
        count = causal_lm.config.get_text_config().num_hidden_layers
        layers = next(
            m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count
        )
        for parameter in model.parameters():  # FSDP2 wants one dtype, which `load_model` may not
            parameter.data = parameter.data.to(activation_dtype(causal_lm))
        mesh = self.device_mesh["data_parallel"]
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        whole = {n: p for n, p in model.named_parameters() if not isinstance(p, DTensor)}
        for name, parameter in whole.items():
            if parameter.requires_grad:
                raise PromptRecoveryError(
                    f"trainer=fsdp trains decoder layers only, not {name}: leave it out of "
                    "adapter.target_modules, or use trainer=ddp"
                )
        # The root has no parameters of its own, but lets the layers share their CUDA streams.
        fully_shard(decoder, mesh=mesh, ignored_params=set(whole.values()))


def gathered(tensor: Tensor) -> Tensor:
    """Returns the whole of a tensor that may be sharded. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Shards a whole tensor in the same way as `other`. All processes must call it."""
    if isinstance(other, DTensor) and tensor.shape == other.shape:
        return distribute_tensor(tensor, other.device_mesh, other.placements)
    return tensor
