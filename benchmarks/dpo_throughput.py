"""DPO throughput: ours against `trl.DPOTrainer`, in one run on the same work.

    [BATCH=8] [DTYPE=float32] python benchmarks/dpo_throughput.py [pairs] [smollm2 | gemma3_270m]
    python benchmarks/dpo_throughput.py cuda [mistral-7b | tiny]

Both sides train three epochs of the same pairs in the same order, in bf16, or in fp32 where the
processor multiplies no bf16, with the same LoRA on every linear layer, the same first weights,
batch size (4, or `BATCH`; TRL's default is 8), learning rate and clipping. The reference pass
counts: TRL runs with `precompute_ref_log_probs`, and for one epoch also without, and its faster way
counts. With K = 4, our listwise objective trains on four completions of each prompt, TRL on four
pairs of the same ones (the best against the others, the second against the third). Every side is a
process of its own. Writes `benchmarks/results/dpo_throughput_<model>_batch<size>.json`, or
`…_fp32.json`.
"""

import json
import os
import resource
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

BATCH = int(os.environ.get("BATCH", "4"))
EPOCHS = 3
BETA = 0.1
LEARNING_RATE = 1e-4
CLIP = 1.0


def rejected(rows: list[Any], index: int, count: int) -> list[list[int]]:
    """`count` wrong completions of an example: other examples' prompts."""
    return [rows[(index + 3 + 2 * k) % len(rows)].completions[0] for k in range(count)]


def ours(count: int, model_name: str, dtype: str, completions: int) -> dict[str, Any]:
    """Seconds of the reference pass and after each epoch, and the losses of all steps."""
    import torch

    from prompt_recovery.backbones.adapters import add_adapter
    from prompt_recovery.backbones.low_rank import Adapter

    model, tokenizer, rows = prepared(count, model_name, dtype)
    model = add_adapter(model, Adapter(rank=RANK, alpha=ALPHA), getattr(torch, dtype))
    layers, head = frozen_products(model.get_base_model())
    trees = _trees(rows, completions)
    result = train_trees(equal_start(model), trees, int(tokenizer.pad_token_id))
    tokens = sum(len(t) for t in trees)
    targets = sum(len(c) for t in trees for c in t.completions)
    # forward: 2 a weight and token; with gradients to activations, not to frozen weights: 4
    work = (2 + 4 * EPOCHS) * (layers * tokens + head * targets)
    peak = matmul_peak(dtype=dtype)
    return result | {
        "matmul_peak_flops": peak,
        "share_of_peak": work / result["epoch_end_seconds"][-1] / peak,
    }


def _trees(rows: list[Any], completions: int) -> list[Any]:
    from prompt_recovery.trees import Tree

    return [
        Tree(r.prompt, [r.completions[0], *rejected(rows, i, completions - 1)])
        for i, r in enumerate(rows)
    ]


def train_trees(model: Any, trees: list[Any], pad: int, device: str = "cpu") -> dict[str, Any]:
    """Reference pass and training on completion trees: DPO on pairs, listwise on more."""
    import torch

    from prompt_recovery.objectives import DPO, Listwise, Objective, ScoredCompletions
    from prompt_recovery.training.optimizer import MasterAdamW
    from prompt_recovery.trees import causal_lm_of, pack, score_completions, trees_share_rows

    completions = len(trees[0].completions)
    objective: Objective = (
        DPO(BETA, sft_weight=0) if completions == 2 else Listwise(BETA, sft_weight=0)
    )
    scores = torch.tensor([1.0] + [0.1] * (completions - 1), device=device).repeat(BATCH)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = MasterAdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=0.0)
    losses, ends = [], []
    warm_up(model, BATCH)
    start = time.perf_counter()
    model.eval()
    sharing = trees_share_rows(causal_lm_of(model))
    batches = [
        pack(trees[i : i + BATCH], pad, sharing).to(device) for i in range(0, len(trees), BATCH)
    ]
    with torch.no_grad(), model.disable_adapter():
        references = [score_completions(model, b).log_probability for b in batches]
    reference_seconds = time.perf_counter() - start
    model.train()
    for _ in range(EPOCHS):
        for batch, reference in zip(batches, references, strict=True):
            said = score_completions(model, batch)
            loss = objective(
                ScoredCompletions(
                    said.log_probability,
                    said.length,
                    batch.tree_of_completion,
                    reference,
                    scores[: len(reference)],
                )
            )
            loss.backward()
            losses.append(float(loss.detach()))
            optimizer.pull_gradients()
            masters = [p for g in optimizer.param_groups for p in g["params"]]
            torch.nn.utils.clip_grad_norm_(masters, CLIP)
            optimizer.step()
            optimizer.zero_grad()
        ends.append(time.perf_counter() - start)
    return {
        "reference_seconds": reference_seconds,
        "epoch_end_seconds": ends,
        "losses": losses,
        "peak_memory_bytes": _peak_memory(device),
    }


