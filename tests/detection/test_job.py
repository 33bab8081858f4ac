import json
import sys
from dataclasses import asdict, replace

import pyarrow.parquet as pq
import pytest

import prompt_recovery as pr
from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import split
from prompt_recovery.detection import shown
from prompt_recovery.detection.detector import Detector, shipped_detector
from prompt_recovery.detection.features import PAIR_FEATURES, TEXT_FEATURES
from prompt_recovery.detection.job import (
    DetectionJob,
    TextColumns,
    run_detection,
    train_detector,
)
from prompt_recovery.detection.shown import headline, term, verdict_html
from prompt_recovery.detection.verdict import Part, Verdict, verdict_of
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import MBR
from prompt_recovery.recovery.interface import Candidate
from prompt_recovery.recovery.recipe import Recipe
from tests.command_line import run as command
from tests.killing import KILLS, Call, assert_kills_change_nothing


@pytest.fixture(scope="module")
def rows():
    return split(starter()).test


def test_a_rewrite_is_likelier_one_than_its_reverse_or_a_copy(rows):
    forth = [pr.detect(e.rewritten_text, e.original_text).probability for e in rows[:12]]
    back = [pr.detect(e.original_text, e.rewritten_text).probability for e in rows[:12]]
    copies = [pr.detect(e.original_text, e.original_text).probability for e in rows[:12]]
    known = [p for p in (forth, back, copies) if None not in p]
    assert sum(p or 0 for p in forth) > sum(p or 0 for p in back) + 3
    assert sum(p or 0 for p in forth) > sum(p or 0 for p in copies) + 3
    assert known


def test_it_cannot_tell_of_short_and_of_strange_texts():
    short = pr.detect("It rained.")
    assert short.answer == "cannot tell"
    assert short.probability is None
    assert short.reason == "the text has 2 words, and a verdict needs at least 30"
    pair = pr.detect("word " * 50, "One word.")
    assert pair.answer == "cannot tell"
    assert pair.reason == "the shorter text has 2 words, and a verdict needs at least 30"
    strange = pr.detect("{{((!!?? 12,34;;" * 3 + " 😀 - * 9 \n" * 400)
    assert strange.answer == "cannot tell"
    assert strange.reason.startswith("it is unlike the texts that the detector was trained on: ")


def test_features_are_named_in_words_that_a_reader_understands():
    assert term("rewritten digits") == "numbers per word (rewritten text)"
    assert term("change of reading level") == "change of the reading level (school grade)"
    assert term("words per sentence") == "words per sentence"
    features = {name.replace("_", " ") for name in TEXT_FEATURES | PAIR_FEATURES}
    assert {*shown._TERMS, *shown._PER_WORD} <= features


def test_more_certainty_gives_fewer_verdicts(rows):
    told = [
        sum(pr.detect(e.rewritten_text, certainty=c).answer != "cannot tell" for e in rows[:40])
        for c in (0.5, 0.8, 0.99)
    ]
    assert told[0] > told[1] >= told[2]


