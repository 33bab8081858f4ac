"""What the benchmarks share: the work, its floating-point operations, and processes for sides."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import prompt_recovery  # noqa: F401  # before torch, so that all sides' threads wait alike

ROOT = Path(__file__).parents[1]
TEMPLATES = {"smollm2": "chat", "gemma3_270m": "plain"}  # model → recovery template
RANK = 16
ALPHA = 32


def dtype_here() -> str:
    """What all sides compute in: `DTYPE`, or bf16 where the processor multiplies it, or fp32."""
    from prompt_recovery.kernels.linear import bf16_is_native

    return os.environ.get("DTYPE") or ("bfloat16" if bf16_is_native() else "float32")


def suffix(dtype: str) -> str:
    """What the name of a record in another dtype than bf16 ends with."""
    return "_fp32" if dtype == "float32" else ""


def prepared(count: int, model: str, dtype: str) -> tuple[Any, Any, Any]:
    """The frozen backbone, its tokenizer and `count` tokenised examples, the same for all sides."""
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from prompt_recovery.backbones.load import load_model, load_tokenizer
    from prompt_recovery.backbones.locate import locate
    from prompt_recovery.data.sources import starter
    from prompt_recovery.data.tokens import tokenise

    torch.manual_seed(0)
    backbone = instantiate(OmegaConf.load(ROOT / f"conf/model/{model}.yaml"))
    location = locate(backbone)
    tokenizer = load_tokenizer(backbone, location)
    template = instantiate(OmegaConf.load(ROOT / f"conf/template/{TEMPLATES[model]}.yaml"))
    examples = starter().examples
    examples = examples[:: len(examples) // count][:count]  # of as many different originals
    rows = tokenise(examples, template, tokenizer, 1024)
    rows.sort(key=len)  # all sides pad as little as can be
    return load_model(backbone, location, getattr(torch, dtype)), tokenizer, rows


def equal_start(model: Any) -> Any:
    """Gives every side's adapter the same first weights."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_A" in name:
            bound = parameter.shape[1] ** -0.5
            values = torch.rand(parameter.shape, generator=generator) * 2 * bound - bound
            parameter.data.copy_(values)
    return model


def warm_up(model: Any, rows: int) -> None:
    """One plain pass forwards and backwards, so that no side's clock counts the first touch."""
    import torch

    tokens = torch.arange(256, device=model.device).expand(rows, -1)
    model.get_decoder()(input_ids=tokens).last_hidden_state.float().sum().backward()
    model.zero_grad()


def frozen_products(model: Any) -> tuple[int, int]:
    """Weights in the decoder's matrices and in the output layer."""
    layers = sum(p.numel() for n, p in model.named_parameters() if "layers" in n and p.dim() == 2)
    return layers, model.get_output_embeddings().weight.numel()


def matmul_peak(device: str = "cpu", dtype: str = "bfloat16") -> float:
    """FLOP/s of a large product on this device, measured."""
    import torch

    size = 2048 if device == "cpu" else 8192
    a, b = (torch.ones(size, size, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(10))


def timed(work: Any, device: str = "cpu") -> float:
    """Seconds that a call takes, its kernels on a GPU included."""
    import torch

    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def side(script: str, *arguments: Any) -> dict[str, Any]:
    """Runs one side of a benchmark in a process of its own; its last line is JSON."""
    command = [sys.executable, script, "--side", *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def write_report(name: str, report: dict[str, Any]) -> Path:
    """Writes `benchmarks/results/<name>.json`."""
    import torch

    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    machine = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    path.write_text(json.dumps({"benchmark": name, **report, **machine}, indent=2) + "\n")
    return path
