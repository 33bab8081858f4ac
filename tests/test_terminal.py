import gc
import io
import logging
import logging.config
import subprocess
import sys

import pytest
import yaml
from rich.console import Console

from prompt_recovery import terminal
from prompt_recovery.errors import first_line, printable
from prompt_recovery.settings.folder import config_folder
from prompt_recovery.tables import Table, print_tables
from prompt_recovery.terminal import (
    PrintableFormatter,
    announce_start,
    announced,
    counting,
    covered,
    duration,
    forgive_characters,
    has_started,
    importing,
    progress_bar,
)
from tests.clock import wait_for_messages

HOSTILE = "\x1b[2J\x1b]0;pwned\x07 [bold]x[/nope]\u202e\r\n\u2028 é 🐈 \ud83d"
SAFE = "[2J]0;pwned [bold]x[/nope] é 🐈 \ufffd"


def test_printable_texts_are_one_line_without_escapes():
    assert printable(HOSTILE) == SAFE
    assert printable("plain text") == "plain text"
    assert printable("e\u0301 👩🏽‍🚀 शि") == "e\u0301 👩🏽‍🚀 शि"
    assert first_line(ValueError("x" * 1000)) == "x" * 300 + " …"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError(" a\nb")) == "a"


def test_tables_logs_and_bars_show_printable_texts(capsys, caplog):
    print_tables(Table([HOSTILE], [[HOSTILE]], HOSTILE))
    with progress_bar(console=Console(force_terminal=True, width=200)) as bar:
        task = bar.add_task(HOSTILE, total=2)
        bar.update(task, description=HOSTILE + "again")
    shown = capsys.readouterr().out
    assert "pwned" in shown
    assert "[/nope]" in shown
    for sequence in ("\x1b[2J", "\x1b]", "\x07", "\u202e"):
        assert sequence not in shown
    record = logging.LogRecord("x", logging.INFO, "", 0, "said %s", (HOSTILE,), None)
    assert PrintableFormatter("%(message)s").format(record) == f"said {SAFE}"


@pytest.mark.parametrize("name", ["job_logging/terminal", "hydra_logging/prompt_recovery"])
def test_all_commands_log_printable_texts(name):
    text = (config_folder() / "hydra" / f"{name}.yaml").read_text()
    formatter = yaml.safe_load(text)["formatters"]["plain"]
    assert formatter["class"] == "prompt_recovery.terminal.PrintableFormatter"


def test_characters_that_the_output_lacks_are_replaced(monkeypatch):
    bytes_ = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_, "cp1252", write_through=True))
    forgive_characters()
    print_tables(Table(["prompt", "SCS"], [["Ünï 🐈 字", "0.5"]]))
    print("≥ \ud83d")
    shown = bytes_.getvalue().decode("cp1252")
    assert "Ünï ?" in shown
    assert "0.5" in shown


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(caplog, clock):
    with (
        caplog.at_level(logging.INFO),
        progress_bar(console=Console(file=io.StringIO())) as bar,
    ):
        task = bar.add_task("recovering: mine", total=4000)
        for _ in range(10):
            clock.now += 10
            bar.advance(task, 100)
    assert caplog.messages == [
        "recovering: mine: 100 of 4,000, about 6 min left",
        "recovering: mine: 400 of 4,000, about 6 min left",
        "recovering: mine: 700 of 4,000, about 6 min left",
        "recovering: mine: 1,000 of 4,000, about 5 min left",
    ]


def test_a_long_first_step_is_announced_where_there_is_no_terminal(caplog, monkeypatch):
    monkeypatch.setattr(terminal, "SILENT_S", 0.01)
    with caplog.at_level(logging.INFO), progress_bar(console=Console(file=io.StringIO())) as bar:
        bar.add_task("fitting", total=7)
        bar._timer.join(10)
    assert caplog.messages == ["fitting: 0 of 7, just begun"]
    assert bar.console.file.getvalue() == "", "no empty line either"