def test_a_verdict_is_escaped_wherever_it_is_shown():
    part = Part("<b>", 1.0, 0.5)
    prompts = [Candidate("<script>alert(1)</script>", None, 0.5)]
    html = verdict_html(Verdict("rewritten", 0.9, "<i>", (part,), prompts))
    assert "<script" not in html and "<b>" not in html and "<i>" not in html
    assert "&lt;script&gt;" in html
    verdict = Verdict("rewritten", 0.912, "so it reads")
    assert headline(verdict) == (
        "Probably rewritten by an LLM (so it reads). Probability of a rewrite: 0.91"
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("single", [False, True])
def test_a_file_has_a_verdict_for_each_row(rows, suffix, single, tmp_path):
    original, rewritten = rows[0].original_text, rows[0].rewritten_text
    lines = [
        {"id": "=1", "original_text": original, "rewritten_text": "\ud800" * 9},
        {"id": "b", "original_text": original, "rewritten_text": rewritten},
    ]
    path, output = tmp_path / "in.jsonl", tmp_path / f"out{suffix}"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = TextColumns(original_text=None if single else "original_text")
    verdicts = run_detection(DetectionJob(input=path, output=output, columns=columns))
    if suffix == ".jsonl":
        found = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    else:
        found = pq.read_table(output).to_pylist()
    assert [row["id"] for row in found] == ["=1", "b"]
    assert [row["answer"] for row in found] == [v.answer for v in verdicts]
    assert found[0]["probability"] is None
    alone = pr.detect(rewritten, None if single else original)
    assert found[1]["probability"] == alone.probability


def test_an_output_that_cannot_be_written_is_found_before_the_work(rows, tmp_path, monkeypatch):
    path = tmp_path / "in.jsonl"
    row = {"id": "1", "original_text": "a", "rewritten_text": rows[0].rewritten_text}
    path.write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(Detector, "judge", lambda *_: pytest.fail("it was judged"))
    with pytest.raises(PromptRecoveryError, match="cannot write into"):
        run_detection(DetectionJob(input=path, output=path / "out.jsonl"))


def write_input(path, rows):
    keys = ("id", "original_text", "rewritten_text")
    lines = [json.dumps({key: getattr(e, key) for key in keys}) + "\n" for e in rows]
    path.write_text("".join(lines), "utf-8")


def judge_folder(folder):
    run_detection(DetectionJob(input=folder / "in.jsonl", output=folder / "out.parquet"))


def test_kills_change_no_verdicts(rows, tmp_path):
    assert_kills_change_nothing(
        tmp_path,
        lambda folder: write_input(folder / "in.jsonl", starter().examples[:120]),
        lambda folder: Call(judge_folder, folder),
        lambda folder: {path.name: path.read_bytes() for path in folder.iterdir()},
        kills=max(KILLS, 2),
    )


def test_finished_verdicts_are_not_made_again(trained_run, rows, tmp_path, monkeypatch):
    write_input(tmp_path / "in.jsonl", rows[:80])
    recipe = Recipe([trained_run], decoding=MBR(2, 1.0, 3), confidence=False)
    job = DetectionJob(input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl", recipe=recipe)
    once = run_detection(job)
    whole = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").unlink()
    real, judged = Detector.judge, []

    def counted(detector, rewritten, *given):
        if len(judged) == most:
            raise KeyboardInterrupt
        judged.append(rewritten)
        return real(detector, rewritten, *given)

    most = 70
    monkeypatch.setattr(Detector, "judge", counted)
    with pytest.raises(KeyboardInterrupt):
        run_detection(job)
    assert not (tmp_path / "out.jsonl").exists()
    del judged[64:]  # two batches are finished
    most = 80
    assert run_detection(job) == once
    assert len(judged) == 80, "nothing that was finished is judged again"
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_another_certainty_begins_anew(rows, tmp_path, caplog):
    write_input(tmp_path / "in.jsonl", rows[:3])
    part = tmp_path / ".out.jsonl.part.jsonl"
    part.write_text(json.dumps({"identity": "another"}) + "\n")
    run_detection(DetectionJob(input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl"))
    assert not part.exists()
    assert "made with other settings" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": "perhaps"},
        {"probability": "high"},
        {"reason": None},
        {"parts": [{"name": "a"}]},
        {"prompts": [{"text": 1, "log_probability": None, "score": 0.5}]},
        {"prompts": None},
    ],
)
def test_values_that_are_no_verdict_are_refused(changes):
    prompts = (Candidate("x", -1.0, 0.5),)
    verdict = Verdict("rewritten", 0.9, "so", (Part("a", 1.0, 0.5),), prompts)
    assert verdict_of(asdict(verdict) | {"id": "1"}) == verdict
    with pytest.raises((KeyError, TypeError, ValueError)):
        verdict_of(asdict(verdict) | changes)


def test_a_run_finds_the_likeliest_prompts_of_a_pair(rows, trained_run, capsys):
    recipe = Recipe([trained_run], decoding=MBR(4, 1.0, 5), confidence=False)
    given = {"original": rows[0].original_text, "rewritten": rows[0].rewritten_text}
    [verdict] = run_detection(DetectionJob(recipe=recipe, **given))
    assert verdict.prompts
    out = capsys.readouterr().out
    assert "The likeliest" in out  # titles of narrow tables are broken into lines
    assert "What counts most" in out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give text="),
        ({"text": "a", "input": "b.csv"}, "^text= and input=: give only one of them"),
        ({"train": "a", "input": "b.csv"}, "^input= and train=: give only one of them"),
        ({"original": "a"}, "^original= is one text of a pair: give rewritten= too, the text that"),
        ({"rewritten": "a"}, "^rewritten= is one text of a pair: give original= too"),
        ({"text": "a", "original": "b"}, "^text= is judged alone, and original= belongs to a pair"),
        ({"text": "a", "rewritten": "b"}, "^text= is judged alone, and rewritten= belongs to"),
        ({"text": " "}, "text=: the text is blank"),
        ({"text": "a", "examples": "b.csv"}, "examples= is what train="),
        ({"text": "a", "recipe": Recipe(["run"])}, "run= needs original texts"),
        ({"input": "b.csv", "output": "c.xlsx"}, "unknown format; use one of .jsonl"),
        ({"input": "b.jsonl", "output": "b.jsonl"}, "is the input, which would be overwritten"),
    ],
)
def test_impossible_jobs(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.jsonl").write_text("{}")
    with pytest.raises(PromptRecoveryError, match=message):
        DetectionJob(**settings)


@pytest.mark.parametrize("certainty", [0.2, 1, 80, float("nan")])
def test_a_certainty_out_of_its_range_is_one_line(certainty):
    with pytest.raises(PromptRecoveryError, match="certainty="):
        pr.detect("It rained.", certainty=certainty)


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "textstat", None)
    with pytest.raises(PromptRecoveryError, match=r"\[measures\]'"):
        run_detection(DetectionJob(text="a"))


