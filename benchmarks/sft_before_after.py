"""SFT throughput and memory of this version against an earlier one, in one run on the same work.

    python benchmarks/sft_before_after.py <git revision> [batches] [model] [precision]

Both sides train the adapter of `lora_top` with rank 16 on the starter's training split, with
prompts of at most 288 tokens, and compute in the same precision; with int8, the earlier version
computes in fp32. Each makes its own epoch of batches of 8 and trains on some of them, spread over
the epoch. Each side is a process of its own with the package of its revision; what counts is the
time inside the training loop. This version also makes a second epoch with the hidden states that
`keep_hidden_states` kept in the first one, and a profiled step that says what the time is made of.
Writes `benchmarks/results/sft_before_after_<model>.json`, with `_int8` behind the model's name in
int8.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

from work import ROOT, equal_start, frozen_products, timed, write_report

BATCH = 8
PROMPT_TOKENS = 288
RANK = 16
LAYERS = 0.4
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "_int_mm")
_COPIES = ("copy_", "cat", "index", "index_select", "index_copy_", "fill_", "zero_")


def loaded(
    folder: str, count: int, dtype: Any, eight_bit: bool
) -> tuple[Any, Any, list[list[Any]]]:
    """The frozen backbone, its padding token and `count` batches of an epoch, as trees."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from prompt_recovery.backbones.load import load_model, load_tokenizer
    from prompt_recovery.backbones.locate import Backbone, locate
    from prompt_recovery.data.batches import TokenBudgetSampler
    from prompt_recovery.data.sources import starter
    from prompt_recovery.data.splits import split
    from prompt_recovery.data.tokens import tokenise
    from prompt_recovery.templates import for_tokenizer
    from prompt_recovery.trees import Tree

    backbone = Backbone("backbone", path=folder)
    location = locate(backbone)
    tokenizer = load_tokenizer(backbone, location)
    template = instantiate(OmegaConf.load(ROOT / "conf/template/chat.yaml"))
    examples = split(starter()).train
    rows = tokenise(examples, for_tokenizer(template, tokenizer), tokenizer, PROMPT_TOKENS)
    trees = [Tree(r.prompt, r.completions) for r in rows]
    options: dict[str, Any] = {}
    if "groups" in signature(TokenBudgetSampler).parameters:
        options["groups"] = [e.original_text for e in examples]
    epoch = list(TokenBudgetSampler([len(t) for t in trees], BATCH, 8192, True, **options))
    batches = [[trees[i] for i in batch] for batch in epoch[:: len(epoch) // count][:count]]
    precision = {"eight_bit": True} if eight_bit else {}  # which earlier versions don't know
    model = load_model(backbone, location, dtype, **precision)
    return model, tokenizer.pad_token_id, batches


def train(folder: str, count: int, precision: str, keeps: bool) -> dict[str, Any]:
    """One side; uses only what both revisions have, unless it `keeps` hidden states."""
    import torch

    from prompt_recovery.backbones.adapters import add_adapter
    from prompt_recovery.backbones.low_rank import Adapter
    from prompt_recovery.objectives import SFT, ScoredCompletions
    from prompt_recovery.training.optimizer import MasterAdamW
    from prompt_recovery.trees import causal_lm_of, pack, score_completions, trees_share_rows

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model, padding, batches = loaded(folder, count, dtype, precision == "int8")
    trees = [tree for batch in batches for tree in batch]
    starts = [sum(map(len, batches[:i])) for i in range(count)]
    layers, head = frozen_products(model)
    total = model.config.get_text_config().num_hidden_layers
    share = max(round(LAYERS * total), 1) / total
    peaks = {name: _peak(name) for name in (torch.float32, torch.bfloat16)}
    model = equal_start(add_adapter(model, Adapter(rank=RANK, layers=LAYERS), dtype)).train()
    optimizer = MasterAdamW([p for p in model.parameters() if p.requires_grad], lr=4e-4)
    objective = SFT(length_power=0.0)
    sharing = trees_share_rows(causal_lm_of(model))
    states = None
    if keeps:
        from prompt_recovery.trees.frozen import FrozenStates

        states = FrozenStates(model, trees, f"benchmark {time.time_ns()}")

    def step(index: int) -> tuple[float, float]:
        """Trains on one batch; returns its loss and the floating-point operations it needs."""
        chosen = range(starts[index], starts[index] + len(batches[index]))
        batch = pack(batches[index], padding, sharing)
        with states.used(batch, chosen) if states else nullcontext():
            scores = score_completions(model, batch)
        objective(
            ScoredCompletions(scores.log_probability, scores.length, batch.tree_of_completion)
        ).backward()
        optimizer.pull_gradients()
        torch.nn.utils.clip_grad_norm_([m for _, m in optimizer._pairs], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens = batch.input_ids.numel()
        work = 2.0 * layers * tokens * (1 + share) + 4.0 * head * len(batch.targets)
        return float(-(scores.log_probability.sum() / scores.length.sum()).detach()), work

    def epoch() -> dict[str, float]:
        start, results = time.perf_counter(), [step(i) for i in range(count)]
        seconds = time.perf_counter() - start
        work = sum(w for _, w in results)
        return {
            "examples_per_second": len(trees) / seconds,
            "tokens_per_example": sum(map(len, trees)) / len(trees),
            "loss": results[0][0],
            "flops": work / seconds,
            "share_of_peak": work / seconds / max(peaks.values()),
        }

    result: dict[str, Any] = epoch()
    result["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result["matmul_peak_flops"] = {str(k).removeprefix("torch."): v for k, v in peaks.items()}
    if states is not None:
        result["second_epoch"] = epoch()
        states.path.unlink()
        states = None
        result["profile"] = profiled(lambda: step(0))
    return result


def _peak(dtype: Any) -> float:
    """FLOP/s of a large product in this dtype, measured."""
    import torch

    a, b = (torch.ones(1024, 1024, dtype=dtype) for _ in range(2))
    return 2 * 1024**3 / min(timed(lambda: a @ b) for _ in range(5))


def profiled(work: Any) -> dict[str, float]:
    """The shares of one step's time in products, copies, other operations and all else."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    shares = {"matrix products": 0.0, "copies and conversions": 0.0, "other operations": 0.0}
    for event in profile.key_averages():
        if not event.key.startswith("aten::"):
            continue
        name = event.key.removeprefix("aten::")
        kind = (
            "matrix products"
            if name in _PRODUCTS
            else "copies and conversions"
            if name in _COPIES
            else "other operations"
        )
        shares[kind] += event.self_cpu_time_total / 1e6 / seconds
    return {**shares, "Python and autograd": 1 - sum(shares.values())}


def side(source: Path, *arguments: Any) -> dict[str, Any]:
    """Runs one side with the package in `source`; its last line is JSON."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, __file__, "--side", *map(str, arguments)]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        where, count, precision, keeps = sys.argv[2:]
        print("\n" + json.dumps(train(where, int(count), precision, keeps == "True")))
        return
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from prompt_recovery.backbones.convert import converted
    from prompt_recovery.backbones.locate import locate

    given = sys.argv[1:]
    revision, count, model, precision = given + ["", "4", "qwen2_5_1_5b", "bf16"][len(given) :]
    folder = converted(locate(instantiate(OmegaConf.load(ROOT / f"conf/model/{model}.yaml"))))
    with tempfile.TemporaryDirectory() as scratch:
        archive = subprocess.run(
            ["git", "archive", revision, "src"], check=True, stdout=subprocess.PIPE, cwd=ROOT
        ).stdout
        subprocess.run(["tar", "-x", "-C", scratch], check=True, input=archive)
        earlier = "fp32" if precision == "int8" else precision
        before = side(Path(scratch) / "src", folder, count, earlier, False)
    print(f"before: {before['examples_per_second']:.3f} examples/s", flush=True)
    after = side(ROOT / "src", folder, count, precision, True)
    again = after["second_epoch"]["examples_per_second"]
    print(
        f"after:  {after['examples_per_second']:.3f} examples/s, {again:.3f} with hidden states "
        f"kept; {after['peak_gib']:.1f} instead of {before['peak_gib']:.1f} GiB; "
        f"{after['share_of_peak']:.0%} of the measured matmul peak"
    )
    report = {
        "model": model,
        "precision": precision,
        "batches": int(count),
        "batch": BATCH,
        "revision_before": revision,
        "ratio": after["examples_per_second"] / before["examples_per_second"],
        "ratio_second_epoch": again / before["examples_per_second"],
        "before": before,
        "after": after,
    }
    write_report(f"sft_before_after_{model}{'_int8' if precision == 'int8' else ''}", report)


if __name__ == "__main__":
    main()
