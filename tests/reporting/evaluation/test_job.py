"""`prompt-recovery evaluate`, as a library and as a user meets it."""

import json
import logging
import re
import shutil
from dataclasses import replace
from functools import partial

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from prompt_recovery import __version__
from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.data.examples import Dataset
from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import MBR, load_recoverer
from prompt_recovery.recovery.baselines import FewShot, ZeroShot, mean_prompt
from prompt_recovery.recovery.decoding import Greedy
from prompt_recovery.recovery.interface import ConstantRecoverer
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.reporting.evaluation import job as evaluation
from prompt_recovery.reporting.evaluation.contenders import (
    Contender,
    from_baseline,
    from_column,
    from_file,
    from_recipe,
)
from prompt_recovery.reporting.evaluation.examples import choose_examples, some_of
from prompt_recovery.reporting.evaluation.job import EvaluationJob, run_evaluation
from prompt_recovery.reporting.evaluation.settings import prediction_entries
from prompt_recovery.settings.folder import config_folder
from prompt_recovery.templates import Template
from tests import command_line
from tests.command_line import assert_one_line
from tests.conftest import ROOT
from tests.forks import Fork
from tests.killing import assert_kills_change_nothing
from tests.tiny_run import write_rows

SPLIT = {"by": "prompt", "val": 0.2, "test": 0.2, "seed": 0}


def constant(text, made, identity=None):
    def make():
        made.append(text)
        return ConstantRecoverer(text)

    return Contender(text, "baseline", identity or text, make)


@pytest.fixture
def job(examples, scs, tmp_path):
    contenders = [constant("Fix it", [])]
    return EvaluationJob("own", examples, contenders, scs, None, [], tmp_path / "out")


@pytest.fixture
def own(tmp_path, examples):
    """A file of sixteen rows with columns of other names, and predictions among them; and one with
    other rows for the baselines to learn from."""
    examples = examples[:16]
    rows = [
        {"key": e.id, "before": e.original_text, "after": e.rewritten_text, "p": e.rewrite_prompt,
         "kind": f"<b>{e.category}</b> | no",
         "theirs": e.rewrite_prompt if n % 2 else "<b>Fix it</b> | no"}
        for n, e in enumerate(examples)
    ]  # fmt: skip
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    others = [
        replace(
            e,
            id=f"other-{e.id}",
            original_text=f"{e.original_text} It is late.",
            rewrite_prompt=f"Turn this into a recipe with {n} eggs",
        )
        for n, e in enumerate(examples)
    ]
    write_rows(tmp_path / "training.jsonl", others)
    return tmp_path


OWN = [
    "data=file", "data.path=own.jsonl", "data.columns.id=key", "data.columns.original_text=before",
    "data.columns.rewritten_text=after", "data.columns.rewrite_prompt=p",
    "data.columns.category=kind", "data@training=file", "training.path=training.jsonl",
]  # fmt: skip


run = partial(command_line.run, "evaluate")


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_computed(job, tmp_path):
    (tmp_path / "file").write_text("")
    made = []
    job = replace(job, contenders=[constant("Fix it", made)], folder=tmp_path / "file" / "out")
    with pytest.raises(PromptRecoveryError, match="cannot write into"):
        run_evaluation(job)
    assert not made


def test_a_model_that_is_missing_is_found_before_anything_is_computed(job, examples, scs):
    made = []
    zero_shot = ZeroShot(Backbone("gone", package="no_such_weights"), Template("t", ""), Greedy())
    for gone in (zero_shot, FewShot(zero_shot.backbone, zero_shot.template, Greedy())):
        theirs = from_baseline(gone, Dataset("own", examples), scs)
        both = replace(job, contenders=[constant("Fix it", made), theirs])
        with pytest.raises(PromptRecoveryError, match="needs the weights package 'no_such_weights"):
            run_evaluation(both)
        assert not made
    kept = replace(constant(theirs.name, made, theirs.identity), check=theirs.check)
    run_evaluation(replace(job, contenders=[replace(kept, check=lambda: None)]))
    run_evaluation(replace(job, contenders=[theirs]))  # its predictions are kept


