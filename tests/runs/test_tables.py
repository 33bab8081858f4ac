"""The tables of trials, in the terminal and in the file."""

from pathlib import Path

from prompt_recovery.runs.tables import best_of, show_outcomes, terminal_table
from prompt_recovery.runs.trials import Outcome

METRICS = {
    "val/scs": 0.1234,
    "test/scs": 0.0987,
    "test/scs_ci_low": 0.08,
    "test/scs_ci_high": 0.12,
    "seconds": 12345.6,
}


def trial(label, state="finished", metrics=METRICS, reason="", name="000_0123abcd"):
    return Outcome(label, Path("runs") / name, state, metrics, reason)


OUTCOMES = [
    trial("optim.learning_rate=0.0003121 preferences.pairing.strategy=truth_random seed=1"),
    trial("optim.learning_rate=0.001 adapter.rank=16 seed=1", metrics=METRICS | {"val/scs": 0.2}),
    trial("optim.learning_rate=0.002 adapter.rank=64 seed=1", "failed", {}, "a long reason " * 9),
]


def test_no_word_is_broken_in_a_terminal_of_80_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    show_outcomes(OUTCOMES, tmp_path, "val/scs", title="3 trials")
    printed = capsys.readouterr().out
    words = {
        "optim.learning_rate=0.0003121", "preferences.pairing.strategy=", "truth_random",
        "adapter.rank=16", "0.1234", "0.2000", "0.0987", "12346", "finished", "failed", "seconds",
    }  # fmt: skip
    assert words <= set(printed.replace("┃", " ").replace("│", " ").split())
    assert "0.080 … 0.120" in printed and "seed=1" not in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_the_file_keeps_every_column_with_one_row_per_trial(tmp_path, capsys):
    show_outcomes(OUTCOMES, tmp_path, "val/scs")
    head, _, first, _, last = (tmp_path / "summary.md").read_text().splitlines()
    assert head == "| trial | state | val/scs | test/scs | 95 % interval | seconds | folder |"
    assert "| finished | 0.1234 | 0.0987 | 0.080 … 0.120 | 12346 |" in first
    assert "| failed: a long reason" in last and "000\\_0123abcd" in last


def test_columns_that_say_nothing_are_left_out():
    done = [trial(f"seed={n}", metrics={"val/scs": n / 10, "seconds": n}) for n in (1, 2)]
    table = terminal_table(done, "val/scs", "minimize")
    assert list(table.headings) == ["trial", "val/scs", "seconds"]
    assert table.rows == [[("seed=1",), "0.1000", "1"], [("seed=2",), "0.2000", "2"]]
    assert table.best == best_of(done, "val/scs", "minimize") == 0
