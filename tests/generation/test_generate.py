import hashlib
import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from prompt_recovery.data import sources
from prompt_recovery.data.splits import SplitSettings, normalise, split
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.generation.filters import CHECKS, Filters
from prompt_recovery.generation.generate import generate
from prompt_recovery.generation.instructions import Instruction
from prompt_recovery.generation.job import GenerationJob, InstructionSettings
from prompt_recovery.generation.originals import CreatedOriginals, Original, Originals
from prompt_recovery.rewriters import Model, Sampling
from prompt_recovery.rewriters.openai import OpenAIRewriter
from prompt_recovery.templates import Template
from tests.forks import PROCESSES
from tests.generation.fakes import FakeRewriter
from tests.killing import KILLS, Call, assert_kills_change_nothing
from tests.rewriters.server import serving

TEMPLATE = Template("t", "{{ rewrite_prompt }}\n\n{{ original_text }}")

BANK = str(Path(__file__).parent / "instructions.csv")
PASSAGES = Originals(
    "passages",
    [
        Original(
            f"p{n}",
            f"The ferry number {n} leaves the harbour at dawn and is back by noon, weather "
            f"permitting. Tickets cost {n + 3} crowns at the blue hut; dogs travel free of charge.",
            "notice",
            "passages",
            "CC0-1.0",
        )
        for n in range(50)
    ],
)


def job(output, rewriter=None, **changes):
    """Few texts, prompts and families, so that a run takes tenths of a second."""
    made = GenerationJob(
        originals=PASSAGES,
        rewriter=rewriter or FakeRewriter(),
        template=TEMPLATE,
        output=output,
        instructions=InstructionSettings(bank=BANK),
        split=SplitSettings(val=0.15, test=0.25),
        rows=120,
    )
    return replace(made, **changes)


def files(folder):
    """What a dataset's folder holds, but for what is of use only while it is made."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".work" not in path.parts
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset with some rejected rows."""
    folder = tmp_path_factory.mktemp("made") / "dataset"
    generate(job(folder, FakeRewriter(errors={"too_long": 30})))
    return folder


def test_the_folder_has_everything(made):
    assert set(files(made)) == {
        "README.md",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
        "families.png",
        "generation.json",
        "lengths.png",
        "rejected.parquet",
    }
    record = json.loads((made / "generation.json").read_text())
    assert record["complete"] is True
    assert sum(record["rows"].values()) + sum(record["rejected"].values()) == 120
    assert record["settings"]["rewriter"] == {"name": "Fake-1", "identity": "fake"}


def test_rows_and_rejected_rows_are_all_there(made):
    rows = [row for path in (made / "data").glob("*") for row in pq.read_table(path).to_pylist()]
    rejected = pq.read_table(made / "rejected.parquet").to_pylist()
    assert len(rows) + len(rejected) == len({r["id"] for r in rows + rejected}) == 120
    assert Counter(r["reason"] for r in rejected) == {"failed_too_long": len(rejected)}
    assert 0 < len(rejected) < 30
    columns = "id original_text rewritten_text rewrite_prompt category rewriter source".split()
    assert all(list(r) == [*columns, "split"] for r in rows)
    assert all(list(r) == [*columns, "reason"] for r in rejected)
    assert {r["rewriter"] for r in rows} == {"Fake-1"}
    assert {r["source"] for r in rows} == {"passages"}


@pytest.mark.parametrize("read", [sources.file, sources.folder])
def test_training_reads_the_folder_and_splits_it_alike(made, read):
    dataset = read(made)
    splits = split(dataset, val=0.15, test=0.25, seed=0)
    for name, ours in (("train", "train"), ("validation", "val"), ("test", "test")):
        table = pq.read_table(made / "data" / f"{name}-00000-of-00001.parquet")
        assert set(table["id"].to_pylist()) == {e.id for e in getattr(splits, ours)}
        assert set(table["split"].to_pylist()) == {name}
    prompts = [{normalise(e.rewrite_prompt) for e in s} for s in (splits.train, splits.test)]
    assert not prompts[0] & prompts[1]


def test_the_card_is_one_that_the_hub_reads(made):
    _, head, body = (made / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(head)
    assert said["license"] == "cc0-1.0"
    assert said["size_categories"] == ["n<1K"]
    assert "prompt-recovery" in said["tags"]
    name = "Fake" if "Fake" in body else "fake"
    checks = [check.replace("_", "\\_") for check in CHECKS]
    for part in ("CC0-1.0", name, "failed\\_too\\_long", "lengths.png", "families.png", *checks):
        assert part in body
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(made), cache_dir=str(made.parent / "cache"))
    record = json.loads((made / "generation.json").read_text())
    assert {name: table.num_rows for name, table in loaded.items()} == record["rows"]


