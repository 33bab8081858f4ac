"""A language model and the retriever that is trained before it, in one run."""

import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import Pair, load_recoverer
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.runs.folder import RunFolder, recoverer_folders
from prompt_recovery.settings.checking import check
from prompt_recovery.training import run as training
from prompt_recovery.training.job import TrainSettings
from prompt_recovery.training.stage_settings import retriever_settings
from prompt_recovery.training.stages import train_stages
from tests.settings.composing import composed
from tests.tiny_run import TINY_RUN, write_rows

TINY = (
    *(setting for setting in TINY_RUN if setting != "retriever=none"), "retriever=contrastive",
    "model@retriever.model=tiny_encoder", "precision=fp32", "trainer=cpu", "trainer.max_steps=2",
    "retriever.trainer.max_epochs=1",
    "decoding=mbr", "decoding.samples=3", "decoding.max_new_tokens=4", "decoding.combined=2",
    "name=mine", "group=null",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, examples, monkeypatch):
    write_rows(tmp_path / "own.jsonl", examples)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(*arguments):
    return check(composed("train", *TINY, *arguments), TrainSettings)


def test_a_run_leaves_both_and_they_answer_together(folder):
    run = RunFolder(folder / "runs" / "mine")
    train_stages(given(), run)
    assert recoverer_folders(run.path) == [run.adapter, run.retriever]
    metrics = run.metrics()
    assert {"test/scs", "test/model_scs", "test/retriever_scs", "val/scs"} <= set(metrics)
    rows = run.predictions()
    for name in ("model", "retriever"):
        assert all(isinstance(row[name], str) for row in rows)
        mean = sum(row[f"{name}_scs"] for row in rows) / len(rows)
        assert mean == pytest.approx(metrics[f"test/{name}_scs"], abs=1e-6)

    pair = Pair("1", "It rained all day.", "All day it rained, oh joy!")
    decoding = MBR(samples=3, max_new_tokens=4, combined=2)
    recipe = Recipe([run.path], decoding, precision="fp32")
    ready = assemble(recipe, lambda *_: pytest.fail("it was fitted at the end of training"))
    assert ready.recoverer.joining is not None
    [prediction] = ready.recoverer.recover([pair])
    assert prediction.confidence is not None
    written = [c for c in prediction.candidates if c.log_probability is not None]
    assert 0 < len(written) < len(prediction.candidates), "both have candidates"
    assert load_recoverer(run.path, decoding, "fp32").recover([pair]) == [prediction]

    alone = assemble(Recipe([run.retriever], MBR(), precision="fp32"))
    assert all(c.log_probability is None for c in alone.recoverer.recover([pair])[0].candidates)
    weighted = Recipe([run.adapter, run.retriever], decoding, [1, 3], precision="fp32")
    assert assemble(weighted).recoverer.joining is None, "given weights stay"


def test_the_retriever_is_trained_first_with_its_own_settings(folder, monkeypatch, caplog):
    caplog.set_level("INFO")
    run = RunFolder(folder / "runs" / "mine")
    seen = []

    def train(job):
        seen.append((job.run, job.backbone.name, job.optim.learning_rate, job.evaluate))
        if job.trains_retriever:
            job.run.retriever.mkdir()
            (job.run.retriever / "modules.json").write_text("[]")
        else:
            assert job.retriever == run.retriever
            assert (run.retriever / "modules.json").is_file()
            assert 1007 > job.seconds_before >= 7, "what an earlier process did counts, too"
        metrics = {"val/scs": 0.5, "seconds": 7.0}
        job.run.write_metrics(metrics)
        return metrics

    monkeypatch.setattr(training, "train", train)
    assert train_stages(given("optim.learning_rate=0.5"), run) == 0.5
    assert seen == [
        (run.retriever_stage, "tiny_encoder", 1e-4, False),
        (run, "tiny", 0.5, True),
    ]
    told = [r.message for r in caplog.records if r.message.startswith("stage ")]
    assert told == ["stage 1 of 2: the dense retriever", "stage 2 of 2: the language model"]


def test_its_settings_do_not_depend_on_those_of_the_model():
    """So that trials of a multirun that differ in the model share one retriever."""
    plain = retriever_settings(given())
    other = retriever_settings(
        given(
            "optim.learning_rate=0.5",
            "batching.batch_size=2",
            "template=difference",
            "objective=dpo",
            "trainer.max_epochs=9",
            "adapter.rank=4",
        )
    )
    for config in (plain, other):
        del config["preferences"]  # objective=contrastive has none
    assert plain == other
    assert plain["retriever"] is None and plain["trainer"]["accelerator"] == "cpu"


def test_a_finished_retriever_can_be_given(folder):
    (folder / "empty").mkdir()
    run = RunFolder(folder / "runs" / "mine")
    with pytest.raises(PromptRecoveryError, match=r"^retriever.run=.*empty: holds no"):
        train_stages(given("retriever.run=empty"), run)
    with pytest.raises(PromptRecoveryError, match=r"^retriever.run=.*none: no such folder"):
        train_stages(given("retriever.run=none"), run)


def test_it_is_trained_as_a_run_of_its_own_would_train_it():
    beside = retriever_settings(check(composed("train", "name=x", "group=null"), TrainSettings))
    alone = check(
        composed("train", "model=minilm", "objective=contrastive", "name=x", "group=null"),
        TrainSettings,
    )
    for key in ("model", "adapter", "objective", "batching", "optim", "trainer", "split"):
        assert beside[key] == alone[key], f"conf/retriever/contrastive.yaml differs in {key}"
