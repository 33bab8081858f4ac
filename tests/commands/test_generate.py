"""`prompt-recovery generate` as a user meets it."""

import json
import signal
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from tests import command_line
from tests.command_line import assert_one_line
from tests.forks import Fork

BANK = Path(__file__).parents[1] / "generation" / "instructions.csv"


command = partial(command_line.command, "generate")
run = partial(command_line.run, "generate")


def test_a_dataset_is_made_and_gone_on_with(tmp_path):
    arguments = ["rewriter=fake", f"instructions.bank={BANK}", "rows=60", "output=made"]
    first = run(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "rows kept" in first.stdout
    assert "data=file data.path=made" in first.stdout
    rows = sum(pq.read_table(p).num_rows for p in (tmp_path / "made" / "data").iterdir())
    rejected = pq.read_table(tmp_path / "made" / "rejected.parquet").num_rows
    assert rows + rejected == 60
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made"]
    again = run(*arguments, cwd=tmp_path)
    assert again.returncode == 0
    assert "is already complete" in again.stderr
    assert_one_line(run(*arguments, "seed=1", cwd=tmp_path), "seed: 0 → 1", "overwrite=true")


def test_mistakes_are_one_line(tmp_path):
    quick = ["rewriter=fake", "rows=10"]
    for argument, part in [
        ("rows=0", "rows=0"),
        ("filters.copy=2", "filters.copy=2"),
        ("split.by=row", "split.by=row"),
        ("instructions.bank=none.csv", "none.csv"),
        ("template=plain", "template 'plain'"),
        ("output=/proc/nowhere", "output=/proc/nowhere"),
        ("push_to_hub=name", "push_to_hub=name"),
    ]:
        assert_one_line(run(*quick, argument, cwd=tmp_path), part)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_how_to_go_on(tmp_path):
    # As slow as a rewriter that waits for its endpoint; the first request shows that it is there.
    arguments = [
        "rewriter=tiny",
        f"instructions.bank={BANK}",
        "rows=3000",
        "output=made",
        "rewriter.sampling.max_new_tokens=200",
    ]
    with (tmp_path / "stderr").open("w") as stderr:
        life = Fork(command(*arguments), tmp_path, stderr=stderr)
    store = tmp_path / "made" / ".work" / "requests.jsonl"
    while life.poll() is None and not (store.is_file() and store.stat().st_size):
        time.sleep(0.05)
    life.send_signal(signal.SIGINT)
    life.wait(100)
    said = (tmp_path / "stderr").read_text()
    assert life.returncode == 130, said
    assert "run the same command again to continue" in said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "made" / "generation.json").read_text())["complete"] is False