def test_a_detector_is_trained_and_read_again(tmp_path, rows):
    path = tmp_path / "own.json"
    data = tmp_path / "data.jsonl"
    chosen = starter().examples[::12]
    keys = ("id", "original_text", "rewritten_text", "rewrite_prompt")
    lines = [json.dumps({k: getattr(e, k) for k in keys}) + "\n" for e in chosen]
    data.write_text("".join(lines), "utf-8")
    made = train_detector(path, data)
    assert Detector.read(path).pair.values == made.pair.values
    verdict = pr.detect(rows[0].rewritten_text, rows[0].original_text, detector=path)
    assert (
        verdict.probability == made.judge(rows[0].rewritten_text, rows[0].original_text).probability
    )


@pytest.mark.parametrize("content", [None, "", "{}", '{"text": {}, "pair": {}}', "[1]"])
def test_a_file_that_is_no_detector_is_named(content, tmp_path):
    path = tmp_path / "d.json"
    if content is not None:
        path.write_text(content)
    said = "no such file" if content is None else "holds no detector"
    with pytest.raises(PromptRecoveryError, match=rf"detector=.*d\.json: {said}"):
        Detector.read(path)


def test_a_detector_with_other_features_is_refused(tmp_path):
    shipped = shipped_detector()
    other = replace(shipped.text, names=["height", *shipped.text.names[1:]])
    Detector(other, shipped.pair).write(tmp_path / "d.json")
    with pytest.raises(PromptRecoveryError, match="this version doesn't know \\('height'\\)"):
        Detector.read(tmp_path / "d.json")


def test_the_shipped_detector_is_small_and_whole():
    shipped = shipped_detector()
    assert len(shipped.text.names) > 20
    assert "words_kept" in shipped.pair.names


def test_the_command_judges_and_says_in_one_line_what_is_wrong(rows, tmp_path):
    words = 'He said: "no, {never}" = 1, [and] ' * 6
    result = command("detect", f"text={words}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "probability" in result.stdout or "Cannot tell" in result.stdout
    failed = command("detect", "text=", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr == "error: text=: the text is blank\n"
    assert "prompt-recovery detect original=" in command("detect", "--help", cwd=tmp_path).stdout
