from collections import Counter

import pytest

from prompt_recovery.generation.filters import Filters
from prompt_recovery.generation.instructions import Instruction, read_bank
from prompt_recovery.generation.originals import Original, starter_originals
from prompt_recovery.generation.pipeline import Rewriting, chat_of, columns_of, judge, plan
from prompt_recovery.generation.store import Remembering, RequestStore
from prompt_recovery.rewriters.base import Answer
from prompt_recovery.templates import Template
from tests.generation.fakes import FakeRewriter

TEMPLATE = Template("t", "{{ rewrite_prompt }}\n\n{{ original_text }}", system="Rewrite texts.")


def originals(count):
    return [
        Original(f"o{n}", f"The ferry number {n} sails at dawn, whatever it rains.", "", "s", "MIT")
        for n in range(count)
    ]


def instructions(count):
    return [Instruction(f"Way {n}", f"family {n % 3}", "bank") for n in range(count)]


def test_every_original_gets_a_row_in_the_order_of_ids():
    requests = plan(originals(12), instructions(5), None, 0)
    assert [r.id for r in requests] == sorted(f"o{n}-1" for n in range(12))
    assert all(r.original.id == r.id.removesuffix("-1") for r in requests)
    assert set(Counter(r.instruction.family for r in requests).values()) == {4}
    assert len({r.seed for r in requests}) == 12
    assert all(0 <= r.seed < 2**31 for r in requests)


def test_more_rows_take_the_originals_in_turn():
    requests = plan(originals(4), instructions(50), 10, 0)
    assert Counter(Counter(r.original.id for r in requests).values()) == {2: 2, 3: 2}
    assert len({r.id for r in requests}) == 10
    assert len({(r.original.id, r.instruction.text) for r in requests}) == 10


def test_fewer_rows_are_among_those_of_more():
    everything = plan(originals(30), instructions(50), 90, 7)
    some = plan(originals(30), instructions(50), 20, 7)
    assert set(some) < set(everything)
    assert len({r.original.id for r in some}) == 20


def test_the_plan_depends_on_no_order_and_on_the_seed():
    first = plan(originals(9), instructions(20), None, 3)
    assert plan(originals(9)[::-1], instructions(20), None, 3) == first
    assert plan(originals(9), instructions(20), None, 4) != first


def test_a_chat_says_prompt_and_text():
    [request] = plan(originals(1), instructions(1), None, 0)
    assert chat_of(request, TEMPLATE) == [
        {"role": "system", "content": "Rewrite texts."},
        {"role": "user", "content": f"Way 0\n\n{request.original.text}"},
    ]


class Scripted(FakeRewriter):
    """Answers what a dict says for the original's number."""

    def __init__(self, answers):
        super().__init__()
        self.answers_of = answers
        self.sizes = []

    def answers(self, chats, seeds):
        self.sizes.append(len(chats))
        for index, chat in enumerate(chats):
            number = int(chat[-1]["content"].split("number ")[1].split()[0])
            answer = self.answers_of(number)
            yield index, answer if isinstance(answer, Answer) else Answer(answer)


@pytest.fixture
def store(tmp_path):
    store = RequestStore(tmp_path / "requests.jsonl")
    yield store
    store.close()


def rewriting(store, count, answers):
    fake = Scripted(answers)
    requests = plan(originals(count), instructions(9), None, 0)
    return Rewriting(requests, TEMPLATE, Remembering(fake, store), store), fake


def test_requests_go_in_chunks_and_answers_come_in_order(store):
    made, fake = rewriting(store, 25, lambda n: f"Ahoy, ferry {n} sails with the dawn")
    tally = made.ask(10)
    assert fake.sizes == [10, 10, 5]
    assert tally.asked == 25
    rows = [columns_of(request, answer, "Fake-1") for request, answer in made.answers()]
    assert [r["id"] for r in rows] == [r.id for r in made.requests]
    for row, request in zip(rows, made.requests, strict=True):
        number = request.original.id.removeprefix("o")
        assert row == {
            "id": request.id,
            "original_text": request.original.text,
            "rewritten_text": f"Ahoy, ferry {number} sails with the dawn",
            "rewrite_prompt": request.instruction.text,
            "category": request.instruction.family,
            "rewriter": "Fake-1",
            "source": "s",
        }
    again, fake = rewriting(store, 25, lambda n: "another answer")
    assert again.ask(10).asked == 0
    assert not fake.sizes
    assert [columns_of(*pair, "Fake-1") for pair in again.answers()] == rows


def test_rows_are_judged_in_order(store):
    def answer(number):
        match number:
            case 0 | 3 | 5:
                return f"Sure, here is the text:\n\nThe same again{'!' * number}"
            case 1:
                return Answer("", "timeout")
            case 2:
                return Answer("Ferry two sails at", finished=False)
            case 4:
                return Answer("", "http_400")
        return f"Ferry {number} is off at dawn"

    made, _ = rewriting(store, 7, answer)
    tally = made.ask(100)
    assert tally.failures == {"timeout": 1, "http_400": 1}
    ids = [r.original.id for r in made.requests]
    assert dict(zip(ids, judge(made, Filters(), None), strict=True)) == {
        "o0": "",
        "o1": "failed_timeout",
        "o2": "cut_off",
        "o3": "duplicate",  # the same words as the row before it
        "o4": "failed_http_400",
        "o5": "duplicate",
        "o6": "",
    }


def test_near_duplicates_are_found_where_that_is_asked_for(store, scs):
    texts = {
        0: "The boat departs at daybreak from the old harbour.",
        1: "The boat departs at the break of day from the old harbour.",
        2: "Nobody ever listens to the accordion player's sister.",
    }
    made, _ = rewriting(store, 3, texts.__getitem__)
    made.ask(100)
    assert judge(made, Filters(), scs) == ["", "", ""]
    assert judge(made, Filters(duplicate_scs=0.8), scs) == ["", "duplicate", ""]


def test_rows_that_ignore_their_prompts_are_found_where_that_is_asked_for(store):
    made, _ = rewriting(store, 3, lambda n: "" if n == 0 else f"The ferry number {n} is late")
    made.ask(100)
    seen = []

    def likelier(examples):
        seen.extend(e.rewritten_text for e in examples)
        return [0.6, 0.4]

    assert judge(made, Filters(), None, likelier) == ["empty", "", ""]
    assert judge(made, Filters(ignored=0.5), None, likelier) == ["empty", "ignored", ""]
    assert seen == ["The ferry number 1 is late", "The ferry number 2 is late"]


def test_remarks_to_the_user_are_kept_where_that_is_asked_for(store):
    made, _ = rewriting(store, 1, lambda n: "Sure, here is the text:\n\nAhoy!\n")
    made.ask(100)
    [pair] = made.answers()
    assert columns_of(*pair, "Fake-1")["rewritten_text"] == "Ahoy!"
    kept = columns_of(*pair, "Fake-1", keep_remarks=True)
    assert kept["rewritten_text"] == "Sure, here is the text:\n\nAhoy!"


def test_the_shipped_originals_and_bank_give_a_dataset_of_distinct_rows():
    passages = starter_originals().originals
    requests = plan(passages, read_bank(), 8 * len(passages), 0)
    pairs = Counter((r.original.id, r.instruction.text) for r in requests)
    assert max(pairs.values()) == 1