def test_a_disk_that_fills_up_loses_nothing_that_was_computed(job, monkeypatch, capsys):
    made = []
    contenders = [constant("Fix it", made), constant("Mend it", made)]
    kept = evaluation.write_jsonl

    def full(path, values):
        if "Fix-it" in path.name:
            raise PromptRecoveryError(f"cannot write {path} (No space left on device)")
        kept(path, values)

    monkeypatch.setattr(evaluation, "write_jsonl", full)
    with pytest.raises(PromptRecoveryError, match="No space left"):
        run_evaluation(replace(job, contenders=contenders))
    assert made == ["Fix it", "Mend it"]
    assert "Fix it" in capsys.readouterr().out
    assert [p.name[:7] for p in (job.folder / "predictions").iterdir()] == ["Mend-it"]
    monkeypatch.setattr(evaluation, "write_jsonl", kept)
    run_evaluation(replace(job, contenders=contenders))
    assert made == ["Fix it", "Mend it", "Fix it"]


def test_a_split_without_test_rows_is_nothing_to_evaluate_on(examples):
    data = Dataset("own", examples)
    with pytest.raises(PromptRecoveryError, match="split.test=0 leaves no row of own"):
        choose_examples(data, data, "test", {**SPLIT, "test": 0.0})


def test_what_is_learned_from_is_never_evaluated(examples):
    data = Dataset("own", examples)
    tested, training = choose_examples(data, Dataset("other", []), "test", SPLIT)
    assert tested
    assert training.examples
    assert not {e.id for e in tested} & {e.id for e in training.examples}
    assert not {e.rewrite_prompt for e in tested} & {e.rewrite_prompt for e in training.examples}
    # The same texts under other ids and prompts are found out, too.
    copies = [
        replace(e, id=f"copy-{e.id}", original_text=e.original_text.upper(), rewrite_prompt=f"p{n}")
        for n, e in enumerate(examples[:20])
    ]
    others = [
        replace(e, id=f"o-{n}", original_text=f"other {n}", rewrite_prompt=f"q{n}")
        for n, e in enumerate(examples)
    ]
    everything, learned = choose_examples(data, Dataset("x", copies + others), "all", SPLIT)
    assert everything == examples
    assert learned.examples
    assert {e.id[:2] for e in learned.examples} == {"o-"}
    with pytest.raises(PromptRecoveryError, match="nothing to learn from"):
        choose_examples(data, data, "all", SPLIT)


def test_some_rows_are_chosen_by_their_ids(examples):
    few, more = some_of(examples, 5), some_of(examples, 20)
    assert len(few) == 5 and len(more) == 20
    assert [e for e in more if e in few] == few, "more rows contain the fewer, in their order"
    assert sorted(e.id for e in some_of(examples[::-1], 5)) == sorted(e.id for e in few)
    assert some_of(examples, 40) == some_of(examples, 400) == some_of(examples, None) == examples


def test_a_run_has_the_name_of_the_table_of_its_training(trained_run, tmp_path):
    plain, named = tmp_path / "2026-01-02_03-04-05_tiny_sft", tmp_path / "2026-01-02_03-04-05_mine"
    for folder in (plain, named):
        shutil.copytree(trained_run, folder)
    assert from_recipe(Recipe([plain])).name == "tiny sft"
    assert from_recipe(Recipe([plain / "adapter"])).name == "tiny sft"
    assert from_recipe(Recipe([named], decoding=MBR())).name == "mine: tiny sft, mbr"


def test_predictions_that_are_kept_under_another_name_are_found(job):
    made = []
    run_evaluation(replace(job, contenders=[constant("Fix it", made)]))
    [kept] = (job.folder / "predictions").iterdir()
    kept.rename(kept.with_name(f"older-name-{kept.stem[-8:]}.jsonl"))
    run_evaluation(replace(job, contenders=[constant("Fix it", made)]))
    assert made == ["Fix it"]


def test_what_is_finished_is_not_made_again(job):
    made = []
    run_evaluation(replace(job, contenders=[constant("Fix it", made)]))
    both = [constant("Fix it", made), constant("Make it joyful", made)]
    report = run_evaluation(replace(job, contenders=both))
    assert made == ["Fix it", "Make it joyful"]
    assert report.best.name == "Make it joyful"
    assert run_evaluation(replace(job, contenders=both)).best.mean == report.best.mean
    assert len(made) == 2
    run_evaluation(replace(job, contenders=[constant("Fix it", made, "another version")]))
    run_evaluation(replace(job, contenders=both, examples=job.examples[:30]))
    assert made[2:] == ["Fix it", "Fix it", "Make it joyful"]
    for path in (job.folder / "predictions").iterdir():
        path.write_text(path.read_text()[:-40])  # damaged: made again
    run_evaluation(replace(job, contenders=both))
    assert made[5:] == ["Fix it", "Make it joyful"]


