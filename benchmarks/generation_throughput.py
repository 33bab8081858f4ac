"""Rewriting throughput on a CPU: our backends against a plain loop of `transformers.generate`.

    python benchmarks/generation_throughput.py [chats]

All sides answer the same chats with the same model (SmolLM2-135M-Instruct), temperature and most
tokens: the instructions and texts of the starter dataset, through the rewrite template. The loop
takes one chat after another, in fp32 and, if the processor multiplies it, in bf16, and its faster
one counts; llama.cpp runs the GGUF file as it is (Q4_1), the others the same weights dequantised.
Loading isn't counted, nor is a first short answer. Answers are sampled, so their lengths differ
between sides: tokens/s is what is compared, rewrites/s is shown beside it. Every side is a process
of its own. Writes `benchmarks/results/generation_throughput.json`.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from work import ROOT, dtype_here, side, suffix, write_report

MAX_NEW_TOKENS = 192
TEMPERATURE = 0.7


def chats(count: int) -> list[list[dict[str, str]]]:
    """Rewrite requests over all texts of the starter dataset."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from prompt_recovery.data.sources import starter
    from prompt_recovery.templates import render

    template = instantiate(OmegaConf.load(ROOT / "conf/template/gemma_rewrite.yaml"))
    examples = starter().examples
    step = len(examples) // count
    return [
        [
            {
                "role": "user",
                "content": render(
                    template, rewrite_prompt=e.rewrite_prompt, original_text=e.original_text
                ),
            }
        ]
        for e in examples[: step * count : step]
    ]


def rewriter(backend: str) -> Any:
    """The default model on a backend, as configured."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from prompt_recovery.settings.checking import checked_value, make

    overrides = [
        f"rewriter/backend={backend}",
        f"rewriter.sampling.temperature={TEMPERATURE}",
        f"rewriter.sampling.max_new_tokens={MAX_NEW_TOKENS}",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose("rewriter/smollm2", overrides).rewriter)
    return make(checked_value(config, Any, "rewriter"))


def ours(backend: str, count: int) -> dict[str, Any]:
    made = rewriter(backend)
    asked = chats(count)
    list(made.answers([[{"role": "user", "content": "Say hello."}]], [0]))
    start = time.perf_counter()
    answers = [answer for _, answer in made.answers(asked, range(count))]
    return measured(start, [a.completion_tokens for a in answers])


def loop(dtype: str, count: int) -> dict[str, Any]:
    """One chat after another, as in a model card's example."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The folder that the GGUF file was converted to.
    folder = rewriter("transformers")._tokenizer.name_or_path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def lengths(asked: list[list[dict[str, str]]], most: int) -> Iterator[int]:
        for chat in asked:
            inputs = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            output = model.generate(
                **inputs,
                max_new_tokens=most,
                do_sample=True,
                temperature=TEMPERATURE,
                top_k=0,
                top_p=1.0,
                pad_token_id=tokenizer.pad_token_id,
            )
            yield output.shape[1] - inputs["input_ids"].shape[1]

    torch.manual_seed(0)
    list(lengths(chats(1), 8))
    start = time.perf_counter()
    return measured(start, list(lengths(chats(count), MAX_NEW_TOKENS)))


def measured(start: float, tokens: list[int]) -> dict[str, Any]:
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "rewrites_per_second": len(tokens) / seconds,
        "tokens_per_second": sum(tokens) / seconds,
        "mean_tokens": sum(tokens) / len(tokens),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--side"]:
        kind, what, rows = arguments[1:]
        run = loop if kind == "loop" else ours
        print("\n" + json.dumps(run(what, int(rows))))
        return
    count = int(arguments[0]) if arguments else 48
    script = str(Path(__file__).resolve())
    backends = ["transformers"]
    if find_spec("llama_cpp"):
        backends.append("llama_cpp")
    else:
        print("llama_cpp is left out: pip install -e '.[llama_cpp]'")
    sides = {backend: side(script, "ours", backend, count) for backend in backends}
    loops = {
        dtype: side(script, "loop", dtype, count)
        for dtype in dict.fromkeys([dtype_here(), "float32"])
    }
    best = max(loops.values(), key=lambda r: r["tokens_per_second"])
    ratios = {
        backend: {
            unit: result[unit] / best[unit] for unit in ("tokens_per_second", "rewrites_per_second")
        }
        for backend, result in sides.items()
    }
    report = {
        "model": "SmolLM2-135M-Instruct",
        "chats": count,
        "max_new_tokens": MAX_NEW_TOKENS,
        "temperature": TEMPERATURE,
        "ratio": ratios["transformers"]["tokens_per_second"],
        "ratios": ratios,
        **sides,
        **{f"loop_{dtype}": result for dtype, result in loops.items()},
    }
    write_report(f"generation_throughput{suffix(dtype_here())}", report)
    for name, result in [*sides.items(), ("loop", best)]:
        ratio = result["tokens_per_second"] / best["tokens_per_second"]
        print(
            f"{name:>12}: {result['tokens_per_second']:6.1f} tokens/s, "
            f"{result['rewrites_per_second']:5.2f} rewrites/s, {ratio:4.1f}× the loop"
        )


if __name__ == "__main__":
    main()
