"""GRPO throughput: ours against `trl.GRPOTrainer`, in one run on the same work.

    [DTYPE=float32] python benchmarks/grpo_throughput.py [prompts] [steps]

A step samples 8 completions of at most 24 tokens for each of 16 different prompts from SmolLM2-135M
with a LoRA on every linear layer, rewards them with their SCS, and makes one update. Both sides
have the same prompts, first weights, temperature, rewards, learning rate and clipping, and no
reference model. TRL runs with all completions in four micro-batches and, if there is enough memory,
in one, and its faster way counts. Every side is a process of its own, and its first step, which
warms it up, does not count. Besides wall-clock time, the processor time of each side is compared,
which other work on the machine disturbs less. Writes `benchmarks/results/grpo_throughput.json`, or
`…_fp32.json` where the processor multiplies no bf16.
"""

import json
import resource
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from signal import SIGKILL
from subprocess import CalledProcessError
from typing import Any

from work import ALPHA, RANK, ROOT, TEMPLATES, dtype_here, equal_start, side, suffix, write_report

MODEL = "smollm2"
SAMPLES = 8
LENGTH = 24  # tokens
LEARNING_RATE = 1e-4
CLIP = 1.0


def _examples(count: int) -> list[Any]:
    """Examples of as many different originals, the same for both sides."""
    from prompt_recovery.data.sources import starter

    examples = starter().examples
    return examples[:: len(examples) // count][:count]


def _parts(count: int) -> tuple[Any, Any, Any, list[Any]]:
    """The frozen backbone, its tokenizer, the template and the examples."""
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from prompt_recovery.backbones.load import load_model, load_tokenizer
    from prompt_recovery.backbones.locate import locate

    torch.manual_seed(0)
    backbone = instantiate(OmegaConf.load(ROOT / f"conf/model/{MODEL}.yaml"))
    location = locate(backbone)
    tokenizer = load_tokenizer(backbone, location)
    template = instantiate(OmegaConf.load(ROOT / f"conf/template/{TEMPLATES[MODEL]}.yaml"))
    model = load_model(backbone, location, getattr(torch, dtype_here()))
    return model, tokenizer, template, _examples(count)


def _measured(starts: list[tuple[float, float]]) -> dict[str, Any]:
    """Seconds of each step but the first, from (wall clock, processor time) around all steps."""
    steps = [
        {"seconds": b[0] - a[0], "processor_seconds": b[1] - a[1]} for a, b in pairwise(starts[1:])
    ]
    return {
        "steps": steps,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def ours(count: int, steps: int) -> dict[str, Any]:
    """Steps of the module that `objective=grpo` trains with."""
    import torch

    from prompt_recovery.backbones.adapters import add_adapter
    from prompt_recovery.backbones.low_rank import Adapter
    from prompt_recovery.data.splits import Splits
    from prompt_recovery.data.tokens import tokenise
    from prompt_recovery.metrics.scs import SCS
    from prompt_recovery.objectives import GRPO
    from prompt_recovery.recovery.writer import Writer
    from prompt_recovery.training.job import Optimisation
    from prompt_recovery.training.loading import Batch
    from prompt_recovery.training.optimizer import MasterAdamW
    from prompt_recovery.training.policy import PolicyModule
    from prompt_recovery.trees import Tree, causal_lm_of, pack, score_completions, trees_share_rows

    model, tokenizer, template, examples = _parts(count)
    adapter = Adapter(rank=RANK, alpha=ALPHA)
    model = equal_start(add_adapter(model, adapter, model.dtype))
    rows = tokenise(examples, template, tokenizer, 1024)
    writer = Writer(model, tokenizer, template, max_prompt_tokens=1024, name=MODEL)
    objective = GRPO(samples=SAMPLES)
    module = PolicyModule(
        writer, objective, Splits(examples, [], []).train, SCS(), 0, Optimisation(), "", LENGTH, ""
    )
    trees = [Tree(r.prompt, r.completions) for r in rows]
    sharing = trees_share_rows(causal_lm_of(model))
    batch = Batch(
        pack(trees, int(tokenizer.pad_token_id), sharing),
        [list(r.prompt) for r in rows],
        [],
        real=len(rows),
        indices=range(len(rows)),
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = MasterAdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=0.0)
    starts, rewards, tokens_written = [_now()], [], []
    for step in range(steps + 1):
        model.eval()
        rollout = module._sampled(batch, step)
        model.train()
        packed = module._trees(batch, rollout)
        tokens = score_completions(model, packed).tokens
        rollout.old = tokens.detach()
        objective(module._completions(tokens, packed, rollout)).backward()
        optimizer.pull_gradients()
        masters = [p for g in optimizer.param_groups for p in g["params"]]
        torch.nn.utils.clip_grad_norm_(masters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        starts.append(_now())
        rewards.append(float(rollout.rewards.mean()))
        tokens_written.append(sum(map(len, rollout.tokens)))
    return _measured(starts) | {"rewards": rewards, "tokens_written": tokens_written}


def trl(count: int, steps: int, parts: int) -> dict[str, Any]:
    """Steps of `trl.GRPOTrainer` with the completions in this many micro-batches."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from prompt_recovery.data.tokens import tokenise
    from prompt_recovery.metrics.scs import SCS

    model, tokenizer, template, examples = _parts(count)
    model.set_attn_implementation("sdpa")
    layers = model.get_decoder().named_modules()
    targets = sorted({n.rsplit(".", 1)[-1] for n, m in layers if isinstance(m, torch.nn.Linear)})
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora, autocast_adapter_dtype=False).to(model.dtype)
    equal_start(model)
    scs, starts, tokens_written = SCS(), [_now()], []

    def reward(completions: list[str], truth: list[str], **_: Any) -> list[float]:
        tokens_written.append(sum(len(tokenizer(c)["input_ids"]) for c in completions))
        said = [text.strip() or "-" for text in completions]
        return [float(v) for v in scs(said, truth)]

    class Clock(TrainerCallback):
        def on_step_end(self, *_arguments: Any, **_options: Any) -> None:
            starts.append(_now())

    rows = tokenise(examples, template, tokenizer, 1024)
    data = Dataset.from_dict(
        {
            "prompt": [tokenizer.decode(r.prompt) for r in rows],
            "truth": [e.rewrite_prompt for e in examples],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        options = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=count * SAMPLES // parts,
            gradient_accumulation_steps=parts,
            num_generations=SAMPLES,
            max_completion_length=LENGTH,
            max_steps=steps + 1,
            num_train_epochs=steps + 1,
            temperature=1.0,
            beta=0.0,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_grad_norm=CLIP,
            loss_type="grpo",
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model,
            reward_funcs=reward,
            args=options,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    rewards = [x["reward"] for x in trainer.state.log_history if "reward" in x]
    return _measured(starts) | {"rewards": rewards, "tokens_written": tokens_written}


def _mean(result: dict[str, Any], name: str) -> float:
    return float(sum(step[name] for step in result["steps"]) / len(result["steps"]))


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--side"]:
        name, *numbers = arguments[1:]
        result = ours(*map(int, numbers)) if name == "ours" else trl(*map(int, numbers))
        print("\n" + json.dumps(result))
        return
    count = int(arguments[0]) if arguments else 16
    steps = int(arguments[1]) if len(arguments) > 1 else 2
    script = str(Path(__file__).resolve())
    mine = side(script, "ours", count, steps)
    sides = {}
    for parts in (4, 1):
        try:
            sides[parts] = side(script, "trl", count, steps, parts)
        except CalledProcessError as error:
            if error.returncode != -SIGKILL or parts != 1:
                raise
            print("TRL with one micro-batch was killed, which needs more memory than there is")
    parts, theirs = min(sides.items(), key=lambda item: _mean(item[1], "processor_seconds"))
    report = {
        "model": MODEL,
        "dtype": dtype_here(),
        "prompts": count,
        "samples": SAMPLES,
        "most_tokens": LENGTH,
        "ours": mine,
        "trl": {f"{n} micro-batches": found for n, found in sides.items()},
        "ratio": _mean(theirs, "seconds") / _mean(mine, "seconds"),
        "ratio_processor_time": _mean(theirs, "processor_seconds")
        / _mean(mine, "processor_seconds"),
        "memory_ratio": mine["peak_memory_bytes"] / theirs["peak_memory_bytes"],
    }
    path = write_report(f"grpo_throughput{suffix(dtype_here())}", report)
    print(
        f"{count} prompts × {SAMPLES} samples: {report['ratio']:.1f}× (processor time "
        f"{report['ratio_processor_time']:.1f}×) TRL with {parts} micro-batches, memory "
        f"{report['memory_ratio']:.2f}\n{path}"
    )


if __name__ == "__main__":
    main()
