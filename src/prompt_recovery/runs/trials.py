"""A trial: one of many training runs, in its own folder and its own process.

Separate processes isolate the trials: one that fails or runs out of memory does not end the
others, and none inherits random states, threads, peak memory or a W&B run from the one before.
"""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from prompt_recovery.runs.folder import RunFolder, run_path
from prompt_recovery.storage import fingerprint

State = Literal["finished", "stopped", "failed"]

# Settings that do not change the result of a trial. All others are part of its id with their
# values, defaults included: a new setting that isn't named here changes the id of every trial.
COSMETIC = ("name", "group", "tags", "logger", "ckpt_path", "checkpoint_minutes")
_PARENT = "PROMPT_RECOVERY_TRIAL_OF"
INTERRUPTED = 130  # exit status of an interrupted process, as in shells
_SIGNAL_LATENCY_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        label: The trial's settings, such as "objective=dpo seed=1".
        folder: Its run folder.
        state: Whether it finished, was stopped early by the sweep, or failed.
        metrics: The content of `metrics.json`, or the best value so far if it was stopped.
        reason: Why it failed, or that it had finished before.
    """

    label: str
    folder: Path
    state: State
    metrics: Mapping[str, float]
    reason: str = ""

    def metric(self, name: str) -> float:
        """Returns a metric, or NaN if it was not measured."""
        return float(self.metrics.get(name, math.nan))


def trial_id(config: Mapping[str, Any]) -> str:
    """Returns 12 hex digits that identify a configuration, ignoring what does not affect results.

    The path of a run to start from is resolved first, because `runs/latest` may point to another
    run tomorrow.
    """
    settings = {k: v for k, v in config.items() if k not in COSMETIC}
    if not uses_preferences(config):
        settings.pop("preferences", None)
    if settings.get("start") is not None:
        settings["start"] = str(run_path(settings["start"]).resolve())
    return fingerprint(settings)[:12]


def uses_preferences(config: Mapping[str, Any]) -> bool:
    """Returns whether any objective of a run uses the settings `preferences`.

    SFT and the contrastive objective don't.
    """
    objectives = (config.get("objective"), (config.get("first_stage") or {}).get("objective"))
    targets = [str((o or {}).get("_target_", "")).lower() for o in objectives]
    return any(target and not target.endswith(("sft", "contrastive")) for target in targets)


def is_trial() -> bool:
    """Returns whether this process runs a trial that another process started."""
    return _PARENT in os.environ


def end_with_parent() -> None:
    """Ends a trial's process soon after the process that started it has ended, or at once if that
    has ended already.

    Otherwise a trial would outlive a killed sweep, and run twice when the sweep is resumed.
    """
    parent = os.environ.get(_PARENT)
    if parent is None:
        return

    def watch() -> None:
        while _lives(int(parent)):
            time.sleep(1)
        os._exit(1)

    if not _lives(int(parent)):
        raise SystemExit(1)
    threading.Thread(target=watch, daemon=True).start()


def _lives(process: int) -> bool:
    """Returns whether a process runs: the parent of this one, or of a script that started it."""
    if os.getppid() == process:
        return True
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


class Trial:
    """The process of a trial, which is started immediately.

    Args:
        label: The trial's settings in readable form.
        folder: Folder of the run.
        command: Command that runs the trial. Its output goes to `output.log` in the folder.
        threads: Number of computation threads. None leaves it to the libraries.
    """

    def __init__(
        self, label: str, folder: Path, command: Sequence[str], threads: int | None = None
    ) -> None:
        self.label = label
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        environment = {**os.environ, _PARENT: str(os.getpid()), "PATH": path}
        environment.pop("PROMPT_RECOVERY_START", None)
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        with RunFolder(folder).output.open("ab") as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def running(self) -> bool:
        """Returns whether the process is still running."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Terminates the process, and kills it if it has not ended after ten seconds."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait(self) -> Outcome:
        """Waits for the process to end. An exception in this process ends it, too: an interrupt,
        or the one that submitit raises when a job's time is over."""
        try:
            if self._process.wait() == -signal.SIGUSR2:
                # SLURM sends this signal to all processes of a job whose time is over. Wait for
                # submitit's handler in this process, which queues the job again and exits.
                time.sleep(_SIGNAL_LATENCY_S)
        except BaseException as error:
            self.stop()
            if isinstance(error, Exception):
                return Outcome(self.label, self.folder, "failed", {}, str(error))
            raise
        return self.outcome()

    def outcome(self) -> Outcome:
        """Returns the outcome of a trial that has ended by itself."""
        code, metrics = self._process.returncode, RunFolder(self.folder).metrics()
        if code == 0 and metrics is not None:
            return Outcome(self.label, self.folder, "finished", metrics)
        if code < 0:
            reason = f"killed by signal {-code}"
        elif code == INTERRUPTED:  # libraries may have printed other errors afterwards
            reason = "interrupted"
        else:
            reason = self._last_words()
        return Outcome(self.label, self.folder, "failed", {}, reason)

    def _last_words(self) -> str:
        text = RunFolder(self.folder).output.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines and "HYDRA_FULL_ERROR" in lines[-1]:  # Hydra's hint, after the exception
            lines.pop()
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["ended without a word"])[-1].removeprefix("error: ")


def threads_each(parallel: int) -> int | None:
    """Returns the number of computation threads for each of several trials on this machine."""
    return None if parallel == 1 else max((os.cpu_count() or 1) // parallel, 1)
