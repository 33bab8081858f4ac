"""Shipped recoverers that are made of tiny runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import MBR, Pair, load_recoverer
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.runs import shipped
from prompt_recovery.runs.differences import read_weights
from prompt_recovery.runs.folder import RunFolder, named_runs
from prompt_recovery.runs.shipped import Manifest
from prompt_recovery.shipping.card import card
from prompt_recovery.shipping.make import ShippingSettings, ship
from prompt_recovery.training.stages import train_stages
from tests.tiny_run import write_rows
from tests.training.test_together import folder, given  # noqa: F401  (folder is a fixture)

PAIR = Pair("1", "The ferry number 3 leaves the harbour.", "Oh joy, ferry 3 sails away!")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, few_examples):
    """The folder of a finished run with an adapter and a retriever."""
    home = tmp_path_factory.mktemp("trained")
    write_rows(home / "own.jsonl", few_examples)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        run = RunFolder(home / "runs" / "mine")
        # Each answer to a validation or test example embeds dozens of texts.
        train_stages(given("split.val=0.05", "split.test=0.05"), run)
    return run.path


@pytest.fixture
def run(trained, folder, monkeypatch):  # noqa: F811
    """A copy of the run for each test, and an empty package."""
    monkeypatch.setattr(shipped, "FOLDER", folder / "shipped")
    return RunFolder(shutil.copytree(trained, folder / "runs" / "mine"))


def pair_of(row):
    return Pair("1", row["original_text"], row["rewritten_text"])


def contents(path):
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in files}


def test_a_run_is_shipped_and_answers_by_its_name(run, folder, caplog):  # noqa: F811
    output = ship(ShippingSettings(runs=[str(run.path)], output="shipped/small", test=True))
    adapter = load_file(output / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in adapter.values()} == {torch.bfloat16}
    assert not (output / "retriever" / "model.safetensors").exists()

    [unpacked] = named_runs("small")
    trained = read_weights(run.retriever / "model.safetensors")
    weights = read_weights(unpacked / "retriever" / "model.safetensors")
    assert set(weights) == set(trained)
    assert all(np.allclose(weights[n], trained[n], rtol=1e-3, atol=1e-4) for n in trained)

    recipe = Recipe([unpacked], MBR(), precision="fp32")
    ready = assemble(recipe, lambda *_: pytest.fail("it is fitted when it is made"))
    [prediction] = ready.recoverer.recover([PAIR])
    assert prediction.confidence is not None
    [alike] = load_recoverer("small", precision="fp32").recover([PAIR])
    assert alike == prediction
    assemble(Recipe([unpacked], MBR(), precision="bf16"), lambda *_: pytest.fail("for bf16, too"))
    assert "no confidence" not in caplog.text

    # The prompts come embedded; only what the model wrote is embedded at the start.
    retriever = ready.recoverer.sources[-1][0]
    assert retriever.bank.given
    own = load_recoverer(run.path, precision="fp32").sources[-1][0]
    np.testing.assert_allclose(retriever.bank.vectors, own.bank.vectors, atol=1e-3)
    np.testing.assert_allclose(
        own.encoder.embed([PAIR]), retriever.encoder.embed([PAIR]), atol=5e-3
    )

    rows = json.loads((output / "sample.json").read_text())
    assert len(rows) == min(10, len(rows)) and rows[0]["nearest"]
    own_cosines = own.bank.vectors @ own.encoder.embed([pair_of(rows[0])])[0]
    assert max(rows[0]["nearest"].values()) == pytest.approx(own_cosines.max(), abs=5e-3)

    finished = RunFolder(unpacked)  # as `compare` and `retriever.run` find it
    assert len(finished.predictions()) == finished.metrics()["test/examples"] > 0
    data = yaml.safe_load((unpacked / "adapter" / "recoverer.yaml").read_text())["data"]
    assert finished.splits(data["fingerprint"]).train
    page = (output / "README.md").read_text()
    for expected in (
        "# small",
        "run=small",
        "The language model writes samples",
        "have the licence of their data",
        "tiny_encoder",
        "| retriever: objective | Contrastive",
    ):
        assert expected in page
    assert f"{finished.metrics()['test/scs']:.3f}" in page
    assert "public domain" not in page, "nobody knows that of other data"
    config = finished.config()
    config["data"] = {"_target_": "prompt_recovery.data.sources.starter"}
    config["first_stage"] = {"objective": {"_target_": "objectives.SFT"}, "trainer": {}}
    finished.write_config(config)
    own = card("small", finished.path, [])
    assert "whose texts are in the public domain (CC0), and on nothing else" in " ".join(
        own.split()
    )
    assert "| language model: first stage: objective | SFT |" in own
    shutil.rmtree(finished.adapter)
    assert "language model writes" not in card("small", finished.path, [])


def test_two_runs_give_the_files_of_one_that_has_both(run, folder):  # noqa: F811
    whole = contents(ship(ShippingSettings(runs=[str(run.path)], output="shipped/one")))
    alone = RunFolder(folder / "retriever_run")
    shutil.copytree(run.retriever, alone.retriever)
    config = run.config()
    alone.write_config({**config, **config["retriever"], "retriever": None})
    model = RunFolder(folder / "model_run")
    shutil.copytree(run.adapter, model.adapter)
    model.write_config(config)
    runs = [str(alone.path), str(model.path)]
    apart = contents(ship(ShippingSettings(runs=runs, output="shipped/two")))
    own = {"README.md", "manifest.json", "retriever/training.yaml"}
    manifest = Manifest.read(folder / "shipped" / "two")
    assert set(manifest.shared.values()) == {"one"}, "what both have is stored once"
    assert {Path(name).suffix for name in manifest.shared} == {".safetensors", ".npy", ".npz"}
    assert not set(manifest.shared) & set(apart)
    assert b"in common with `one`" in apart["README.md"]
    assert b"in common with" not in whole["README.md"]
    apart |= {name: whole[name] for name in manifest.shared}
    assert {
        name for name in whole.keys() | apart.keys() if whole.get(name) != apart.get(name)
    } == own
    retrievers = [contents(named_runs(name)[0] / "retriever") for name in ("one", "two")]
    assert retrievers[0].items() <= retrievers[1].items()
    ship(ShippingSettings(output="shipped/two"))
    assert Manifest.read(folder / "shipped" / "two") == manifest
    trained = RunFolder(folder / "shipped" / "two")
    assert trained.config_of(trained.retriever) == alone.config()
    assert trained.config_of(trained.adapter) == trained.config() == model.config()
    assert shipped.shipped_names() == ["one", "two"]

    with pytest.raises(PromptRecoveryError, match="have 2 retrievers and 1 adapters"):
        ship(ShippingSettings(runs=[*runs, str(run.retriever)], output="shipped/three"))
    alone.write_config({**config, "split": {**config["split"], "seed": 1}})
    with pytest.raises(PromptRecoveryError, match="other validation or test examples"):
        ship(ShippingSettings(runs=runs, output="shipped/three"))
    assert shipped.shipped_names() == ["one", "two"], "nothing is left of what fails"


def test_the_card_has_the_results_of_evaluations(run, tmp_path):
    report = {
        "dataset": "elsewhere",
        "examples": 190,
        "recoverers": [
            {"name": "mean prompt", "scs": 0.1, "scs_ci_low": 0.1, "scs_ci_high": 0.2},
            {
                "name": "small: tiny sft, mbr",
                "scs": 0.1234,
                "scs_ci_low": 0.1,
                "scs_ci_high": 0.2,
                "calibration": {"error": 0.0421},
            },
        ],
    }
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    options = {"runs": [str(run.path)], "reports": [str(path)]}
    page = (ship(ShippingSettings(output="shipped/small", **options)) / "README.md").read_text()
    row = "| elsewhere | 190 | 0.123 | 0.100 … 0.200 | 0.042 |"
    assert row in page
    with pytest.raises(PromptRecoveryError, match="has no recoverer 'other'"):
        ship(ShippingSettings(output="shipped/other", **options))

    # What is shipped already gets another card, and is tested, without the runs.
    shutil.rmtree(run.path)
    before = contents(tmp_path / "shipped" / "small")
    assert row not in (ship(ShippingSettings(output="shipped/small")) / "README.md").read_text()
    output = ship(ShippingSettings(output="shipped/small", test=True))
    after = contents(output)
    assert "| the mean prompt |" in after["README.md"].decode()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"README.md", "manifest.json", "metrics.json", "predictions.jsonl"}
    assert RunFolder(shipped.shipped_run("small")).is_finished
    with pytest.raises(PromptRecoveryError, match="holds no shipped recoverer"):
        ship(ShippingSettings(output="shipped/none"))


@pytest.mark.parametrize("name", [".", "mine", "mine/letter.txt"])
def test_what_is_no_shipped_recoverer_is_not_replaced(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear all,")
    with pytest.raises(PromptRecoveryError, match="is not a shipped recoverer, and would be"):
        ship(ShippingSettings(runs=["run"], output=name))
    assert (tmp_path / "mine" / "letter.txt").read_text() == "Dear all,"