def test_texts_cannot_break_the_card(tmp_path):
    class Nasty(FakeRewriter):
        def answer(self, key):
            return replace(super().answer(key), text=f"```\n# not a head {key.hex()}\n| ~~~~ |")

    generate(job(tmp_path / "d", Nasty(name="<b>|x|</b>")))
    text = (tmp_path / "d" / "README.md").read_text()
    assert text.count("\n````text\n") == 3
    assert next(line for line in text.splitlines() if line.startswith("# ")) == "# d"


def test_what_is_made_is_printed(made, capsys):
    generate(job(made, FakeRewriter(errors={"too_long": 30})))
    said = capsys.readouterr().out
    assert "rejected: failed_too_long" in said
    assert f"data=file data.path={made}" in said.replace("\n", "")


def test_a_complete_dataset_is_not_made_again(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    fake = FakeRewriter(errors={"too_long": 30})
    generate(job(made, fake))
    assert not fake.asked
    after = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    assert after == before


def test_the_store_may_be_deleted_afterwards(tmp_path):
    generate(job(tmp_path / "d"))
    shutil.rmtree(tmp_path / "d" / ".work")
    fake = FakeRewriter()
    generate(job(tmp_path / "d", fake))
    assert not fake.asked


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"rows": 130}, ["rows: 120 → 130"]),
        ({"seed": 1}, ["seed: 0 → 1"]),
        ({"filters": Filters(copy=0.5)}, ["filters.copy: 0.9 → 0.5"]),
        ({"split": SplitSettings(val=0.2, test=0.25)}, ["split.val: 0.15 → 0.2"]),
        ({"rewriter": FakeRewriter(identity="new")}, ['rewriter.identity: "fake" → "new"']),
        ({"template": replace(TEMPLATE, system="Hi")}, ['template.system: "" → "Hi"']),
        (
            {"instructions": InstructionSettings(bank=BANK, composed=3)},
            ["instructions.composed: 0 → 3"],
        ),
        ({"instructions": InstructionSettings()}, ["instructions.bank: "]),
        ({"originals": replace(PASSAGES, originals=PASSAGES.originals[1:])}, ["originals.texts"]),
    ],
)
def test_a_folder_made_with_other_settings_is_refused(made, change, parts):
    before = files(made)
    wanted = replace(job(made, FakeRewriter(errors={"too_long": 30})), **change)
    with pytest.raises(PromptRecoveryError) as raised:
        generate(wanted)
    for part in (*parts, "overwrite=true", str(made)):
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    assert files(made) == before


def test_overwriting_asks_only_what_is_new(tmp_path):
    generate(job(tmp_path / "d"))
    fake = FakeRewriter()
    generate(job(tmp_path / "d", fake, rows=150, overwrite=True))
    assert len(fake.asked) == 30
    generate(job(tmp_path / "whole", rows=150))
    expected = files(tmp_path / "whole")
    ours = files(tmp_path / "d")
    del expected["README.md"], ours["README.md"]  # the folder's name is in it
    assert ours == expected


def test_failures_for_now_are_asked_again(tmp_path, caplog):
    flaky = FakeRewriter(errors={"timeout": 40, "too_long": 60})
    with caplog.at_level("WARNING"):
        generate(job(tmp_path / "d", flaky))
    record = json.loads((tmp_path / "d" / "generation.json").read_text())
    assert record["complete"] is False
    failed = record["rejected"]["failed_timeout"]
    assert f"{failed} requests failed for now" in caplog.text
    well = FakeRewriter()
    generate(job(tmp_path / "d", well))
    assert len(well.asked) == failed
    assert "failed_timeout" not in json.loads((tmp_path / "d" / "generation.json").read_text())


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(PromptRecoveryError, match="README.md"):
            generate(job(tmp_path, overwrite=overwrite))
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "generation.json").write_text("[1]")
    with pytest.raises(PromptRecoveryError, match="choose another output"):
        generate(job(tmp_path))
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_record_that_a_kill_left_half_written_is_no_file_of_others(tmp_path):
    (tmp_path / ".generation.json.x7abc123").write_text('{"sett')
    generate(job(tmp_path))
    assert not list(tmp_path.glob(".generation.json*"))
    assert (tmp_path / "generation.json").is_file()