def test_evidence_is_measured_for_the_best_recoverer_and_kept(job, trained_run, caplog):
    made = []

    def make():
        made.append("run")
        return load_recoverer(trained_run, MBR(2, 1.0, 3), "fp32")

    run_contender = Contender("run", "recoverer", "1", make)
    job = replace(job, contenders=[run_contender], explain="occlusion")
    report = run_evaluation(job)
    places = {place for group in report.samples() for place in group}
    answered = {i for i in places if not report.best.predictions[i].fallback}
    assert set(report.evidence) == places
    assert {i for i, found in report.evidence.items() if found} == answered
    assert made == ["run", "run"]
    again = run_evaluation(job)
    assert made == ["run", "run"], "evidence is kept, as predictions are"
    assert again.evidence == report.evidence
    assert again.best.seconds_by_source == report.best.seconds_by_source
    assert sum(report.best.seconds_by_source.values()) <= report.best.seconds
    assert set(report.best.seconds_by_source) == {"tiny sft", "choice"}
    assert "<mark " in (job.folder / "report.html").read_text()
    assert run_evaluation(replace(job, explain=None)).evidence == {}

    def gone():
        raise PromptRecoveryError("its backbone is gone")

    # Kept predictions are reported without the recoverer, too.
    shutil.rmtree(job.folder / "evidence")
    moved = replace(job, contenders=[replace(run_contender, make=gone)])
    assert run_evaluation(moved).evidence == {}
    assert "no evidence: its backbone is gone" in caplog.text
    # A baseline that is better, or a recoverer that reads nothing, has none.
    better = constant(job.examples[0].rewrite_prompt, [])
    assert run_evaluation(replace(job, contenders=[run_contender, better])).evidence == {}
    blind = Contender("blind", "recoverer", "2", lambda: ConstantRecoverer("Fix it"))
    assert run_evaluation(replace(job, contenders=[blind])).evidence == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[:-1],
        lambda lines: [lines[0], *lines[2:], lines[1]],
        lambda lines: ['{"key": 1}', *lines[1:]],
        lambda lines: [*lines[:-1], "[]"],
        lambda lines: [*lines[:-1], lines[-1].replace('"Fix it"', "[1]")],
        lambda lines: [lines[0].replace('"seconds"', '"s"'), *lines[1:]],
        lambda lines: [line.replace('"confidence": null', '"confidence": []') for line in lines],
        lambda lines: [line.replace('"fallback": false', '"fallback": 3') for line in lines],
        lambda _: [],
    ],
)
def test_kept_predictions_of_another_shape_are_made_again(job, damage):
    made = []
    job = replace(job, contenders=[constant("Fix it", made)])
    run_evaluation(job)
    [path] = (job.folder / "predictions").iterdir()
    whole = path.read_text()
    path.write_text("".join(line + "\n" for line in damage(whole.split("\n")[:-1])))
    run_evaluation(job)
    assert made == ["Fix it"] * 2
    assert path.read_text().split("\n")[1:] == whole.split("\n")[1:]


def test_names_are_distinct_and_something_is_evaluated(job):
    with pytest.raises(PromptRecoveryError, match="nothing to evaluate"):
        replace(job, contenders=())
    with pytest.raises(PromptRecoveryError, match="two rows of the table would be called 'a'"):
        replace(job, contenders=[constant("a", []), constant("a", [])])


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_predictions_from_a_file_are_matched_by_id(name, tmp_path, job):
    answers = [(e.id, e.rewrite_prompt) for e in job.examples][::-1]
    if name.endswith("csv"):
        text = "id,rewrite_prompt\n" + "".join(f'{i},"{t}"\n' for i, t in answers)
    else:  # a run's predictions.jsonl has the truth, too
        rows = [{"id": i, "prediction": t, "rewrite_prompt": "truth"} for i, t in answers]
        text = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / name).write_text(text)
    report = run_evaluation(replace(job, contenders=[from_file(tmp_path / name)]))
    assert report.best.name == "p"
    assert report.best.exact.all()
    assert report.best.seconds is None
    (tmp_path / name).write_text(text[: text.index("\n", 200) + 1])
    with pytest.raises(PromptRecoveryError, match="p: has no prediction for"):
        run_evaluation(replace(job, contenders=[from_file(tmp_path / name)]))
    with pytest.raises(PromptRecoveryError, match="column 'guess' is missing"):
        from_file(tmp_path / name, "guess")