def test_what_takes_long_is_announced_and_what_is_quick_is_not(caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        with announced("something quick"):
            pass
        assert not caplog.messages
        monkeypatch.setattr(terminal, "SILENT_S", 0.01)
        with announced("loading"):
            wait_for_messages(caplog)
    assert caplog.messages == ["loading …", "loading took 0 s"]


def test_slow_work_is_announced_in_python_too_where_nobody_has_set_up_logging():
    code = """
import logging, time
from prompt_recovery import terminal
terminal.SILENT_S = 0.01
def work():
    with terminal.announced("loading \x1b[2J100 %"):
        time.sleep(0.1)
work()
logging.basicConfig(level=logging.WARNING)
work()
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stderr == "loading [2J100 % …\nloading [2J100 % took 0 s\n", (
        "and then it is quiet"
    )
    assert result.stdout == ""


def test_a_bar_that_is_disabled_or_drawn_says_nothing(caplog, monkeypatch):
    monkeypatch.setattr(terminal, "EVERY_S", 0.0)
    monkeypatch.setattr(terminal, "SILENT_S", 0.0)
    for options in (
        {"disable": True},
        {"console": Console(file=io.StringIO(), force_terminal=True)},
    ):
        with caplog.at_level(logging.INFO), progress_bar(**options) as bar:
            bar.advance(bar.add_task("x", total=2))
    assert not caplog.messages


def test_steps_are_counted_now_and_then(caplog, clock):
    with caplog.at_level(logging.INFO), counting("embedding 1,249 texts", 1249) as advance:
        for _ in range(9):
            clock.now += 10
            advance(128)
        advance(97)
    assert caplog.messages == [
        "embedding 1,249 texts: 128 of 1,249, just begun",
        "embedding 1,249 texts: 512 of 1,249, about 58 s left",
        "embedding 1,249 texts: 896 of 1,249, about 28 s left",
        "embedding 1,249 texts took 2 min",
    ]


def test_a_long_first_step_is_counted_too(caplog, monkeypatch):
    monkeypatch.setattr(terminal, "SILENT_S", 0.01)
    with caplog.at_level(logging.INFO), counting("writing 16 answers", 32, "tokens at most"):
        wait_for_messages(caplog)
    assert caplog.messages[0] == "writing 16 answers: 0 of 32 tokens at most, just begun"


@pytest.mark.parametrize("outer", ["bar", "covered"])
def test_work_inside_what_is_counted_speaks_only_if_it_is_long(caplog, monkeypatch, outer, clock):
    bar = progress_bar(console=Console(file=io.StringIO()))
    with caplog.at_level(logging.INFO), bar if outer == "bar" else covered():
        if outer == "bar":
            monkeypatch.setattr(terminal, "EVERY_S", 1e9)
            task = bar.add_task("search", total=40)
            clock.now += 4
            bar.update(task, completed=0)
            caplog.clear()
        for _ in range(9):
            with announced("loading"), counting("embedding 128 texts", 128) as advance:
                clock.now += 8
                advance(100)
        assert not caplog.messages
        with counting("embedding 9,000 texts", 9000) as advance:
            advance(500)
            clock.now += 18
            advance(500)
        assert caplog.messages == ["embedding 9,000 texts: 1,000 of 9,000, about 5 min left"]
        with announced("validation", anyway=True):
            clock.now += 4
        assert caplog.messages[1:] == ["validation took 4 s"]
    with caplog.at_level(logging.INFO), announced("something else"):
        clock.now += 4
    assert caplog.messages[2:] == ["something else took 4 s"]


def test_training_in_python_is_shown_and_written_to_a_file(tmp_path):
    code = """
import logging, sys
from pathlib import Path
from prompt_recovery.terminal import logged_to
log = logging.getLogger("prompt_recovery.training")
with logged_to(Path("train.log")):
    log.info("precision \x1b[2Jfp32")
log.info("nothing")
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
with logged_to(Path("train.log")):
    log.info("step 2")
    log.warning("no validation")
log.info("nothing")
print(logging.getLogger("prompt_recovery").handlers)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert result.stderr == "precision [2Jfp32\n"
    assert result.stdout == "no validation\n[]\n", "what is shown stays as it is"
    lines = (tmp_path / "train.log").read_text("utf-8").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["precision [2Jfp32", "step 2",
                                                       "no validation"]  # fmt: skip


def test_durations_in_words():
    assert [duration(s) for s in (3.4, 100, 6000)] == ["3 s", "2 min", "1.7 h"]


def test_what_is_imported_is_never_collected_again():
    before = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]
        assert gc.isenabled() and gc.get_freeze_count() >= before + len(kept)
        gc.disable()
        with importing():
            pass
        assert not gc.isenabled(), "somebody has switched it off"
    finally:
        gc.enable()


def test_a_slow_start_is_announced_until_the_command_has_started(caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        announce_start("recover")
        [timer] = terminal._start
        has_started()
        assert timer.finished.is_set()
        monkeypatch.setattr(terminal, "SILENT_S", 0.01)
        announce_start("detect")
        wait_for_messages(caplog)
        has_started()
    assert caplog.messages == ["starting detect …"]
    assert not terminal._start