def _peak_memory(device: str) -> int:
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import torch

    return int(torch.cuda.max_memory_allocated())


def trl(
    count: int, model_name: str, precompute: bool, epochs: int, completions: int
) -> dict[str, Any]:
    """The same of `trl.DPOTrainer`, the pairs of each prompt one after another."""
    model, tokenizer, rows = prepared(count, model_name, dtype_here())
    model.set_attn_implementation("sdpa")
    order = [(0, 1)] if completions == 2 else [(0, 1), (0, 2), (0, 3), (1, 2)]
    triples = [
        (tree.prompt, tree.completions[better], tree.completions[worse])
        for tree in _trees(rows, completions)
        for better, worse in order
    ]
    return train_trl(model, tokenizer, triples, precompute, epochs)


def train_trl(
    model: Any, tokenizer: Any, triples: list[Any], precompute: bool, epochs: int
) -> dict[str, Any]:
    """Trains TRL on (prompt, chosen, rejected) token ids, with an adapter in the model's dtype."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    on_gpu = model.device.type == "cuda"
    targets = sorted(
        {n.rsplit(".", 1)[-1] for n, m in model.get_decoder().named_modules()
         if isinstance(m, torch.nn.Linear)}
    )  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM")
    # An adapter in fp32 (PEFT's default) is slower still, and so is autocast.
    model = get_peft_model(model, lora, autocast_adapter_dtype=False).to(model.dtype)
    equal_start(model)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_epoch_end(self, *_args: Any, **_options: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            ends.append(time.perf_counter() - start)

    class TokenIds(DPOTrainer):
        """Takes token ids as they are, so that both sides train on the same ones."""

        def _prepare_dataset(self, dataset: Any, *_args: Any, **_options: Any) -> Any:
            return dataset

    data = Dataset.from_dict(
        {
            "prompt": ["text" for _ in triples],
            "chosen": ["text" for _ in triples],
            "rejected": ["text" for _ in triples],
            "prompt_ids": [list(p) for p, _, _ in triples],
            "chosen_ids": [list(c) for _, c, _ in triples],
            "rejected_ids": [list(r) for _, _, r in triples],
        }
    )
    warm_up(model, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        options = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=epochs,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_grad_norm=CLIP,
            beta=BETA,
            max_length=None,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",
            use_cpu=not on_gpu,
            bf16=False,  # the weights are in that dtype already; autocast would only add casts
            precompute_ref_log_probs=precompute,
            precompute_ref_batch_size=BATCH if precompute else None,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
        )
        start = time.perf_counter()
        trainer = TokenIds(
            model, args=options, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()]
        )
        reference_seconds = time.perf_counter() - start
        trainer.train()
    return {
        "reference_seconds": reference_seconds if precompute else 0.0,
        "epoch_end_seconds": ends,
        "losses": [x["loss"] for x in trainer.state.log_history if "loss" in x],
        "peak_memory_bytes": _peak_memory(model.device.type),
    }


def cuda(shape: str) -> dict[str, Any]:
    """Both sides on one GPU with random weights; TRL's share runs second, on the same model."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from prompt_recovery.backbones.adapters import add_adapter
    from prompt_recovery.backbones.low_rank import Adapter
    from prompt_recovery.trees import Tree

    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}  # fmt: skip
    config = MistralConfig(**(small if shape == "tiny" else {}), sliding_window=None)
    config.pad_token_id = 0
    count, prompt, answer = (8, 60, 8) if shape == "tiny" else (64, 600, 20)
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(5, config.vocab_size, (length,), generator=generator).tolist()

    pairs = [(ids(prompt), ids(answer), ids(answer)) for _ in range(count)]

    def model(attention: str) -> Any:
        with torch.device(device):
            made = MistralForCausalLM._from_config(
                config, dtype=torch.bfloat16, attn_implementation=attention
            )
        return made.requires_grad_(False).eval()

    base = model("flex_attention" if device == "cuda" else "sdpa")
    layers, head = frozen_products(base)
    tree_model = equal_start(add_adapter(base, Adapter(rank=RANK, alpha=ALPHA), torch.bfloat16))
    trees = [Tree(p, [c, r]) for p, c, r in pairs]
    train_trees(tree_model, trees[:BATCH], 0, device)  # compiles the kernels
    mine = train_trees(tree_model, trees, 0, device)
    tokens, targets = sum(map(len, trees)), 2 * answer * count
    work = (2 + 4 * EPOCHS) * (layers * tokens + head * targets)
    seconds = mine["epoch_end_seconds"][-1]
    del tree_model, base
    if device == "cuda":
        torch.cuda.empty_cache()
    from prompt_recovery.backbones.load import load_tokenizer
    from prompt_recovery.backbones.locate import Backbone, locate

    tiny = Backbone("tiny", architecture="mistral")
    theirs = train_trl(model("sdpa"), load_tokenizer(tiny, locate(tiny)), pairs, True, EPOCHS)
    peak = matmul_peak(device)
    return {
        "shape": shape,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "pairs": count,
        "ours": mine,
        "trl": theirs,
        "ratio_three_epochs": _total(theirs, EPOCHS) / _total(mine, EPOCHS),
        "tokens_per_second": (1 + EPOCHS) * tokens / seconds,
        "model_flops_utilisation": work / seconds / peak,
    }


