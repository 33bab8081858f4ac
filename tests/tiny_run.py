"""What runs of seconds are made of: a random model and a small file."""

import json

TINY_RUN = (
    "model=tiny",
    "retriever=none",
    "data=file",
    "data.path=own.jsonl",
    "split.val=0.2",
    "split.test=0.2",
    "trainer.enable_progress_bar=false",
    "logger=none",
)


def write_rows(path, examples):
    """Writes rewrite examples to a JSONL file."""
    rows = [{name: getattr(e, name) for name in e.__slots__} for e in examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
