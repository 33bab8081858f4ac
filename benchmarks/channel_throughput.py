"""Channel throughput: the candidates of a pair as one row of trees, against one row a candidate.

    python benchmarks/channel_throughput.py [pairs] [candidates] [model]
    python benchmarks/channel_throughput.py tokens [pairs] [candidates] [model]

Both sides score the same candidates (prompts of other rows) of the same pairs of the starter
dataset with the same model in fp32: log p(rewritten text | original text, candidate). The plain
side runs `transformers` on one candidate after another and computes logits for the rewritten text
only. Counts the tokens that each side computes for a pair, too. Loading isn't counted. Each side is
a process of its own. Writes `benchmarks/results/channel_throughput.json`.

With `tokens`, nothing is computed but the number of tokens of each side, in seconds and without the
weights. Writes `benchmarks/results/channel_tokens.json`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from work import ROOT, side, write_report

MAX_TEXT_TOKENS = 160


def likelihood(model: str, weights: bool = True) -> Any:
    """The channel, which keeps nothing in the cache; it can tokenise without weights."""
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from prompt_recovery.backbones.load import load_model, load_tokenizer
    from prompt_recovery.backbones.locate import locate
    from prompt_recovery.recovery.likelihood import RewriteLikelihood

    backbone = instantiate(OmegaConf.load(ROOT / f"conf/model/{model}.yaml"))
    location = locate(backbone)
    template = instantiate(OmegaConf.load(ROOT / "conf/template/rewrite_text_first.yaml"))
    return RewriteLikelihood(
        load_model(backbone, location, torch.float32) if weights else None,
        load_tokenizer(backbone, location),
        template,
        MAX_TEXT_TOKENS,
        identity="",
    )


def asked(count: int, candidates: int) -> list[tuple[Any, list[str]]]:
    """Pairs, each with as many distinct prompts, its own among them."""
    from prompt_recovery.data.sources import starter
    from prompt_recovery.recovery.interface import pairs_of

    examples = starter().examples
    chosen = examples[:: len(examples) // count][:count]
    prompts = list(dict.fromkeys(e.rewrite_prompt for e in examples))
    spread = prompts[:: len(prompts) // candidates]
    return [
        (pair, list(dict.fromkeys([e.rewrite_prompt, *spread]))[:candidates])
        for pair, e in zip(pairs_of(chosen), chosen, strict=True)
    ]


def trees(model: str, count: int, candidates: int) -> dict[str, Any]:
    from prompt_recovery.trees import pack

    channel = likelihood(model)
    work = asked(count, candidates)
    channel(work[0][0], work[0][1][:1])  # so that no side's clock counts the first touch
    start = time.perf_counter()
    values = [channel(pair, prompts) for pair, prompts in work]
    seconds = time.perf_counter() - start
    batches = [pack(channel.trees(pair, prompts), 0, together=True) for pair, prompts in work]
    tokens = sum(batch.input_ids.numel() for batch in batches)
    return {"seconds": seconds, "tokens": tokens, "values": values}


def one_by_one(model: str, count: int, candidates: int) -> dict[str, Any]:
    """One candidate after another, with plain `transformers`."""
    import torch
    from transformers import AutoModelForCausalLM

    channel = likelihood(model)
    folder = channel.tokenizer.name_or_path  # that the GGUF file was converted to
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    work = asked(count, candidates)
    rows = [channel.trees(pair, prompts) for pair, prompts in work]

    def score(tree: Any) -> float:
        written = torch.tensor(tree.completions[0])
        ids = torch.tensor([[*tree.prompt, *tree.completions[0]]])
        with torch.inference_mode():
            logits = plain(input_ids=ids, logits_to_keep=len(written) + 1, use_cache=False).logits
        values = logits[0, :-1].log_softmax(-1).gather(-1, written[:, None])
        return float(values.sum())

    score(rows[0][0])
    start = time.perf_counter()
    values = [[score(tree) for tree in row] for row in rows]
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "tokens": sum(len(t) for row in rows for t in row),
        "values": values,
    }


def counted(model: str, count: int, candidates: int) -> dict[str, Any]:
    """The tokens that each side computes for a pair."""
    from prompt_recovery.trees import pack

    channel = likelihood(model, weights=False)
    rows = [channel.trees(pair, prompts) for pair, prompts in asked(count, candidates)]
    separate = sum(len(tree) for row in rows for tree in row)
    together = sum(pack(row, 0, together=True).input_ids.numel() for row in rows)
    return {
        "model": model,
        "pairs": count,
        "candidates": candidates,
        "max_text_tokens": MAX_TEXT_TOKENS,
        "tokens_per_pair": {"one_by_one": separate / count, "trees": together / count},
        "tokens_ratio": separate / together,
        "scored_tokens_per_pair": sum(len(t.completions[0]) for r in rows for t in r) / count,
    }


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        name, model, *sizes = sys.argv[2:]
        sides = {"trees": trees, "one_by_one": one_by_one}
        print(json.dumps(sides[name](model, *map(int, sizes))))
        return
    given = sys.argv[1:]
    only_tokens = given[:1] == ["tokens"]
    count, candidates, model = (
        *given[only_tokens:],
        *("8", "16", "smollm2")[len(given) - only_tokens :],
    )
    if only_tokens:
        tokens = counted(model, int(count), int(candidates))
        print(json.dumps(tokens, indent=2))
        print(write_report("channel_tokens", tokens))
        return
    found = {
        name: side(str(Path(__file__)), name, model, count, candidates)
        for name in ("trees", "one_by_one")
    }
    ours, plain = (found[name].pop("values") for name in ("trees", "one_by_one"))
    error = max(
        abs(a - b) for r, s in zip(ours, plain, strict=True) for a, b in zip(r, s, strict=True)
    )
    report = {
        "model": model,
        "pairs": int(count),
        "candidates": int(candidates),
        "max_text_tokens": MAX_TEXT_TOKENS,
        "ratio": found["one_by_one"]["seconds"] / found["trees"]["seconds"],
        "tokens_ratio": found["one_by_one"]["tokens"] / found["trees"]["tokens"],
        "largest_difference_nats": error,
        **{
            name: {
                "seconds_per_pair": values["seconds"] / int(count),
                "tokens_per_pair": values["tokens"] / int(count),
            }
            for name, values in found.items()
        },
    }
    print(json.dumps(report, indent=2))
    print(write_report("channel_throughput", report))


if __name__ == "__main__":
    main()
