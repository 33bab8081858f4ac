"""Datasets that are joined from parts which the pipeline made."""

import json
import shutil

import pytest

from prompt_recovery.data.sources import folder, starter
from prompt_recovery.data.splits import normalise, split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.generate import generate
from prompt_recovery.generation.instructions import read_bank
from prompt_recovery.generation.job import GenerationJob, InstructionSettings
from prompt_recovery.generation.originals import Original, Originals
from prompt_recovery.shipping.rewrites import JoiningSettings, join
from prompt_recovery.templates import Template
from tests.generation.fakes import FakeRewriter

TEMPLATE = Template("t", "{{ rewrite_prompt }}\n\n{{ original_text }}")
OURS = starter().examples[0]


def made(path, prompts, **options):
    """A folder of `generate` with a row for each prompt."""
    bank = path.with_suffix(".jsonl")
    bank.write_text("".join(json.dumps({"text": p}) + "\n" for p in prompts))
    texts = [
        OURS.original_text,
        *(
            f"The ferry number {n} sails at dawn from the old harbour, whatever it rains."
            for n in range(40)
        ),
    ]
    originals = [Original(f"o{n}", text, "", "f", "CC0-1.0") for n, text in enumerate(texts)]
    generate(
        GenerationJob(
            Originals("f", originals),
            FakeRewriter(words=12),
            TEMPLATE,
            path,
            instructions=InstructionSettings(bank=str(bank)),
            rows=len(prompts),
            **options,
        )
    )
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    home = tmp_path_factory.mktemp("parts")
    bank = [i.text for i in read_bank()][:60]
    train = [e.rewrite_prompt for e in split(starter()).train][:20]
    return [made(home / "a", bank[:30] + train), made(home / "b", bank[30:])]


def joined(parts, output):
    return join(JoiningSettings(parts=[str(p) for p in parts], output=str(output)))


def test_all_rows_of_all_parts_are_there_with_ids_categories_and_splits(parts, tmp_path):
    output = joined(parts, tmp_path / "qwen")
    found = folder(output / "data").examples
    rows = [row for part in parts for row in folder(part / "data").examples]
    assert len(found) == len(rows) > 60
    texts = {(e.original_text, e.rewritten_text, e.rewrite_prompt) for e in rows}
    assert {(e.original_text, e.rewritten_text, e.rewrite_prompt) for e in found} == texts
    assert {e.id.partition("-")[0] for e in found} == {"a", "b"}
    families = {normalise(i.text): i.family for i in read_bank()}
    families |= {normalise(e.rewrite_prompt): e.category for e in starter().examples}
    assert all(e.category == families[normalise(e.rewrite_prompt)] for e in found)
    assert {e.source for e in found} == {OURS.source, "written for this dataset"}
    splits = split(folder(output / "data"))
    for name, side in (("train", "train"), ("validation", "val"), ("test", "test")):
        [shard] = (output / "data").glob(f"{name}-*.parquet")
        shipped = {e.id for e in folder_of(shard, tmp_path)}
        assert shipped == {e.id for e in getattr(splits, side)}


def folder_of(shard, tmp_path):
    alone = tmp_path / shard.stem
    alone.mkdir()
    shutil.copy(shard, alone)
    return folder(alone).examples


def test_the_card_counts_what_was_left_out(parts, tmp_path):
    output = joined(parts, tmp_path / "qwen")
    assert not (output / "rejected.parquet").exists()
    text = (output / "README.md").read_text()
    assert "of 80 rows." in text and "| parts | 2 |" in text
    assert (output / "lengths.png").exists() and (output / "families.png").exists()


def test_the_same_parts_give_the_same_files(parts, tmp_path):
    first, second = (joined(parts, tmp_path / name / "qwen") for name in ("one", "two"))
    names = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    assert all((first / n).read_bytes() == (second / n).read_bytes() for n in names)


def test_only_such_a_dataset_is_replaced(parts, tmp_path):
    output = joined(parts, tmp_path / "qwen")
    before = (output / "README.md").read_bytes()
    assert joined(parts[:1], output) == output and (output / "README.md").read_bytes() != before
    (output / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine, too")
    for other in (output, tmp_path / "file"):
        with pytest.raises(PromptRecoveryError, match="is no dataset that was joined here"):
            joined(parts, other)
    assert (output / "notes.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine, too"


def test_held_out_prompts_of_the_starter_are_refused(tmp_path):
    held = split(starter()).test[0].rewrite_prompt
    part = made(tmp_path / "a", [*(i.text for i in read_bank()[:30]), f"{held}!"])
    with pytest.raises(PromptRecoveryError, match="validation or test prompts of the starter"):
        joined([part], tmp_path / "qwen")


def test_parts_that_were_made_in_other_ways_are_refused(parts, tmp_path):
    other = made(tmp_path / "c", [i.text for i in read_bank()[:30]], keep_remarks=True)
    with pytest.raises(PromptRecoveryError, match="c: was made with another keep_remarks than"):
        joined([parts[0], other], tmp_path / "qwen")


def test_an_unfinished_part_is_refused(parts, tmp_path):
    part = shutil.copytree(parts[0], tmp_path / "a")
    record = json.loads((part / "generation.json").read_text())
    (part / "generation.json").write_text(json.dumps({**record, "complete": False}))
    with pytest.raises(PromptRecoveryError, match="is not a finished dataset"):
        joined([part], tmp_path / "qwen")
