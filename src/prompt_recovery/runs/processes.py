"""The processes of one run: which is the first, and what the others take over from it."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

from prompt_recovery.errors import PromptRecoveryError

_PATIENCE = timedelta(minutes=30)
_LOST = ("gloo/transport", "remote process exited")  # what gloo and NCCL say of a lost connection


class ProcessLostError(PromptRecoveryError):
    """Another process of the run has ended."""


def is_first() -> bool:
    """Whether this is the only process of the run, or the first of several."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK")  # of torchrun, of srun, of Lightning
    rank = next((os.environ[name] for name in names if name in os.environ), "0")
    return rank == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))


def started_together() -> int:
    """How many processes torchrun or srun started; 1 where Lightning starts them, if need be."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in os.environ:
            return int(os.environ.get(size, "1"))
    return 1


def fitting(options: dict[str, Any]) -> dict[str, Any]:
    """Options of `lightning.Trainer` that fit the processes which torchrun or srun started.

    Raises:
        PromptRecoveryError: they ask for another number of processes.
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
    """Whatever ends the work of this process ends that of those which Lightning started, too.

    Raises:
        KeyboardInterrupt: Ctrl-C, to which Lightning answers with an exit.
        ProcessLostError: another process has ended, so that nothing can be done together any more.
        SystemExit: the same, and it has told why.
    """
    try:
        yield
    except BaseException as error:
        watched = getattr(trainer.strategy.launcher, "procs", [])
        others = watched.copy()
        watched.clear()  # or the thread that watches them would kill this process
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
    """Whether one of them ends with an error, which it has printed, rather than being killed."""
    deadline = time.monotonic() + seconds
    while processes and time.monotonic() < deadline:
        if any(p.poll() for p in processes):
            break
        time.sleep(0.1)
    return any(p.poll() == 1 for p in processes)


def agreed(name: str, make: Callable[[], str]) -> str:
    """What the first process makes of `make`, in every process of the run."""
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


@cache
def _store() -> Any:
    """Where processes that were started together leave each other notes.

    It stands where torch.distributed will have its own, which shares its socket.
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
