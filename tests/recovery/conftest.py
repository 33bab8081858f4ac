import json

import pytest
import yaml

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.training.run import train
from tests.training.test_run import make_job


@pytest.fixture(scope="session")
def few_examples():
    return [
        RewriteExample(
            id=f"row-{n}",
            original_text=f"The ferry number {n % 10} leaves the harbour at dawn.",
            rewritten_text=f"At dawn, oh joy, ferry {n % 10} sails away! ({n})",
            rewrite_prompt=f"Make it joyful, way number {n % 20}",
        )
        for n in range(40)
    ]


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, few_examples, scs):
    """The folder of a run on tiny weights and a data file; tests that write in it copy it."""
    folder = tmp_path_factory.mktemp("trained")
    names = ("id", "original_text", "rewritten_text", "rewrite_prompt")
    lines = [json.dumps({name: getattr(e, name) for name in names}) for e in few_examples]
    (folder / "data.jsonl").write_text("\n".join(lines))
    train(make_job(folder / "run", few_examples, scs, evaluate=False))
    config = {
        "data": {
            "_target_": "prompt_recovery.data.sources.file",
            "path": str(folder / "data.jsonl"),
            "columns": {"_target_": "prompt_recovery.data.examples.ColumnNames", "id": "id"},
        },
        "split": {"by": "prompt", "val": 0.2, "test": 0.2, "seed": 0},
    }
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "run"
