"""Recovery throughput: MBR with 16 samples against a plain loop of `transformers.generate`.

    python benchmarks/recovery_throughput.py [run or adapter folder] [pairs]

Both sides draw 16 samples at temperature 0.7 for each of the same pairs (of the starter dataset,
spread over its texts) with the same model, and choose the answer by the same MBR. The loop takes
one pair after another with `num_return_sequences=16`, as in a model card's example, in fp32 and, if
the processor multiplies it, in bf16, and its faster way counts. Without a run, the model is the
untrained SmolLM2, whose answers are as long as they may be. Loading isn't counted. Each side is a
process of its own. Writes `benchmarks/results/recovery_throughput.json`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from work import ROOT, dtype_here, side, suffix, write_report

SAMPLES = 16
TEMPERATURE = 0.7
MAX_NEW_TOKENS = 32
MAX_PROMPT_TOKENS = 184


def recoverer(run: str, dtype: str) -> Any:
    """The recoverer of a run, or the untrained backbone."""
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from prompt_recovery.backbones.load import load_model, load_tokenizer
    from prompt_recovery.backbones.locate import locate
    from prompt_recovery.recovery import MBR, PosteriorRecoverer, Writer, load_recoverer

    decoding = MBR(SAMPLES, TEMPERATURE, MAX_NEW_TOKENS)
    if run:
        precision = {"bfloat16": "bf16", "float32": "fp32"}[dtype]
        return load_recoverer(run, decoding, precision)
    backbone = instantiate(OmegaConf.load(ROOT / "conf/model/smollm2.yaml"))
    location = locate(backbone)
    writer = Writer(
        load_model(backbone, location, getattr(torch, dtype)),
        load_tokenizer(backbone, location),
        instantiate(OmegaConf.load(ROOT / "conf/template/chat.yaml")),
        MAX_PROMPT_TOKENS,
    )
    scs = instantiate(OmegaConf.load(ROOT / "conf/metric/scs_minilm.yaml"))
    return PosteriorRecoverer.of_writer(writer, decoding, "Improve it", scs)


def writer_of(made: Any) -> Any:
    """The writer of a recoverer, which may have a probe."""
    return made.sources[0][0].writer


def pairs(count: int) -> list[Any]:
    from prompt_recovery.data.sources import starter
    from prompt_recovery.recovery.interface import pairs_of

    examples = starter().examples
    return pairs_of(examples[:: len(examples) // count][:count])


def ours(run: str, dtype: str, count: int) -> dict[str, Any]:
    made = recoverer(run, dtype)
    asked = pairs(count)
    said: list[list[str]] = []
    writer = writer_of(made)
    write = writer.write

    def watched(*arguments: Any) -> Any:
        rows = write(*arguments)
        said.extend([completion.text for completion in row] for row in rows)
        return rows

    warm_up_inference(made)
    writer.write = watched
    start = time.perf_counter()
    predictions = made.recover(asked)
    return measured(start, predictions, said)


def loop(run: str, dtype: str, count: int) -> dict[str, Any]:
    """One pair after another, with plain `transformers` and PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from prompt_recovery.backbones.load import end_token_ids
    from prompt_recovery.recovery.cleaning import clean_prompt
    from prompt_recovery.recovery.mbr import rank
    from prompt_recovery.recovery.posterior import Posterior
    from prompt_recovery.runs.folder import require_adapter_folder

    made = recoverer(run, dtype)
    writer = writer_of(made)
    folder = writer.tokenizer.name_or_path  # that the GGUF file was converted to
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    if run:
        model = PeftModel.from_pretrained(
            model, require_adapter_folder(run), autocast_adapter_dtype=False
        ).to(getattr(torch, dtype))
        model.eval()
    asked = pairs(count)
    warm_up_inference(made)
    torch.manual_seed(0)
    said, answers = [], []
    start = time.perf_counter()
    for pair in asked:
        ids = torch.tensor([writer.prompt_tokens(pair)])
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=True,
                temperature=TEMPERATURE,
                top_k=0,
                top_p=1.0,
                num_return_sequences=SAMPLES,
                eos_token_id=end_token_ids(model, writer.tokenizer),
                pad_token_id=writer.tokenizer.pad_token_id,
            )
        texts = made.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        said.append([clean_prompt(t) for t in texts])
        answers.append(rank(Posterior.of_texts(said[-1]), made.scs))
    return measured(start, answers, said)


def warm_up_inference(made: Any) -> None:
    """One short answer and one embedding, so that no side's clock counts the first touch."""
    writer_of(made).write([[1, 2, 3]], [0.0], None, 2)
    made.scs.encoder.embed([f"warm up {time.time()}"])


def measured(start: float, answers: list[Any], said: list[list[str]]) -> dict[str, Any]:
    """Seconds, and what the samples are like: both sides draw from the same distribution."""
    seconds = time.perf_counter() - start
    texts = [text for samples in said for text in samples]
    return {
        "seconds": seconds,
        "pairs_per_second": len(answers) / seconds,
        "samples": len(texts),
        "mean_words": sum(len(t.split()) for t in texts) / len(texts),
        "distinct": sum(len(set(samples)) for samples in said) / len(texts),
    }


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--side"]:
        kind, run, dtype, pairs_asked = arguments[1:]
        result = {"ours": ours, "loop": loop}[kind](run, dtype, int(pairs_asked))
        print("\n" + json.dumps(result))
        return
    run = next((a for a in arguments if not a.isdigit()), "")
    count = next((int(a) for a in arguments if a.isdigit()), 64)
    script = str(Path(__file__).resolve())
    dtype = dtype_here()
    loops = dict.fromkeys([dtype, "float32"])
    asked = [("ours", dtype), *(("loop", each) for each in loops)]
    sides = {f"{kind}_{each}": side(script, kind, run, each, count) for kind, each in asked}
    best = max((sides[f"loop_{each}"] for each in loops), key=lambda r: r["pairs_per_second"])
    ratio = sides[f"ours_{dtype}"]["pairs_per_second"] / best["pairs_per_second"]
    report = {
        "model": "SmolLM2-135M-Instruct" + (", trained adapter" if run else ", untrained"),
        "pairs": count,
        "samples": SAMPLES,
        "temperature": TEMPERATURE,
        "max_new_tokens": MAX_NEW_TOKENS,
        "ratio": ratio,
        **sides,
    }
    write_report(f"recovery_throughput{suffix(dtype)}", report)
    for name, result in sides.items():
        print(f"{name:>14}: {result['pairs_per_second']:.2f} pairs/s, "
              f"{result['mean_words']:.1f} words a sample")  # fmt: skip
    print(f"ours / best loop: {ratio:.1f}×")


if __name__ == "__main__":
    main()
