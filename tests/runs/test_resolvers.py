"""The folder of an evaluation, which tells what is evaluated apart."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from prompt_recovery.settings.arguments import prepared
from prompt_recovery.settings.folder import config_folder
from tests.settings.composing import composed


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ([], "starter"),
        (["data=starter_full"], "starter_full"),
        (["data=file", "data.path=pairs.csv"], "pairs.csv"),
        (["data=file", "data.path=pairs.jsonl"], "pairs.jsonl"),
        (["data=file", "data.path=../x/../a b/pairs.csv"], "{above}_a_b_pairs.csv"),
        (["data=folder", "data.path=sub/shards"], "sub_shards"),
        (["data=folder", "data.path=."], "folder"),
        (["data=hub", "data.repo=owner/name", "data.split=test"], "owner_name_test"),
        (["data=file", "data.path=pairs.csv", "name=mine"], "mine"),
        (["data=file", "data.path=pairs.csv", "rows=9"], "pairs.csv_9_rows"),
        (["quick=true"], "starter_40_rows"),
    ],
)
def test_each_dataset_has_a_folder_of_its_own(settings, folder, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("evaluate", prepared("evaluate", settings), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        above = "_".join(tmp_path.parts[1:])
        assert config.output == f"runs/evaluate/{folder.format(above=above)}"


def test_a_long_path_has_a_short_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = set()
    for first in ("a", "b"):
        path = f"data.path={first}/{'long_' * 30}.csv"
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            names.add(compose("evaluate", ["data=file", path]).name)
    assert len(names) == 2 and {len(name) for name in names} == {100}


@pytest.mark.parametrize(
    ("settings", "rows", "baselines", "explain"),
    [
        ([], None, 6, True),
        (["quick=true"], 40, 1, False),
        (["quick=true", "rows=7", "explain=true"], 7, 1, True),
        (["quick=true", "rows=null", "baselines=[regressor,zero_shot]"], None, 2, False),
    ],
)
def test_a_quick_evaluation_may_still_be_told_otherwise(settings, rows, baselines, explain):
    config = composed("evaluate", *prepared("evaluate", settings), "name=mine")
    assert (config.rows, len(config.baselines), config.explain) == (rows, baselines, explain)
    assert config.baselines[0] == ({"mean_prompt": {"rounds": 0}} if baselines == 1 else
                                   "mean_prompt" if baselines == 6 else "regressor")  # fmt: skip
