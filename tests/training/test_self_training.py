"""Policy gradients on pairs without a prompt, and candidates from the run's retriever."""

import json

import numpy as np
import pytest
import yaml

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.load import load_retriever
from prompt_recovery.recovery.mbr import expected_under
from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.training import run as training
from prompt_recovery.training.policy import PolicyModule
from prompt_recovery.training.stages import train_stages
from tests.training.test_together import folder, given  # noqa: F401

POLICY = (
    "objective=grpo",
    "objective.samples=2",
    "batching.batch_size=4",
    "batching.group_originals=false",
)
PAIRS = [
    {"id": "row-0", "original_text": "The shop is closed.", "rewritten_text": "Closed! Oh joy!"},
    {"id": "b", "original_text": "We met at noon.", "rewritten_text": "At noon, oh joy, we met!"},
    {"id": "blank", "original_text": " ", "rewritten_text": "Nothing was here."},
]


def write_pairs(path, rows=PAIRS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"unlabelled.path={path.name}"


def test_unlabelled_pairs_are_rewarded_by_what_the_retriever_expects(folder, monkeypatch):  # noqa: F811
    seen = []
    original = PolicyModule.training_step

    def step(self, batch, index):
        loss = original(self, batch, index)
        count = self.objective.samples
        for n, i in enumerate(batch.indices):
            own = slice(n * count, (n + 1) * count)
            texts = [self.writer.decoded(tokens) for tokens in self._rollout.tokens[own]]
            seen.append((self.examples[i], texts, self._rollout.rewards[own].tolist()))
        return loss

    monkeypatch.setattr(PolicyModule, "training_step", step)
    run = RunFolder(folder / "runs" / "mine")
    settings = given(
        *POLICY,
        write_pairs(folder / "pairs.jsonl"),
        "trainer.max_steps=-1",
        "trainer.max_epochs=1",
        "retriever.trainer.max_steps=2",
        "logger=csv",
    )
    train_stages(settings, run)
    unlabelled = [e for e, *_ in seen if not e.rewrite_prompt]
    # A pair with the id of an example is another pair, and one with a blank text is left out.
    assert sorted(e.id for e in unlabelled) == ["unlabelled/b", "unlabelled/row-0"]
    assert {e.id for e, *_ in seen} > {"unlabelled/b"}
    record = yaml.safe_load((run.adapter / "recoverer.yaml").read_text())
    assert record["unlabelled"]["pairs"] == 2
    with (run.csv / "metrics.csv").open() as file:
        columns = set(file.readline().strip().split(","))
    assert {"train/reward", "train/true_reward", "train/expected_reward"} <= columns


def test_the_expected_reward_is_that_of_the_posterior(folder, scs):  # noqa: F811
    run = RunFolder(folder / "runs" / "mine")
    train_stages(given(), run)
    retriever = load_retriever(run.retriever, scs, "fp32")
    pair = Pair("1", "It rained all day.", "All day it rained, oh joy!")
    posterior = retriever.posteriors([pair], MBR())[0]
    texts = ["Make it joyful", posterior.texts[0]]
    total = sum(posterior.votes) + sum(e.votes for e in posterior.embeddings)
    expected = []
    for text in texts:
        of_texts = zip(posterior.texts, posterior.votes, strict=True)
        gained = sum(votes * float(scs([text], [other])[0]) for other, votes in of_texts)
        for e in posterior.embeddings:
            gained += e.votes * float(scs.with_vectors([text], e.vector[None])[0, 0])
        expected.append(gained / total)
    assert expected_under(texts, posterior, scs) == pytest.approx(np.array(expected), abs=1e-5)
    assert expected_under([], posterior, scs).shape == (0,)


@pytest.mark.parametrize(
    ("settings", "retriever", "line"),
    [
        (POLICY, None, "needs a dense retriever, whose expected SCS is the reward"),
        (("objective=sft",), {}, "objective=sft needs true prompts; give a policy gradient"),
    ],
)
def test_what_cannot_be_trained_on_pairs_alone_is_refused_at_once(
    folder,  # noqa: F811
    settings,
    retriever,
    line,
):
    wanted = given(*settings, write_pairs(folder / "pairs.jsonl"))
    wanted = wanted if retriever is not None else {**wanted, "retriever": None}
    with pytest.raises(PromptRecoveryError, match=line):
        train_stages(wanted, RunFolder(folder / "runs" / "mine"))
    assert not list((folder / "runs").rglob("checkpoints"))


def test_the_retriever_of_a_run_proposes_candidates(folder, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(folder / "cache"))
    run = RunFolder(folder / "runs" / "mine")
    settings = (
        "objective=dpo",
        "preferences=sample",
        "preferences.mix.sampled=0",
        "preferences.mix.corrupted=0",
        "preferences.mix.others=0",
        "preferences.mix.retrieved=3",
        "preferences.pairing.margin=0.0001",
    )
    with pytest.raises(PromptRecoveryError, match="retrieved=3: needs a dense"):
        train_stages({**given(*settings), "retriever": None}, run)
    train_stages(given(*settings), run)
    truths = {e["id"]: e["rewrite_prompt"] for e in map(json.loads, (folder / "own.jsonl").open())}
    pool = [json.loads(line) for line in (run.preferences / "candidates.jsonl").open()]
    assert pool
    for row in pool:
        texts = [text for text, source, _ in row["candidates"]]
        assert len(texts) == 3 and {s for _, s, _ in row["candidates"]} == {"retrieved"}
        assert truths[row["id"]] not in texts and set(texts) <= set(truths.values())


def test_each_round_has_candidates_of_the_retriever_and_of_other_sources(folder, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(folder / "cache"))
    run = RunFolder(folder / "runs" / "mine")
    mix = {"sampled": 2, "zero_shot": 1, "corrupted": 1, "others": 1, "retrieved": 2}
    settings = (
        "objective=dpo",
        "preferences=sample",
        *(f"preferences.mix.{source}={count}" for source, count in mix.items()),
        "preferences.mix.max_new_tokens=4",
        "preferences.pairing.margin=0.0001",
        "rounds=2",
        "round_patience=2",
    )
    train_stages(given(*settings), run)
    asked = {"sampled", "zero_shot", "corrupted", "others", "retrieved"}
    for number, found in ((1, asked), (2, {*asked, "earlier"})):
        pool = (run.round(number).preferences / "candidates.jsonl").open()
        rows = [json.loads(line)["candidates"] for line in pool]
        assert {source for row in rows for _, source, _ in row} == found
    before, after = run.round(2).curve()
    assert (before["step"], before["val/words"] > 0, after["step"] > 0) == (0, True, True)
    assert not any(point["step"] == 0 for point in run.round(1).curve())


def test_the_retriever_of_a_run_proposes_candidates_in_its_first_stage(folder, monkeypatch):  # noqa: F811
    run = RunFolder(folder / "runs" / "mine")
    asked = []

    def train(job):
        if job.trains_retriever:
            job.run.retriever.mkdir()
        asked.append((job.run, job.preferences.retriever))
        job.run.write_metrics(metrics := {"val/scs": 0.5, "train/seconds": 1.0})
        return metrics

    monkeypatch.setattr(training, "train", train)
    first = "+first_stage={objective: {_target_: prompt_recovery.objectives.DPO}}"
    settings = ("preferences=sample", "preferences.mix.retrieved=1", *POLICY, first)
    train_stages(given(*settings), run)
    assert asked == [
        (run.retriever_stage, None),
        (run.first_stage, str(run.retriever)),
        (run, str(run.retriever)),
    ]


def test_a_retriever_that_has_seen_what_the_run_is_judged_by_is_refused(folder):  # noqa: F811
    """Its bank holds prompts of the validation and test split, which would become candidates."""
    alone = ("model=tiny_encoder", "objective=contrastive", "adapter=full", "decoding=mbr")
    other = RunFolder(folder / "runs" / "other")
    train_stages({**given(*alone), "retriever": None}, other)
    run = RunFolder(folder / "runs" / "mine")
    dpo = ("objective=dpo", "preferences=sample", "preferences.mix.retrieved=1")
    another = "split.seed=5"
    for settings in ((f"retriever.run={other.path}",), (f"preferences.retriever={other.path}",)):
        line = rf"{settings[0]}.*was trained on \d+ validation or test examples of this run"
        with pytest.raises(PromptRecoveryError, match=line):
            train_stages(given(*dpo, *settings, another), run)


def test_a_retriever_of_the_latest_run_stays_that_of_the_same_run(folder, monkeypatch):  # noqa: F811
    (folder / "runs" / "other").mkdir(parents=True)
    (folder / "runs" / "latest").symlink_to("other")
    asked = []
    monkeypatch.setattr(training, "train", lambda job: asked.append(job) or {"val/scs": 0.5})
    settings = given("objective=dpo", "preferences=sample", "preferences.retriever=runs/latest")
    run = RunFolder(folder / "runs" / "mine")
    train_stages({**settings, "retriever": None}, run)
    other = str(folder / "runs" / "other")
    assert asked[0].preferences.retriever == other
    assert run.config()["preferences"]["retriever"] == other
