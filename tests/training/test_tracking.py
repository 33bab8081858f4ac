"""W&B's modes mean what they mean to W&B, and no failure of a logger ends a run."""

import logging
import socket
import time

import pytest
from lightning.pytorch import loggers

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.training import tracking
from prompt_recovery.training.tracking import (
    forgiven,
    make_logger,
    recorded_run,
    require_loggable,
    wandb_mode,
)

NAMES = ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY", "WANDB_BASE_URL")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (*NAMES, "WANDB_SILENT", "WANDB_INIT_TIMEOUT", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")  # restored at the end, whatever is set meanwhile
        monkeypatch.delenv(name)
    return monkeypatch


class Experiment:
    class config:  # noqa: N801
        update = staticmethod(lambda *args, **options: None)


class FakeLogger:
    """Lightning's `WandbLogger`, which fails as often as it is told."""

    failures = 0
    made: list[bool] = []  # noqa: RUF012

    def __init__(self, offline, **options):
        self.made.append(offline)
        self._wandb_init = {}

    @property
    def experiment(self):
        if len(self.made) <= type(self).failures:
            raise RuntimeError("no such key\nand more")
        return Experiment

    def log_metrics(self, metrics, step=None):
        raise OSError(28, "No space left on device")


def made(monkeypatch, tmp_path, failures=0):
    monkeypatch.setattr(loggers, "WandbLogger", FakeLogger)
    monkeypatch.setattr(FakeLogger, "made", [])
    monkeypatch.setattr(FakeLogger, "failures", failures)
    logger = make_logger("wandb", tmp_path, "p", "n", None, {}, [])
    return logger, FakeLogger.made


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "x"}, "online"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "x"}, "offline"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "x"}, "disabled"),
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_MODE": ""}, "offline"),
    ],
)
def test_modes(environment, given, mode):
    for name, value in given.items():
        environment.setenv(name, value)
    assert wandb_mode() == mode


def test_disabled_leaves_no_files(environment, tmp_path):
    environment.setenv("WANDB_MODE", "disabled")
    logger, attempts = made(environment, tmp_path)
    assert logger is False
    assert attempts == []
    assert not list(tmp_path.iterdir())


def test_a_key_without_a_network_is_offline_within_seconds(environment, tmp_path, caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        environment.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        environment.setenv("WANDB_API_KEY", "0" * 40)
        begun = time.monotonic()
        logger, attempts = made(environment, tmp_path)
    assert logger
    assert attempts == [True]
    assert time.monotonic() - begun < 8
    assert "the run is logged offline" in caplog.text
    assert "wandb sync" in caplog.text


def test_what_wandb_refuses_is_tried_offline_and_then_left(environment, tmp_path, caplog):
    environment.setenv("WANDB_API_KEY", "0" * 40)
    environment.setattr(tracking, "_unreachable", lambda: None)
    environment.setattr(tracking, "_forget_run", lambda: None)
    logger, attempts = made(environment, tmp_path, failures=1)
    assert logger
    assert attempts == [False, True]
    assert "W&B cannot be used (no such key): the run is logged offline" in caplog.text
    logger, attempts = made(environment, tmp_path, failures=2)
    assert logger is False
    assert "metrics are in the run folder only" in caplog.text


def test_the_last_wandb_run_of_a_folder_is_found(tmp_path):
    first, other = tmp_path / "first", tmp_path / "other"
    for name in ("offline-run-20250102_030405-old", "run-20260102_030405-my-own-id", "latest-run"):
        (first / "wandb" / name).mkdir(parents=True)
    (other / "wandb" / "offline-run-20270102_030405-new").mkdir(parents=True)
    assert recorded_run(first, other) == "my-own-id"
    assert recorded_run(tmp_path, None, other) == "new"
    assert recorded_run(tmp_path, None) is None


def test_a_logger_that_fails_later_is_a_warning(environment, tmp_path, caplog):
    logger, _ = made(environment, tmp_path)
    for _ in range(3):
        assert logger.log_metrics({"a": 1.0}) is None
    with forgiven("the results"):
        raise ConnectionError("gone")
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 2
    assert "No space left on device" in told[0]
    assert told[1] == "the results: the logger fails (gone); the run continues"


@pytest.mark.parametrize(
    ("project", "tags", "message"),
    [
        ("me/mine", [], "logger.project=me/mine: W&B allows 1 to 128 characters and none of /"),
        ("", [], "logger.project=: W&B allows"),
        ("p", ["x" * 65], "has 65 characters, and W&B allows 1 to 64"),
        ("p", [""], "has 0 characters"),
    ],
)
def test_what_wandb_would_refuse_is_refused_before(project, tags, message):
    require_loggable("none", project, tags)
    with pytest.raises(PromptRecoveryError, match=message):
        require_loggable("wandb", project, tags)


def test_a_mode_that_wandb_does_not_have(environment):
    environment.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(PromptRecoveryError, match="WANDB_MODE=sometimes: must be one of online"):
        require_loggable("wandb", "p", [])
