import json
from dataclasses import replace
from pathlib import Path

import pytest

from prompt_recovery.app import answers, shown
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.assemble import Assembled
from prompt_recovery.recovery.pairs import PairColumns
from prompt_recovery.recovery.spans import Evidence, Span
from tests.app.answering import EVIL, READY, Answering


@pytest.mark.parametrize(
    ("texts", "hints"),
    [
        (("", "b"), {"original": "is empty: paste the original text"}),
        (("a", " \n"), {"rewritten": "is empty: paste the rewritten text"}),
        (("", ""), {"original": "is empty", "rewritten": "is empty"}),
        (("a" * 100_001, "b"), {"original": "100,001 characters, and the page takes 100,000"}),
    ],
)
def test_what_is_wrong_with_a_text_is_said_at_its_box(texts, hints):
    said = answers.answer(READY, *texts)
    assert (said.found, said.changes) == ("", "")
    assert said.hints.keys() == hints.keys()
    assert all(hint in said.hints[box] for box, hint in hints.items())


def test_an_error_is_said_without_a_traceback_and_without_an_old_answer():
    class Failing(Answering):
        def recover(self, pairs, progress=lambda _: None):
            raise PromptRecoveryError("no room for <b>")

    said = answers.answer(Assembled(Failing(), "f", "i"), "a", "b")
    assert "no room for &lt;b&gt;" in said.found
    assert said.changes == ""
    assert said.hints == {}, "the page looks each box up in it"


def test_texts_that_are_equal_or_cut_are_noted():
    class Source:
        name = "tiny <b>"

        def share_read(self, pair):
            return 0.4 if len(pair.original_text) > 10 else 1.0

    recoverer = Answering()
    recoverer.sources = [(Source(), 1.0)]
    ready = Assembled(recoverer, "f", "i")
    assert "The two texts are the same" in answers.answer(ready, "A text.", "a text").found
    assert "pr-note" not in answers.answer(ready, "a", "b").found
    found = answers.answer(ready, "a" * 100, "b").found
    assert "tiny &lt;b&gt; has read 40% of the two texts" in found


def test_the_settings_of_the_page_change_the_answer():
    low = answers.answer(READY, "a", "b", threshold=0.5)
    assert '<div class="pr-answer">f</div>' in low.found
    assert "mean prompt" in low.found
    assert "0.31" not in low.found, "this is expected of the answer that it replaces"
    assert "&lt;img" in low.found, "which is an alternative now"
    assert "threshold is 5" in answers.answer(READY, "a", "b", threshold=5).found
    assert "threshold is -2" in answers.answer_file(READY, "f", PairColumns(), "", -2, Path())[0]
    assert "<td>another</td>" in answers.answer(READY, "a", "b", alternatives=1).found
    assert "<td>another</td>" not in answers.answer(READY, "a", "b", alternatives=0).found


def test_the_words_that_speak_for_an_answer_are_marked_and_escaped(monkeypatch):
    evidence = (Evidence("m", "occlusion", "cosine", 0.5, (Span("original", 0, 4, 0.25),)),)

    def explained(recoverer, pairs, predictions, method):
        assert method == "occlusion"
        return [replace(p, evidence=evidence) for p in predictions]

    assert "<mark" not in answers.answer(READY, EVIL, "b", explain=True).found, "it reads no texts"
    monkeypatch.setattr(answers, "explainable", lambda _: True)
    monkeypatch.setattr(answers, "with_evidence", explained)
    assert "<mark" not in answers.answer(READY, EVIL, "b").found
    found = answers.answer(READY, EVIL, "b", explain=True).found
    assert found.count("<mark ") == 1
    assert 'title="+0.250"' in found
    assert "<img" not in found


def test_a_file_is_answered_as_recover_does(tmp_path):
    pairs = tmp_path / "my.pairs.csv"
    pairs.write_text("key,original_text,rewritten_text\n7,a,b\n8,,b\n")
    columns = PairColumns(id="key")
    told = []
    shown, output = answers.answer_file(
        READY, str(pairs), columns, ".jsonl", None, tmp_path, lambda *done: told.append(done)
    )
    assert "2 answers" in shown
    assert EVIL not in shown
    assert Path(output).name == "my_prompts.jsonl"
    rows = [json.loads(line) for line in Path(output).read_text().splitlines()]
    assert [row["id"] for row in rows] == ["7", "8"]
    assert rows[0]["confidence"] == 0.31


def test_a_file_that_cannot_be_read_is_one_line_on_the_page(tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("original_text,rewritten_text\na,b\n")
    shown, output = answers.answer_file(READY, str(pairs), PairColumns(), ".csv", None, tmp_path)
    assert output is None
    assert "pairs.csv" in shown
    assert str(tmp_path) not in shown, "where the server keeps uploads is of no use to a reader"
    assert "give its name above, or leave the column of ids empty" in shown
    pairs.write_text("id,before,after\n1,a,b\n")
    shown, _ = answers.answer_file(READY, str(pairs), PairColumns(), ".csv", None, tmp_path)
    assert "give their names above" in shown
    assert "columns." not in shown
    assert (
        "Choose a file"
        in answers.answer_file(READY, None, PairColumns(), ".csv", None, tmp_path)[0]
    )


def test_the_page_says_what_the_rewriter_did(monkeypatch):
    said = answers.answer(READY, f"It rained all day. {EVIL}", f"Dear friends, it did rain! {EVIL}")
    assert "Cannot tell" in said.measured  # too short for a verdict
    assert "What the rewriter did" in said.measured and "words kept" in said.measured
    assert "<img" not in said.measured
    assert answers.answer(READY, "", "Rain!").measured == ""
    monkeypatch.setattr(shown, "has_measures", lambda: False)
    assert answers.answer(READY, "It rained.", "Rain fell.").measured == ""
