from prompt_recovery.app import shown
from prompt_recovery.recovery.interface import Pair
from tests.app.answering import EVIL, Answering


def test_texts_are_escaped():
    [prediction] = Answering().recover([Pair("1", "a", "b")])
    html = shown.answer_html(prediction) + shown.difference_html(EVIL, EVIL + " </div>")
    assert "<img" not in html
    assert "&lt;img" in html
    assert "<ins>&lt;/div&gt;</ins>" in html
    assert ">expected SCS</abbr> 0.31" in html
    assert ">score</abbr>" in html and "<td>0.250</td>" in html, "as on the command line"


def test_the_difference_marks_words_and_bounds_the_work():
    assert shown.difference_html("a b c", "a x c") == (
        '<div class="pr-difference">a <del>b</del> <ins>x</ins> c</div>'
    )
    assert "the first 1,500 words" in shown.difference_html("a " * 50_000, "b " * 50_000)
