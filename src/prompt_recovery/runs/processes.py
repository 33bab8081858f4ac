"""The processes of a distributed run: their ranks, and values that the first one decides."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

from prompt_recovery.errors import PromptRecoveryError

_PATIENCE = timedelta(minutes=30)
_LOST = ("gloo/transport", "remote process exited")  # in gloo's and NCCL's lost-connection errors


class ProcessLostError(PromptRecoveryError):
    """Raised when another process of the run has ended."""


def is_first() -> bool:
    """Returns whether this is the first or the only process of the run."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK")  # set by torchrun, srun and Lightning
    rank = next((os.environ[name] for name in names if name in os.environ), "0")
    return rank == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


def local_rank() -> int:
    """Returns the rank of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))


def started_together() -> int:
    """Returns how many processes torchrun or srun started; 1 if Lightning starts them itself."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in os.environ:
            return int(os.environ.get(size, "1"))
    return 1


def fitting(options: dict[str, Any]) -> dict[str, Any]:
    """Adapts options of `lightning.Trainer` to the processes that torchrun or srun started.

    Raises:
        PromptRecoveryError: If the options ask for another number of processes.
    """
    started, nodes = started_together(), options.get("num_nodes", 1)
    devices = options.get("devices", "auto")
    if devices in ("auto", -1):
        devices = started // nodes
    if started == 1 or not isinstance(devices, int):
        return options
    if devices * nodes != started:
        raise PromptRecoveryError(
            f"{started} processes were started, but trainer.devices={devices} and "
            f"trainer.num_nodes={nodes} make {devices * nodes}: set them to what was started "
            "on each machine and to the number of machines, with trainer=ddp or trainer=fsdp"
        )
    return {**options, "devices": devices}


@contextmanager
def together(trainer: Any) -> Iterator[None]:
    """Ends the processes that Lightning started when an exception ends the work of this one.

    Raises:
        KeyboardInterrupt: On Ctrl-C, which Lightning turns into an exit.
        ProcessLostError: If another process has ended, so that collective operations fail.
        SystemExit: Likewise, if that process has already printed its error.
    """
    try:
        yield
    except BaseException as error:
        watched = getattr(trainer.strategy.launcher, "procs", [])
        others = watched.copy()
        watched.clear()  # otherwise the thread that watches them would kill this process
        lost = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST)
        told = lost and _has_failed(others)
        for other in others:
            other.kill()
        if told:
            raise SystemExit(1) from None
        if lost:
            raise ProcessLostError(
                "another process of this run has ended; was it killed?"
            ) from error
        if isinstance(error, SystemExit) and trainer.interrupted:
            raise KeyboardInterrupt from None
        raise


def _has_failed(processes: Sequence[Any], seconds: float = 5.0) -> bool:
    """Returns whether a process exits with an error, which it has printed, and was not killed."""
    deadline = time.monotonic() + seconds
    while processes and time.monotonic() < deadline:
        if any(p.poll() for p in processes):
            break
        time.sleep(0.1)
    return any(p.poll() == 1 for p in processes)


def agreed(name: str, make: Callable[[], str]) -> str:
    """Returns, in every process of the run, the value that `make` gives in the first process."""
    key = f"PROMPT_RECOVERY_{name}"
    if is_first():
        # Processes that Lightning starts inherit the environment.
        value = os.environ[key] = make()
        if started_together() > 1:
            _store().set(key, value)
        return value
    if started_together() > 1:
        return str(_store().get(key).decode())
    return os.environ.get(key) or make()


def wait_for_first(name: str) -> None:
    """Returns in every process of the run once the first one has called it, too.

    Args:
        name: The name of this place in the program.

    Raises:
        ProcessLostError: If the first process has ended.
    """
    torch: Any = sys.modules.get("torch")  # what isn't imported has connected no processes
    distributed = None if torch is None else torch.distributed
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        try:
            distributed.barrier()
        except RuntimeError as error:
            if not any(sign in str(error) for sign in _LOST):
                raise
            raise ProcessLostError(
                "another process of this run has ended; was it killed?"
            ) from error
    elif started_together() > 1:
        agreed(name, lambda: "reached")


@cache
def _store() -> Any:
    """Returns a key-value store for the processes that torchrun or srun started together.

    It uses the address of the store that torch.distributed will create, and shares its socket.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    if "RANK" not in os.environ:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        slurm = SLURMEnvironment()
        address, port = slurm.main_address, slurm.main_port
    else:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(
        address,
        port,
        is_master=is_first() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        timeout=_PATIENCE,
        wait_for_workers=False,
        multi_tenant=True,
    )
    return PrefixStore(f"notes_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
