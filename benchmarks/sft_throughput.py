"""SFT throughput: ours against `trl.SFTTrainer`, in one run on the same work.

    [DTYPE=float32] python benchmarks/sft_throughput.py [examples]

Both sides train one epoch of SmolLM2-135M with the same LoRA on every linear layer, the same token
ids in the same batches, in bf16, or in fp32 where the processor multiplies no bf16. TRL runs with
its defaults for PEFT (fp32 adapter) and with an adapter in the same dtype, and its faster way
counts. Each side is a process of its own; what counts is the time inside its training loop. Writes
`benchmarks/results/sft_throughput.json`, or `sft_throughput_fp32.json`.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from work import (
    ALPHA,
    RANK,
    dtype_here,
    equal_start,
    frozen_products,
    matmul_peak,
    prepared,
    side,
    suffix,
    warm_up,
    write_report,
)

BATCH = 8


def ours(count: int) -> dict[str, float]:
    import torch

    from prompt_recovery.backbones.adapters import add_adapter
    from prompt_recovery.backbones.low_rank import Adapter
    from prompt_recovery.objectives import SFT, ScoredCompletions
    from prompt_recovery.training.optimizer import MasterAdamW
    from prompt_recovery.trees import Tree, causal_lm_of, pack, score_completions, trees_share_rows

    dtype = dtype_here()
    model, tokenizer, rows = prepared(count, "smollm2", dtype)
    layers, head = frozen_products(model)
    tokens, targets = sum(map(len, rows)), sum(len(r.completions[0]) for r in rows)
    work = 4.0 * (layers * tokens + head * targets)  # forward, and gradients to activations
    peak = matmul_peak(dtype=dtype)
    adapter = Adapter(rank=RANK, alpha=ALPHA)
    model = equal_start(add_adapter(model, adapter, getattr(torch, dtype)))
    optimizer = MasterAdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    objective = SFT(length_power=0.0)
    losses = []
    sharing = trees_share_rows(causal_lm_of(model))
    warm_up(model, BATCH)
    start = time.perf_counter()
    for i in range(0, len(rows), BATCH):
        trees = [Tree(r.prompt, r.completions) for r in rows[i : i + BATCH]]
        batch = pack(trees, tokenizer.pad_token_id, sharing)
        scores = score_completions(model, batch)
        objective(
            ScoredCompletions(scores.log_probability, scores.length, batch.tree_of_completion)
        ).backward()
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

    dtype = dtype_here()
    model, tokenizer, rows = prepared(count, "smollm2", dtype)
    model.set_attn_implementation("sdpa")
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    if adapter == "same":
        model = get_peft_model(model, lora, autocast_adapter_dtype=False).to(getattr(torch, dtype))
    data = Dataset.from_dict(
        {
            "input_ids": [[*r.prompt, *r.completions[0]] for r in rows],
            "completion_mask": [[0] * len(r.prompt) + [1] * len(r.completions[0]) for r in rows],
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
            bf16=False,  # the weights are in that dtype already; autocast would only add casts
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
            peft_config=None if adapter == "same" else lora,
            callbacks=[Clock()],
        )
        warm_up(model, BATCH)
        trainer.train()
    first = next(x["loss"] for x in trainer.state.log_history if "loss" in x)
    return {"seconds": clock["end"] - clock["start"], "loss": first}


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        name, count = sys.argv[2], int(sys.argv[3])
        result = ours(count) if name == "ours" else trl(count, name.removeprefix("trl_"))
        print("\n" + json.dumps(result))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    results: dict[str, Any] = {}
    dtype = dtype_here()
    theirs = ["trl_same"] if dtype == "float32" else ["trl_fp32", "trl_same"]
    for name in ("ours", *theirs):
        results[name] = side(str(Path(__file__).resolve()), name, count)
        results[name]["examples_per_second"] = count / results[name]["seconds"]
        print(f"{name:9} {results[name]['examples_per_second']:.2f} examples/s", flush=True)
    best = max(results[s]["examples_per_second"] for s in theirs)
    report = {
        "model": "smollm2",
        "dtype": dtype,
        "examples": count,
        "batch": BATCH,
        "ratio": results["ours"]["examples_per_second"] / best,
        **results,
    }
    write_report(f"sft_throughput{suffix(dtype)}", report)
    print(
        f"ours / best of TRL: {report['ratio']:.2f}×; first loss {results['ours']['loss']:.3f} "
        f"against {results['trl_same']['loss']:.3f}; "
        f"{results['ours']['share_of_peak']:.0%} of the measured matmul peak"
    )


if __name__ == "__main__":
    main()
