import io
import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from prompt_recovery.tables import (
    Table,
    escape_markdown,
    print_tables,
    to_html,
    to_markdown,
    to_terminal,
)

EVIL = "a | b\n# <img src=x> [x](javascript:0) `*_~ &lt; $x$ \\"


def cells(line):
    return [c.strip() for c in re.split(r"(?<!\\)(?:\\\\)*\|", line.strip())[1:-1]]


@given(texts=st.lists(st.text(), min_size=2, max_size=2))
def test_no_text_leaves_its_cell(texts):
    lines = to_markdown(Table(["a", "b"], [[EVIL, EVIL], texts])).splitlines()
    assert len(lines) == 4
    assert {len(cells(line)) for line in lines[:3]} == {2}


def test_markup_is_shown_as_it_stands():
    assert escape_markdown(EVIL) == (
        r"a \| b \# &lt;img src=x\> \[x\](javascript:0) \`\*\_\~ &amp;lt; \$x\$ \\"
    )


def test_columns_of_numbers_lean_right():
    rows = [["x", 1, "0.1 … 0.2", "+1.5 %", "1 a"], ["y", "", "-1.0 … 2.0", "", "2"]]
    assert (
        to_markdown(Table(list("abcde"), rows)).splitlines()[1]
        == "| --- | ---: | ---: | ---: | --- |"
    )
    assert to_markdown(Table(["a"], [])).splitlines() == ["| a |", "| ---: |"]


def test_the_terminal_shows_texts_as_data_and_the_best_row_in_bold():
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system="standard")
    console.print(to_terminal(Table(["a [b]", "n"], [["x [red]", 1], ["best", 2]], "[title]", 1)))
    shown = console.file.getvalue()
    assert "a [b]" in shown
    assert "x [red]" in shown
    assert "[title]" in shown
    assert re.search(r"\x1b\[1m[^\n]*best", shown)
    assert not re.search(r"\x1b\[1m[^\n]*x \[red\]", shown)


def test_a_title_is_not_broken_by_a_narrow_table(capsys):
    print_tables(Table(["split", "rows"], [["train", 35]], "40 of 40 rows were kept"))
    assert capsys.readouterr().out.splitlines()[0].rstrip() == "40 of 40 rows were kept"


def test_a_cell_of_several_lines_has_them_in_the_terminal_only():
    table = Table(["a", "n"], [[("one\n[x]", "two"), ("0.5", "0.6")], ["three", 7]])
    console = Console(file=io.StringIO(), width=60)
    console.print(to_terminal(table))
    lines = [
        [cell.strip() for cell in x.split("│")[1:-1]] for x in console.file.getvalue().splitlines()
    ]
    assert [x for x in lines if x] == [["one [x]", "0.5"], ["two", "0.6"], ["three", "7"]]
    assert to_markdown(table).splitlines()[2] == r"| one \[x\] two | 0.5 0.6 |"
    assert "<td>one\n[x] two</td><td>0.5 0.6</td>" in to_html(table)
