"""Comparisons of run folders made up here, in which the truth is known."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.reporting.comparison.analysis import Factor, analyse
from prompt_recovery.reporting.comparison.compare import compare, mean_curve
from prompt_recovery.reporting.comparison.runs import comparable, from_folders, from_wandb
from prompt_recovery.reporting.comparison.words import answers, factor_title, verdict
from tests.runs.conftest import command

N = 120


def config_of(model, objective, seed, **changes):
    config = {
        "name": f"{model}_{objective}",
        "seed": seed,
        "tags": [],
        "data": {"_target_": "prompt_recovery.data.sources.starter"},
        "model": {"_target_": "x.Backbone", "name": model, "package": f"p_{model}"},
        "adapter": {"_target_": "x.Adapter", "name": "lora_top", "rank": 16},
        "objective": {"_target_": f"x.{objective.upper()}"},
        "optim": {"learning_rate": 0.001 if objective == "sft" else 0.0002},
    }
    if objective == "dpo":
        config["objective"]["beta"] = 0.1
    return config | changes


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "seed: [1]"),
        ("config.yaml", "- 1"),
        ("predictions.jsonl", '{"id": 1, "scs": "high"}\n'),
        ("predictions.jsonl", "[1]\n"),
        ("adapter/recoverer.yaml", "data: 3\nmetric: 4"),
    ],
)
def test_a_file_of_another_shape_sets_its_run_apart(tmp_path, name, content):
    write_run(tmp_path / "a", "small", "sft", 1, 0.0)
    (tmp_path / "a" / name).write_text(content)
    runs, [apart] = from_folders([str(tmp_path)])
    assert runs == []
    assert "cannot be read" in apart.reason


def test_examples_that_share_a_prompt_are_resampled_together(tmp_path):
    """Six examples of each prompt that all score alike tell no more than one of them."""
    width = {}
    for shared in (False, True):
        for seed, name, shift in ((1, "a", 0.0), (1, "b", 0.02)):
            folder = tmp_path / str(shared) / name
            write_run(folder, name, "sft", seed, shift)
            scores = np.repeat(scores_of(shift, len(name) + ord(name))[: N // 6], 6)
            prompts = [f"P {i // 6}!" if shared else f"P {i}" for i in range(N)]
            rows = [
                {"id": f"e{i:03}", "scs": s, "rewrite_prompt": prompts[i]}
                for i, s in enumerate(scores)
            ]
            (folder / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        comparison = analyse(from_folders([str(tmp_path / str(shared))])[0])
        low, high = comparison.arms[0].interval
        behind = comparison.behind[1].interval
        width[shared] = high - low, behind[1] - behind[0]
    assert width[True][0] > 2 * width[False][0]
    assert width[True][1] > 2 * width[False][1]


def scores_of(shift, seed):
    """Scores whose examples share their difficulty, so that pairing matters."""
    difficulty = np.random.default_rng(0).normal(0.05, 0.1, N)
    return difficulty + shift + np.random.default_rng(seed + 1).normal(0, 0.01, N)


def write_run(
    folder, model, objective, seed, shift, *, data="d1", exponent=3.0, ids="e", **changes
):
    folder.mkdir(parents=True)
    (folder / "adapter").mkdir()
    (folder / "config.yaml").write_text(
        yaml.safe_dump(config_of(model, objective, seed, **changes))
    )
    record = {
        "data": {"name": "starter", "fingerprint": data},
        "metric": {"encoder": "minilm", "exponent": exponent},
    }
    (folder / "adapter" / "recoverer.yaml").write_text(yaml.safe_dump(record))
    rows = [
        {"id": f"{ids}{i}", "category": "<b>tone|a</b>" if i % 3 else "style", "scs": round(s, 6)}
        for i, s in enumerate(scores_of(shift, seed))
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    metrics = {
        "val/scs": 0.05,
        "test/scs": float(np.mean([r["scs"] for r in rows])),
        "seconds": 600,
        "train/seconds": 300,
        "train/tokens_per_second": 500 if model == "small" else 250,
        "model/parameters": 1.3e8 if model == "small" else 2.7e8,
        "model/trainable_parameters": 2e6,
        "peak_memory_bytes": 3 * 2**30,
        "baseline/mean_prompt_scs": 0.02,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    curve = [{"step": s, "val/scs": shift + s / 1000} for s in (10, 20, 30)]
    (folder / "curve.jsonl").write_text("".join(json.dumps(p) + "\n" for p in curve))
    return folder


def test_a_run_that_has_diverged_is_left_out_and_named(tmp_path):
    write_run(tmp_path / "a", "small", "sft", 0, 0.0)
    path = write_run(tmp_path / "b", "small", "sft", 1, 0.9) / "metrics.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps({**metrics, "train/loss": float("nan")}))
    runs, apart = from_folders([str(tmp_path)])
    assert [run.seed for run in runs] == [0]
    [left_out] = apart
    assert left_out.name.endswith("b") and "has diverged (train/loss" in left_out.reason


def test_texts_that_hold_other_line_breaks_are_compared(tmp_path):
    path = write_run(tmp_path / "run", "small", "sft", 0, 0.0) / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
    texts = [{**row, "prediction": "a\u2028b\u2029c\x85d"} for row in rows]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in texts)
    path.write_text("".join(lines), "utf-8")
    [run], apart = from_folders([str(tmp_path)])
    assert len(run.scores) == len(rows) and not apart


@pytest.fixture
def ablation(tmp_path):
    """2 backbones × 2 objectives × 3 seeds: the backbone is worth 0.03, the objective nothing."""
    for model, worth in (("small", 0.0), ("big", 0.03)):
        for objective in ("sft", "dpo"):
            for seed in (1, 2, 3):
                write_run(
                    tmp_path / "runs" / f"{model}_{objective}_{seed}", model, objective, seed, worth
                )
    return tmp_path / "runs"


RETRIEVER = {"model": {"_target_": "x.EncoderBackbone", "name": "minilm"}, "run": None}


def test_the_label_of_a_run_of_two_models_names_both(tmp_path):
    write_run(tmp_path / "both", "small", "sft", 0, 0.1, retriever=RETRIEVER)
    [alone] = analyse(from_folders([str(tmp_path / "both")])[0]).arms
    assert alone.label == "small · sft + minilm"
    write_run(tmp_path / "one", "small", "sft", 0, 0.0, retriever=None)
    write_run(tmp_path / "old", "small", "dpo", 0, -0.1)  # a run without the setting
    finished = RETRIEVER | {"run": "runs/train/mine"}
    write_run(tmp_path / "run", "big", "sft", 0, -0.2, retriever=finished)
    comparison = analyse(from_folders([str(tmp_path)])[0])
    assert [arm.label for arm in comparison.arms] == [
        "small · sft + minilm",
        "small · sft",
        "small · dpo",
        "big · sft + mine",
    ]
    retriever = comparison.factor("retriever")
    assert [level.name for level in retriever.levels] == ["minilm", "none", "mine"]
    assert retriever.levels[1].behind.mean == pytest.approx(0.1, abs=0.01)


def test_the_label_names_a_retriever_that_all_runs_have_only_beside_the_model(tmp_path):
    for rank in (8, 16):
        adapter = {"_target_": "x.Adapter", "name": "lora_top", "rank": rank}
        path = tmp_path / str(rank)
        write_run(path, "small", "sft", 0, rank / 100, retriever=RETRIEVER, adapter=adapter)
    labels = [arm.label for arm in analyse(from_folders([str(tmp_path)])[0]).arms]
    assert labels == ["rank 16", "rank 8"]


def test_effects_are_found_where_they_are(ablation):
    runs, apart = from_folders([str(ablation)])
    assert (len(runs), apart) == (12, [])
    comparison = analyse(runs)
    assert len(comparison.arms) == 4
    assert [len(arm.runs) for arm in comparison.arms] == [3] * 4
    assert {f.name for f in comparison.factors} == {"backbone", "objective"}
    backbone, objective = comparison.factor("backbone"), comparison.factor("objective")
    assert [level.name for level in backbone.levels] == ["big", "small"]
    effect = backbone.levels[1].behind
    assert effect.significant
    assert abs(effect.mean - 0.03) < 0.003
    assert effect.interval[0] < 0.03 < effect.interval[1]
    assert not objective.levels[1].behind.significant
    assert objective.along == ["optim.learning_rate"], "what changes with it is said"
    arm = comparison.arms[0]
    means = [np.mean(list(r.scores.values())) for r in arm.runs]
    assert abs(arm.mean - np.mean(means)) < 1e-9
    assert abs(arm.over_seeds - 4.3027 * np.std(means, ddof=1) / 3**0.5) < 1e-6
    assert arm.interval[0] < arm.mean < arm.interval[1]


def test_a_backbone_that_never_differs_alone_is_said_to(tmp_path):
    write_run(tmp_path / "a", "small", "sft", 1, 0.0)
    write_run(tmp_path / "b", "big", "dpo", 1, 0.03)
    runs, _ = from_folders([str(tmp_path)])
    which, *_ = answers(analyse(runs))
    assert which.answer == "big"
    assert "no two runs differ in the backbone alone" in which.detail
    assert not which.good


def test_a_curve_is_the_mean_over_seeds(tmp_path):
    for seed in (1, 2):
        run = write_run(tmp_path / str(seed), "small", "sft", seed, 0.0)
        points = [{"step": 10 * seed, "val/scs": 0.1 * seed}, {"step": 20 * seed, "val/scs": 0.3}]
        (run / "curve.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points))
    runs, _ = from_folders([str(tmp_path)])
    [arm] = analyse(runs).arms
    assert np.allclose(mean_curve(arm), [(15, 0.15), (30, 0.3)])
    point = {"step": 40, "val/scs": 0.5}
    with (tmp_path / "1" / "curve.jsonl").open("a") as file:
        file.write("".join(json.dumps({**point, "step": s}) + "\n" for s in (30, 40)))
    runs, _ = from_folders([str(tmp_path)])
    [arm] = analyse(runs).arms
    assert np.allclose(mean_curve(arm), [(20, 0.25), (40, 0.4)]), "at the steps that both have"


def test_settings_that_change_along_are_named_by_their_group():
    along = ["first_stage.optim.warmup", "first_stage.objective", "optim.learning_rate"]
    title = factor_title(Factor("objective", along, []))
    assert title == "Effect of objective (with first_stage, optim.learning_rate)"


def test_variants_are_compared_on_the_seeds_that_they_share(tmp_path):
    """Seeds are worth much more than the objective here, and the better one has a bad seed less."""
    for objective, seeds, worth in (("sft", (1, 2, 3), 0.01), ("dpo", (1, 2), 0.0)):
        for seed in seeds:
            shift = worth + {1: 0.08, 2: 0.04, 3: -0.09}[seed]
            write_run(tmp_path / f"{objective}{seed}", "small", objective, seed, shift)
    runs, _ = from_folders([str(tmp_path)])
    comparison = analyse(runs)
    assert [arm.settings["objective"] for arm in comparison.arms] == ["dpo", "sft"]
    behind = comparison.behind[1]
    assert behind.mean == pytest.approx(-0.01, abs=1e-9)
    assert behind.interval == pytest.approx((-0.01, -0.01), abs=1e-9), "the same for each seed"


def test_only_what_is_significantly_better_is_called_best(tmp_path):
    for objective, seed in (("sft", 1), ("dpo", 2)):
        write_run(tmp_path / "equal" / objective, "small", objective, seed, 0.0)
    write_run(tmp_path / "better" / "big", "big", "sft", 1, 0.03)
    equal, _ = from_folders([str(tmp_path / "equal")])
    assert "scores highest, not significantly: SCS 0.0" in verdict(analyse(equal))
    better, _ = from_folders([str(tmp_path / "equal" / "sft"), str(tmp_path / "better")])
    assert verdict(analyse(better)).startswith("big is best: SCS 0.0")
    three, _ = from_folders([str(tmp_path)])
    assert "big · sft is best" in verdict(analyse(three))


def test_what_cannot_be_compared_is_set_apart_with_the_reason(ablation, tmp_path):
    write_run(tmp_path / "other" / "data", "small", "sft", 9, 0.5, data="d2")
    write_run(tmp_path / "other" / "metric", "small", "sft", 9, 0.5, exponent=1.0)
    write_run(tmp_path / "other" / "split", "small", "sft", 9, 0.5, ids="f")
    (write_run(tmp_path / "other" / "stopped", "small", "sft", 9, 0.5) / "metrics.json").unlink()
    untested = write_run(tmp_path / "other" / "untested", "small", "sft", 9, 0.5)
    (untested / "predictions.jsonl").unlink()
    write_run(tmp_path / "other" / "twin", "small", "sft", 1, 0.5)
    comparison = compare([str(ablation), str(tmp_path / "other" / "*")], None, tmp_path / "out")
    assert sum(len(a.runs) for a in comparison.arms) == 12
    reasons = {
        a["run"].rsplit("/", 1)[-1]: a["reason"]
        for a in json.loads((tmp_path / "out" / "report.json").read_text())["apart"]
    }
    assert reasons["data"].startswith("other data: starter d2, not starter d1")
    assert reasons["metric"].startswith("other metric: minilm with exponent 1")
    assert reasons["split"].startswith("other test examples")
    assert reasons["twin"].startswith("the same settings and seed as ")
    assert reasons["stopped"] == "is not finished (no metrics.json)"
    assert reasons["untested"].endswith("(no predictions.jsonl)")
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "other metric" in text


def test_a_report_of_other_runs_is_kept(tmp_path):
    for name, model in (("a", "small"), ("b", "big")):
        write_run(tmp_path / name, model, "sft", 1, 0.0)
    out = tmp_path / "out"
    compare([str(tmp_path / "a")], None, out)
    first = (out / "report.json").read_bytes()
    compare([str(tmp_path / "b")], None, out)
    second = (out / "report.json").read_bytes()
    [earlier] = (out / "earlier").iterdir()
    assert {p.name for p in earlier.iterdir()} == {"report.html", "report.md", "report.json"}
    assert (earlier / "report.json").read_bytes() == first != second
    compare([str(tmp_path / "b")], None, out)
    assert list((out / "earlier").iterdir()) == [earlier], "the same runs replace their report"


def test_the_first_screen_answers_the_questions(ablation, tmp_path):
    compare([str(ablation)], None, tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    lead = re.sub(r"<[^>]+>", " ", html[html.index("<header>") : html.index("</header>")])
    for part in ("Which backbone?", "big", "Which objective?", "Is it significant?",
                 "What did it cost?", "10.0 min", "3.0 GiB", "2.0 h", "p &lt; 0.001"):  # fmt: skip
        assert part in lead, part
    assert "http" not in re.sub(r"http-equiv", "", html), "nothing is fetched from elsewhere"
    assert "<b>tone" not in html, "texts of datasets are data"
    assert html.count("<svg") == 3
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "<b>" not in markdown.replace("\\<b\\>", "")
    rows = [r for r in markdown.splitlines() if r.startswith("|")]
    assert rows
    assert "Effect of backbone" in markdown


def test_the_command(ablation, tmp_path):
    result = command("compare", f"runs=[{ablation}]", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Which backbone? big" in result.stderr
    assert (tmp_path / "runs" / "compare" / "report.html").is_file()
    for arguments, part in (([], "nothing to compare"), (["runs=[none]"], "no such folder")):
        failed = command("compare", *arguments, cwd=tmp_path)
        assert failed.returncode == 1
        assert part in failed.stderr
        assert "Traceback" not in failed.stderr


class FakeRun:
    """What `wandb.Api` gives of a run, from a run folder."""

    def __init__(self, folder, state="finished"):
        self.path, self.state, self.folder = ["me", "project", folder.name], state, folder
        record = yaml.safe_load((folder / "adapter" / "recoverer.yaml").read_text())
        self.config = yaml.safe_load((folder / "config.yaml").read_text()) | {"compared_by": record}
        self.summary = json.loads((folder / "metrics.json").read_text())
        self.summary["test/predictions"] = {"path": "media/table/test.table.json"}

    def scan_history(self, keys):
        rows = [json.loads(line) for line in (self.folder / "curve.jsonl").read_text().splitlines()]
        return [{"trainer/global_step": r["step"], "val/scs": r["val/scs"]} for r in rows]

    def file(self, path):
        folder = self.folder

        class File:
            def download(self, root, replace):
                rows = [
                    json.loads(x) for x in (folder / "predictions.jsonl").read_text().splitlines()
                ]
                columns = ["id", "category", "scs"]
                target = Path(root) / path
                target.parent.mkdir(parents=True)
                table = {"columns": columns, "data": [[r[c] for c in columns] for r in rows]}
                target.write_text(json.dumps(table))

        return File()


def test_runs_of_a_wandb_project_are_those_of_the_folders(ablation, monkeypatch):
    folders = sorted(ablation.iterdir())

    class Api:
        def runs(self, project):
            assert project == "me/project"
            return [FakeRun(f) for f in folders] + [FakeRun(folders[0], "crashed")]

    monkeypatch.setattr("wandb.Api", Api)
    theirs, apart = from_wandb("me/project")
    ours, _ = from_folders([str(ablation)])
    assert [a.reason for a in apart] == ["is not finished (crashed)"]
    assert [t.scores for t in theirs] == [o.scores for o in ours]
    assert [t.curve for t in theirs] == [o.curve for o in ours]
    a, b = analyse(comparable(theirs)[0]), analyse(ours)
    assert [x.label for x in a.arms] == [x.label for x in b.arms]


def test_wandb_without_an_account_is_one_line(monkeypatch):
    class Api:
        def runs(self, project):
            raise ValueError("no API key\nconfigured")

    monkeypatch.setattr("wandb.Api", Api)
    with pytest.raises(PromptRecoveryError, match="no API key configured"):
        from_wandb("me/project")