def test_predictions_of_other_rows_are_refused_before_anything_is_computed(tmp_path, job):
    (tmp_path / "p.csv").write_text("row_id,guess\n1,Make it short\n")
    [entry] = prediction_entries(
        [{"path": str(tmp_path / "p.csv"), "column": "guess", "id": "row_id"}]
    )
    theirs = from_file(entry.path, entry.column, entry.id, entry.name)
    with pytest.raises(PromptRecoveryError, match="p: has no prediction for 40 of 40 rows, the f"):
        replace(job, contenders=[*job.contenders, theirs])
    with pytest.raises(
        PromptRecoveryError, match=r"predictions\[0\]\.row: there is no such setting"
    ):
        prediction_entries([{"path": "p.csv", "row": "id"}])
    with pytest.raises(PromptRecoveryError, match=r"predictions\[0\]\.column=.*must be a text"):
        prediction_entries([{"path": "p.csv", "column": ["a"]}])


def test_a_column_that_is_not_there(examples):
    with pytest.raises(PromptRecoveryError, match="no column 'theirs'"):
        blank = {"theirs": {e.id: "" for e in examples}}
        from_column(Dataset("own", examples, also=blank), "theirs", None)


def test_a_file_with_runs_baselines_and_predictions_in_one_table(own, trained_run):
    result = run(
        *OWN, "name=own", "model=tiny", "precision=fp32", "decoding.max_new_tokens=4",
        f"recoverers=[{{run: {trained_run}, name: mine}},"
        f"{{run: {trained_run}, decoding: {{mbr: {{samples: 3, max_new_tokens: 4, combined: 2}}}}}}"
        "]",
        "baselines=[{mean_prompt: {rounds: 1, proposals: 4}},{few_shot: {shots: 1}}]",
        "predictions=[theirs]", cwd=own,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    seen = re.search(
        r"mine was trained on (\d+) and validated on (\d+) of the 16 evaluated rows",
        result.stderr.replace("\n", " "),
    )
    assert seen and 0 < int(seen[1]) + int(seen[2]) < 16, "though they are in another file"
    folder = own / "runs" / "evaluate" / "own"
    record = json.loads((folder / "report.json").read_text())
    names = [r["name"] for r in record["recoverers"]]
    assert names[0] == "mine", "which neighbours help, as they do in recover: it knows these rows"
    assert {"theirs", "mean prompt, searched", "tiny 1-shot"} < set(names)
    [named] = [n for n in names if n.endswith(", mbr")]
    assert named.endswith(": tiny sft, mbr"), "the name that it has in the table of its training"
    about = record["about"]
    assert seen[0] in about["evaluated rows seen in training"]
    assert about["mine"].startswith(f"{trained_run}; decoding mbr (samples 16, temperature 0.7, ")
    assert "retrieval neighbours (space difference, k 16, " in about["mine"], "as recover does"
    assert about["command"].startswith("prompt-recovery evaluate data=file data.path=own.jsonl ")
    assert about["report"] == "runs/evaluate/own"
    assert about["date"][:2] == "20"
    assert __version__ in about["version"]
    assert record["examples"] == 16
    assert record["recoverers"][names.index("theirs")]["exact_match"] == 0.5
    html = (folder / "report.html").read_text()
    assert "&lt;b&gt;Fix it&lt;/b&gt;" in html
    assert "<b>Fix it" not in html
    markdown = (folder / "report.md").read_text()
    assert "&lt;b\\>tone&lt;/b\\> \\| no" in markdown
    assert "theirs" in result.stdout


def test_a_quick_evaluation_is_of_few_rows_and_has_a_folder_of_its_own(tmp_path):
    result = run("quick=true", "rows=7", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "runs/evaluate/starter_7_rows/report.json").read_text())
    assert record["examples"] == 7
    assert [r["name"] for r in record["recoverers"]] == ["mean prompt"]
    assert record["about"]["evaluated"] == "starter, test split: 7 of 203 rows"
    assert record["second_encoder"] is None
    assert "With only 7 rows" in (tmp_path / "runs/evaluate/starter_7_rows/report.md").read_text()