def test_an_output_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PromptRecoveryError, match="cannot be made"):
        generate(job(tmp_path / "file" / "d"))


def test_nothing_left_is_one_line(tmp_path):
    with pytest.raises(PromptRecoveryError, match="none of 120 rows is left") as raised:
        generate(job(tmp_path / "d", filters=Filters(min_words=500)))
    assert "120 too_short" in str(raised.value)
    rejected = pq.read_table(tmp_path / "d" / ".work" / "new" / "rejected.parquet")
    assert rejected.num_rows == 120


def test_what_was_said_is_quoted_where_nothing_succeeded(tmp_path):
    for _ in range(2):  # none of these failures is final
        failing = FakeRewriter(errors={"http_400": 256})
        with pytest.raises(PromptRecoveryError, match="120 failed_http_400.*said with http_400"):
            generate(job(tmp_path / "d", rewriter=failing))
        assert len(failing.asked) == 120
    assert generate(job(tmp_path / "d")).kept


def test_few_rows_make_a_dataset_with_empty_splits(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        summary = generate(job(tmp_path / "d", rows=1))
    assert summary.kept == 1
    assert "split is empty" in caplog.text
    assert len(list((tmp_path / "d" / "data").iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"rows": 0}, "rows=0"),
        ({"chunk": 0}, "chunk=0: must be ≥ 1"),
        ({"template": replace(TEMPLATE, chat=False)}, "template 't'"),
        ({"template": replace(TEMPLATE, prefill="Sure")}, "template 't'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, changes, part):
    with pytest.raises(PromptRecoveryError, match=part):
        job(tmp_path / "d", **changes)


def test_originals_can_be_written_by_the_rewriter(tmp_path):
    fake = FakeRewriter(words=60)
    created = CreatedOriginals(count=12, words=(60,))
    summary = generate(job(tmp_path / "d", fake, originals=created, rows=None))
    assert summary.rows == 12
    assert len(fake.asked) == len(set(fake.asked)) >= 24
    again = FakeRewriter(words=60)
    generate(job(tmp_path / "d", again, originals=created, rows=None))
    assert not again.asked


class Rewording(FakeRewriter):
    """Rewords instructions so that they still say what they said."""

    def answers(self, chats, seeds):
        for index, answer in super().answers(chats, seeds):
            request = chats[index][-1]["content"]
            again = replace(answer, text=f"{request.splitlines()[-1]}, please")
            yield index, again if request.startswith("Say this") else answer


def test_instructions_are_composed_reworded_and_thinned(tmp_path, scs):
    (tmp_path / "bank.csv").write_text(
        "text,family\nMake it rhyme,poetry\nMake it a rhyme,poetry\n"
    )
    wanted = InstructionSettings(
        bank=str(tmp_path / "bank.csv"), composed=5, variations=1, near_duplicate_scs=0.8
    )
    generate(job(tmp_path / "d", Rewording(words=32), instructions=wanted, scs=lambda: scs))
    record = json.loads((tmp_path / "d" / "generation.json").read_text())
    said = record["made"]["instructions"]
    assert "5 composed" in said and "1 file" in said and "variation" in said
    assert record["settings"]["metric"]["encoder"] == scs.encoder.identity


def test_the_starters_prompts_can_be_used_too(tmp_path, monkeypatch):
    # Those that it really has are compared with held-out ones in test_instructions.py.
    few = [Instruction(f"Sing verse {n}", "genre", "starter") for n in range(3)]
    monkeypatch.setattr(sys.modules[generate.__module__], "starter_instructions", lambda scs: few)
    wanted = InstructionSettings(starter=True)
    generate(job(tmp_path / "d", FakeRewriter(words=32), instructions=wanted))
    record = json.loads((tmp_path / "d" / "generation.json").read_text())
    assert "bank" in record["made"]["instructions"] and "starter" in record["made"]["instructions"]
    assert record["settings"]["instructions"]["starter"] is True


def test_pushing_needs_a_name_and_a_token_before_anything_is_asked(tmp_path, monkeypatch):
    fake = FakeRewriter()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(PromptRecoveryError, match="must be user/name"):
        generate(job(tmp_path / "d", fake, push_to_hub="name"))
    with pytest.raises(PromptRecoveryError, match="HF_TOKEN"):
        generate(job(tmp_path / "d", fake, push_to_hub="user/name"))
    assert not fake.asked


def test_pushing_without_a_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    with pytest.raises(PromptRecoveryError, match="cannot upload to 'user/name'") as raised:
        generate(job(tmp_path / "d", push_to_hub="user/name"))
    assert "\n" not in str(raised.value)
    assert "s3cret" not in str(raised.value)
    for content in files(tmp_path / "d").values():
        assert b"s3cret" not in content


def test_pushing_uploads_all_but_the_work_folder(tmp_path, monkeypatch):
    import huggingface_hub

    calls = {}

    class Api:
        def __init__(self, token):
            calls["token"] = token

        def create_repo(self, repo, **options):
            calls["create"] = (repo, options)
            return f"https://huggingface.co/datasets/{repo}"

        def upload_folder(self, **options):
            calls["upload"] = options

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    generate(job(tmp_path / "d", push_to_hub="user/name"))
    assert calls["token"] == "hf_s3cret"
    assert calls["create"][1]["private"] is True
    assert calls["upload"]["repo_type"] == "dataset"
    kept = huggingface_hub.utils.filter_repo_objects(
        [str(p.relative_to(tmp_path / "d")) for p in (tmp_path / "d").rglob("*") if p.is_file()],
        ignore_patterns=calls["upload"]["ignore_patterns"],
    )
    assert set(kept) == set(files(tmp_path / "d"))


def _run(output, seconds, started):
    started.set()
    _made(output, seconds)


def _made(output, seconds):
    fake = FakeRewriter(seconds=seconds, log=output.with_name(f"{output.name}.log"))
    generate(job(output, fake, rows=240))


def _asked_after_answered(log):
    """Requests in the rewriter's own log that came again after their answer had been taken."""
    answered, again = set(), []
    for line in log.read_text().splitlines():
        what, key, _ = line.split()
        if what == "answered":
            answered.add(key)
        elif key in answered:
            again.append(key)
    return again


@pytest.mark.timeout(1200)  # seconds on a machine of its own, minutes on a very busy one
def test_kills_change_no_dataset_and_cost_the_requests_under_way(tmp_path):
    def check(folder, kills):
        log = folder / "dataset.log"
        assert not _asked_after_answered(log)
        asked = Counter(
            line.split()[1] for line in log.read_text().splitlines() if line.startswith("asked")
        )
        # The one that was under way is all that a kill can cost.
        assert len(asked) == 240 and asked.total() <= 240 + kills
        assert not list(folder.rglob(".*.parquet*"))

    assert_kills_change_nothing(
        tmp_path,
        lambda folder: None,
        lambda folder: Call(_made, folder / "dataset", 0.002),
        lambda folder: files(folder / "dataset"),
        kills=max(KILLS, 3),
        check=check,
    )


def _run_at(endpoint, output):
    model = Model("m", served="m", licence="mit")
    rewriter = OpenAIRewriter(model=model, sampling=Sampling(), base_url=endpoint, concurrency=8)
    generate(job(output, rewriter))


def test_kills_cost_the_requests_that_an_endpoint_is_answering(tmp_path):
    with serving() as server:
        server.delay = lambda _: 0.02
        server.text = _rewrite

        def prepare(folder):
            server.asked.clear()

        def check(folder, kills):
            assert 120 <= len(server.asked) <= 120 + 8 * kills
            assert server.most_under_way <= 8 * (1 + kills)

        assert_kills_change_nothing(
            tmp_path,
            prepare,
            lambda folder: Call(_run_at, server.url, folder / "dataset"),
            lambda folder: files(folder / "dataset"),
            kills=max(KILLS, 4),
            check=check,
        )


def _rewrite(content, _):
    """Words that no filter minds, and that depend on the request alone."""
    key = hashlib.sha256(content.encode()).digest()
    return " ".join(f"word{byte} {n}" for n, byte in enumerate(key))


def test_two_processes_at_once_make_one_dataset(tmp_path):
    output = tmp_path / "dataset"
    started = PROCESSES.Event()
    lives = [PROCESSES.Process(target=_run, args=(output, 0.001, started)) for _ in range(2)]
    for life in lives:
        life.start()
    for life in lives:
        life.join(120)
        assert life.exitcode == 0
    log = (tmp_path / "dataset.log").read_text().splitlines()
    assert sum(line.startswith("asked") for line in log) == 240
    assert len({line.split()[2] for line in log}) == 1
