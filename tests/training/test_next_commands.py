"""The commands that a run ends with can be given as they are."""

import shlex

import pytest

from prompt_recovery.data.sources import starter
from prompt_recovery.settings.arguments import prepared
from prompt_recovery.settings.checking import check
from prompt_recovery.settings.declared import name_of
from prompt_recovery.settings.paths import with_absolute_paths
from prompt_recovery.training.job import TrainSettings
from prompt_recovery.training.next_commands import answering, evaluating
from tests.settings.composing import composed


def evaluation(run, *settings):
    config = composed("train", *prepared("train", ["name=run", "group=all", *settings]))
    return evaluating(run, with_absolute_paths(check(config, TrainSettings), TrainSettings))


def test_a_run_on_the_starter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "train" / "2026_tiny"
    assert answering(run) == (
        'prompt-recovery recover run=runs/train/2026_tiny original="…" rewritten="…"'
    )
    assert answering(tmp_path.parent / "my run").startswith(
        f"prompt-recovery recover 'run={tmp_path.parent}/my run' "
    )
    assert evaluation(run) == "prompt-recovery evaluate recoverers=runs/train/2026_tiny"
    assert evaluation(run, "data=starter_full", "split.by=both") == (
        "prompt-recovery evaluate recoverers=runs/train/2026_tiny split.by=both"
    )


@pytest.mark.parametrize("name", ["pairs.csv", "my pairs, [new]=1.csv"])
def test_a_run_on_a_file_names_its_data_and_its_splits(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["data=file", f"data.path={name}", "data.columns.id=null",
                "data.columns.rewrite_prompt='the prompt'", "split.test=0.2"]  # fmt: skip
    command = evaluation(tmp_path / "run", *settings, "split.train_share=0.5")
    words = shlex.split(command)
    assert words[:2] == ["prompt-recovery", "evaluate"]
    assert words[2:] == ["recoverers=run", *settings[:4], "part=test", "split.test=0.2"]
    config = composed("evaluate", *prepared("evaluate", words[2:]))
    assert config.data.path == name
    assert config.data.columns.id is None
    assert config.data.columns.rewrite_prompt == "the prompt"


def test_data_of_an_unknown_source_give_no_command(tmp_path):
    given = {"data": {"_target_": f"{name_of(starter)}_of_mine"}, "split": {}}
    assert evaluating(tmp_path, given) is None