def test_the_starter_is_evaluated_on_its_test_split(tmp_path, scs):
    result = run("baselines=[{mean_prompt: {rounds: 0}}]", "second_metric=null", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "runs/evaluate/starter/report.json").read_text())
    assert record["examples"] == 203
    parts = split(starter(), val=0.06, test=0.13)
    constant = mean_prompt(scs, [e.rewrite_prompt for e in parts.train])
    expected = scs([constant] * 203, [e.rewrite_prompt for e in parts.test]).mean()
    assert record["recoverers"][0]["scs"] == pytest.approx(expected, rel=1e-5)
    assert 0.02 < expected < 0.025, "as the documentation says"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["baselines=[]"], ["nothing to evaluate"]),
        (["baselines=[guess]"], ["baseline 'guess' is unknown", "mean_prompt"]),
        (["baselines=[{regressor: {model: tree}}]"], ["must be ridge or mlp"]),
        (["baselines=[{regressor: {modle: mlp}}]"], ["modle"]),
        (["recoverers=[nowhere]", "baselines=[]"], ["nowhere"]),
        (["predictions=[nowhere.csv]", "baselines=[]"], ["nowhere.csv: no such file"]),
        (["predictions=[guess]", "baselines=[]"], ["guess"]),
        (["part=some"], ["part=some: must be"]),
    ],
)
def test_mistakes_are_one_line(arguments, parts, tmp_path):
    assert_one_line(run(*arguments, cwd=tmp_path), *parts)


def test_kills_change_no_evaluation(own, tmp_path):
    arguments = [*OWN, "name=own", "baselines=[{mean_prompt: {rounds: 1, proposals: 4}},zero_shot]",
                 "model=tiny", "precision=fp32", "decoding.max_new_tokens=64",
                 "second_metric=null", "part=all"]  # fmt: skip

    def start(folder):
        with (folder / "stderr").open("a") as said:
            words = command_line.command("evaluate", *arguments)
            return Fork(words, cwd=folder, stderr=said)

    def left(folder):
        made = folder / "runs" / "evaluate" / "own"
        kept = {p.name: p.read_text().split("\n")[1:] for p in (made / "predictions").iterdir()}
        record = json.loads((made / "report.json").read_text())
        del record["about"]["date"]
        for contender in record["recoverers"]:
            for name in [name for name in contender if "seconds" in name]:
                del contender[name]
        assert {p.name for p in made.iterdir()} == {
            "predictions", "report.html", "report.json", "report.md",
        }  # fmt: skip
        return kept, record

    def prepare(folder):
        for name in ("own.jsonl", "training.jsonl"):
            shutil.copy(own / name, folder)

    assert_kills_change_nothing(tmp_path / "kills", prepare, start, left)


@pytest.mark.parametrize("name", sorted(p.stem for p in (config_folder() / "baseline").iterdir()))
def test_every_baseline_composes(name):
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("evaluate", [f"+baseline@chosen={name}", "model=tiny", "output=x"])
        baseline = instantiate(config.chosen)
    assert baseline.name
    assert callable(baseline.fit)


def test_the_help_says_how():
    result = run("--help", cwd=ROOT)
    assert result.returncode == 0
    for word in ("recoverers=", "baselines=", "predictions=", "report.html"):
        assert word in result.stdout


def test_baselines_come_last_and_each_score_is_said_at_once(job, caplog):
    made = []
    contenders = [constant("Fix it", made), replace(constant("Sum up", made), kind="recoverer")]
    with caplog.at_level(logging.INFO):
        run_evaluation(replace(job, contenders=contenders))
    assert made == ["Sum up", "Fix it"]
    scores = [m for m in caplog.messages if "mean SCS" in m]
    assert [s.partition(":")[0] for s in scores] == made
    assert re.search(r": mean SCS -?0\.\d{3} \(95 % interval ", scores[0])
