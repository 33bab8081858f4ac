import re

from hypothesis import given
from hypothesis import strategies as st

from prompt_recovery.tables import escape_markdown, markdown_table

EVIL = "a | b\n# <img src=x> [x](javascript:0) `*_~ &lt; $x$ \\"


def cells(line):
    return [c.strip() for c in re.split(r"(?<!\\)(?:\\\\)*\|", line.strip())[1:-1]]


@given(texts=st.lists(st.text(), min_size=2, max_size=2))
def test_no_text_leaves_its_cell(texts):
    lines = markdown_table(["a", "b"], [[EVIL, EVIL], texts]).splitlines()
    assert len(lines) == 4
    assert {len(cells(line)) for line in lines[:3]} == {2}


def test_markup_is_shown_as_it_stands():
    assert escape_markdown(EVIL) == (
        r"a \| b \# &lt;img src=x\> \[x\](javascript:0) \`\*\_\~ &amp;lt; \$x\$ \\"
    )


def test_columns_of_numbers_lean_right():
    rows = [["x", 1, "0.1 … 0.2", "+1.5 %", "1 a"], ["y", "", "-1.0 … 2.0", "", "2"]]
    assert (
        markdown_table(list("abcde"), rows).splitlines()[1] == "| --- | ---: | ---: | ---: | --- |"
    )
    assert markdown_table(["a"], []).splitlines() == ["| a |", "| ---: |"]
