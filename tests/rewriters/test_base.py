import pytest

from prompt_recovery.generation.filters import Filters, reason_to_reject
from prompt_recovery.generation.instructions import Instruction
from prompt_recovery.generation.originals import Original
from prompt_recovery.generation.pipeline import Request, draft_of
from prompt_recovery.rewriters.base import Answer

TEXT = "Ahoy! The ferry sails at dawn, me hearties."


@pytest.mark.parametrize(
    "raw",
    [
        f"<think>\nThe user wants a pirate.\n</think>\n\n{TEXT}",
        f"The user wants a pirate. I should plan it.\n</think>\n\n{TEXT}",
        f"<think>One.</think> draft <think>Two.</think>\n{TEXT}",
        f"<THINKING>Hm.</THINKING>{TEXT}",
        f"[THINK]Hm.[/THINK]{TEXT}",
        f"<seed:think>Hm.</seed:think>{TEXT}",
        TEXT,
    ],
)
def test_an_answer_holds_no_reasoning(raw):
    answer = Answer(raw)
    assert answer.text == TEXT
    assert answer.finished
    assert not Answer(raw, finished=False).finished


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("<think>\nThe user wants a rewrite. Let me plan", ""),
        (f"<think>Hm.</think>{TEXT} <think>Or else", TEXT),
    ],
)
def test_reasoning_that_does_not_end_is_cut_off(raw, kept):
    for finished in (True, False):
        answer = Answer(raw, finished=finished)
        assert (answer.text, answer.finished) == (kept, False)
    original = Original("o", "The ferry leaves at dawn, all of you.", "own", "own", "")
    request = Request("o-1", original, Instruction("Be a pirate", "tone", "own"), 0)
    assert reason_to_reject(draft_of(request, Answer(raw)), Filters()) == "cut_off"


def test_other_tags_are_text():
    for text in ("a < b, <b>bold</b>", "I think <i>so</i>", "<thought>none</thought>"):
        assert Answer(text).text == text
