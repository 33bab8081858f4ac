"""A trial: one training run of many, in a folder and a process of its own.

A process of its own is what keeps trials apart: one that fails, or is killed for its memory, ends
alone; none inherits random states, threads, peak memory or a W&B run from the one before.
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

from prompt_recovery.runs.folder import RunFolder
from prompt_recovery.storage import fingerprint

State = Literal["finished", "stopped", "failed"]

# Settings that change nothing of what a trial finds.
_COSMETIC = ("name", "group", "tags", "logger", "ckpt_path", "checkpoint_minutes")
_PARENT = "PROMPT_RECOVERY_TRIAL_OF"
INTERRUPTED = 130  # exit status of a process that was asked to end, as shells have it
_SIGNAL_LATENCY_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        label: its settings, such as "objective=dpo seed=1".
        folder: its run folder.
        state: finished; stopped early by the sweep; or failed.
        metrics: what it measured: `metrics.json`; the best so far if it was stopped.
        reason: why it failed, or that it had been finished before.
    """

    label: str
    folder: Path
    state: State
    metrics: Mapping[str, float]
    reason: str = ""

    def metric(self, name: str) -> float:
        """A metric; NaN if it wasn't measured."""
        return float(self.metrics.get(name, math.nan))


def trial_id(config: Mapping[str, Any]) -> str:
    """Twelve hex digits that name a resolved configuration, up to what changes no result.

    A run folder to start from counts as what it points to: `runs/latest` is another one tomorrow.
    """
    settings = {k: v for k, v in config.items() if k not in _COSMETIC}
    if not uses_preferences(config):
        settings.pop("preferences", None)
    if settings.get("start") is not None:
        settings["start"] = str(Path(settings["start"]).expanduser().resolve())
    return fingerprint(settings)[:12]


def uses_preferences(config: Mapping[str, Any]) -> bool:
    """Whether an objective of a run has a use for what `preferences` says; SFT hasn't."""
    objectives = (config.get("objective"), (config.get("first_stage") or {}).get("objective"))
    targets = [str((o or {}).get("_target_", "")).lower() for o in objectives]
    return any(target and not target.endswith("sft") for target in targets)


def is_trial() -> bool:
    """Whether this process runs a trial for another."""
    return _PARENT in os.environ


def end_with_parent() -> None:
    """In a trial's process: ends it soon after the process that started it.

    Otherwise a trial would outlive a killed sweep, and meet itself when the sweep goes on.
    """
    parent = os.environ.get(_PARENT)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os._exit(1)

    # Processes that Lightning starts in turn have another parent, and end with the trial.
    if os.getppid() == int(parent):
        threading.Thread(target=watch, daemon=True).start()


class Trial:
    """A trial's process, started at once.

    Args:
        label: its settings, for people.
        folder: of the run.
        command: that runs it; its output goes to `output.log` in the folder.
        threads: of computation; None leaves it to the libraries.
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
        """Whether it still runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends it, at the latest after ten seconds."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait(self) -> Outcome:
        """Waits for its end. An interrupt ends it too, and so does a launcher that raises in this
        process, as submitit does when a job's time is over."""
        try:
            if self._process.wait() == -signal.SIGUSR2:
                # SLURM says so to all processes of a job whose time is over; submitit's handler in
                # this one, which queues the job again and exits, may be later than the trial's end.
                time.sleep(_SIGNAL_LATENCY_S)
        except BaseException as error:
            self.stop()
            if isinstance(error, Exception):
                return Outcome(self.label, self.folder, "failed", {}, str(error))
            raise
        return self.outcome()

    def outcome(self) -> Outcome:
        """Of a trial that has ended by itself."""
        code, metrics = self._process.returncode, RunFolder(self.folder).metrics()
        if code == 0 and metrics is not None:
            return Outcome(self.label, self.folder, "finished", metrics)
        if code < 0:
            reason = f"killed by signal {-code}"
        elif code == INTERRUPTED:  # whatever libraries said afterwards
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
    """Threads of computation for each of several trials that share this machine."""
    return None if parallel == 1 else max((os.cpu_count() or 1) // parallel, 1)