def _total(result: dict[str, Any], epochs: int) -> float:
    """Seconds until the end of an epoch, the reference pass included."""
    seconds: float = result["epoch_end_seconds"][epochs - 1]
    return seconds


def _one_side(arguments: list[str]) -> dict[str, Any]:
    name, count, model, *rest = arguments
    if name == "ours":
        return ours(int(count), model, rest[0], int(rest[1]))
    return trl(int(count), model, rest[0] == "precompute", int(rest[1]), int(rest[2]))


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--side"]:
        print("\n" + json.dumps(_one_side(arguments[1:])))
        return
    if arguments[:1] == ["cuda"]:
        import torch

        shape = arguments[1] if len(arguments) > 1 else "mistral-7b"
        if shape != "tiny" and not torch.cuda.is_available():
            raise SystemExit("a Mistral-7B shape needs a CUDA GPU with 40 GB; `cuda tiny` does not")
        report = cuda(shape)
        write_report(f"dpo_throughput_cuda_{shape}", report)
        print(f"{report['device']}: {report['ratio_three_epochs']:.1f}×")
        return
    count = int(arguments[0]) if arguments else 16
    model = arguments[1] if len(arguments) > 1 else "smollm2"
    script, quarter = str(Path(__file__).resolve()), max(count // 4, BATCH)
    dtype = dtype_here()
    mine = side(script, "ours", count, model, dtype, 2)
    exact = mine if dtype == "float32" else side(script, "ours", count, model, "float32", 2)
    group = side(script, "ours", quarter, model, dtype, 4)
    theirs = side(script, "trl", count, model, "precompute", EPOCHS, 2)
    online = side(script, "trl", count, model, "online", 1, 2)
    four = side(script, "trl", quarter, model, "precompute", 1, 4)
    best = min(_total(theirs, 1), _total(online, 1))
    steps = min(10, len(exact["losses"]))

    def error(result: dict[str, Any]) -> float:
        pairs = zip(result["losses"][:steps], exact["losses"][:steps], strict=True)
        return max(abs(a - b) for a, b in pairs)

    report = {
        "model": model,
        "dtype": dtype,
        "pairs": count,
        "batch": BATCH,
        "ratio_one_epoch": best / _total(mine, 1),
        "ratio_three_epochs": _total(theirs, EPOCHS) / _total(mine, EPOCHS),
        "ratio_four_completions": _total(four, 1) / _total(group, 1),
        "ratio_peak_memory": theirs["peak_memory_bytes"] / mine["peak_memory_bytes"],
        "pairs_per_second_one_epoch": {"ours": count / _total(mine, 1), "trl": count / best},
        "loss_error_against_fp32_first_steps": {
            "steps": steps,
            "ours": error(mine),
            "trl": error(theirs),
        },
        "share_of_matmul_peak": mine["share_of_peak"],
        "ours": mine,
        "ours_fp32": exact,
        "ours_four_completions": group,
        "trl_precompute": theirs,
        "trl_online": online,
        "trl_four_pairs": four,
    }
    write_report(f"dpo_throughput_{model}_batch{BATCH}{suffix(dtype)}", report)
    print(
        f"{model}, {count} pairs in batches of {BATCH}, ours / TRL: "
        f"one epoch {report['ratio_one_epoch']:.1f}×, three "
        f"{report['ratio_three_epochs']:.1f}×, K = 4 {report['ratio_four_completions']:.1f}×, "
        f"memory 1 / {report['ratio_peak_memory']:.1f}; loss error against fp32 "
        f"{error(mine):.4f} (TRL {error(theirs):.4f}); "
        f"{report['share_of_matmul_peak']:.0%} of the matmul peak"
    )


if __name__ == "__main__":
    main()
