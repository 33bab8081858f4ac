"""Where work is done: in this process or on the workers of a Ray cluster."""

import logging
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.rewriters.base import Answer, Chat, Rewriter
from prompt_recovery.settings import AtLeastOne, NotNegative, Positive, checked
from prompt_recovery.settings.extras import require_extra

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[Sequence[T]], Iterator[tuple[int, R]]]
"""Takes items and yields (index, result) pairs in any order, exactly one for each item."""


class Cluster(Protocol):
    """Decides where work is done.

    Attributes:
        chunk: Number of requests that are held in memory at a time.
    """

    chunk: int

    def rewriter(self, make: Callable[[], Rewriter]) -> Rewriter:
        """Returns a rewriter whose answers are computed where this cluster does its work."""
        ...

    def each(
        self, items: Sequence[T], make: Callable[[], Work[T, R]], block: int | None = None
    ) -> Iterator[tuple[int, R]]:
        """Does work on items.

        Args:
            items: The items to process. They are pickled to be sent to other processes.
            make: Makes the work function, for instance by loading a model. It is called in the
                process that does the work.
            block: Number of items that a worker gets at a time. None uses the cluster's default.

        Yields:
            (index, result) pairs in any order, exactly one for each item.
        """
        ...


@checked("cluster")
@dataclass(frozen=True)
class Local:
    """Runs work in this process.

    Attributes:
        chunk: Number of requests that are held in memory at a time.
    """

    chunk: AtLeastOne = 1024

    def each(
        self,
        items: Sequence[T],
        make: Callable[[], Work[T, R]],
        block: int | None = None,
    ) -> Iterator[tuple[int, R]]:
        """Does work on items in this process."""
        yield from make()(items)

    def rewriter(self, make: Callable[[], Rewriter]) -> Rewriter:
        """Returns the rewriter itself."""
        return make()


@checked("cluster")
@dataclass(frozen=True)
class RayCluster:
    """Runs work on a Ray cluster (extra `[ray]`), as a Ray Data stage with one actor per worker.

    A worker that dies is replaced and its block is processed again. The results are the same as
    those of a run in one process.

    Attributes:
        address: Address of the cluster, or `auto` for the one that this machine belongs to. None
            starts a cluster on this machine.
        workers: Number of workers. Each has its own rewriter.
        cpus: CPUs per worker.
        gpus: GPUs per worker; may be a fraction.
        block: Number of items that a worker gets at a time. They are processed again if the
            worker dies.
        chunk: Number of requests that are held in memory at a time. Workers are restarted
            for every chunk.
    """

    address: str | None = None
    workers: AtLeastOne = 2
    cpus: Positive = 1.0
    gpus: NotNegative = 0.0
    block: AtLeastOne = 64
    chunk: AtLeastOne = 50_000

    EXTRA: ClassVar = ("ray", "cluster=ray")

    def rewriter(self, make: Callable[[], Rewriter]) -> Rewriter:
        """Returns a rewriter that distributes its requests over the workers."""
        return _ClusterRewriter(self, make)

    def each(
        self, items: Sequence[T], make: Callable[[], Work[T, R]], block: int | None = None
    ) -> Iterator[tuple[int, R]]:
        """Does work on items on the workers.

        Raises:
            PromptRecoveryError: If Ray is not installed, the cluster cannot be reached or is too
                small for the workers, or a worker raised this error.
        """
        if not items:
            return
        ray = self._connected()
        size = block or self.block
        blocks = [
            {"start": start, "items": pickle.dumps(items[start : start + size])}
            for start in range(0, len(items), size)
        ]
        results = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
            _Worker,
            fn_constructor_args=(make,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(blocks))),
            num_cpus=self.cpus,
            num_gpus=self.gpus or None,
        )
        for row in results.iter_rows():
            for index, result in pickle.loads(row["results"]):
                yield row["start"] + index, result
            if row["error"]:
                raise PromptRecoveryError(row["error"])

    def _connected(self) -> Any:
        require_extra(*self.EXTRA)
        import ray
        import ray.data

        if not ray.is_initialized():
            try:
                _reach(self.address)
                ray.init(
                    address=self.address,
                    include_dashboard=False if self.address is None else None,
                    logging_level=logging.WARNING,
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise PromptRecoveryError(
                    f"cluster.address={self.address}: no Ray cluster there ({first_line(error)}); "
                    "start one with `ray start`, or leave the address out to use this machine"
                ) from error
        there = ray.cluster_resources()
        for name, wanted in (("CPU", self.cpus), ("GPU", self.gpus)):
            if wanted * self.workers > there.get(name, 0):
                raise PromptRecoveryError(
                    f"cluster.workers={self.workers} with {wanted:g} {name} each: the Ray cluster "
                    f"has {there.get(name, 0):g}; ask for fewer workers"
                )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        return ray


def _reach(address: str | None) -> None:
    """Raises OSError if nothing listens at the address. Ray itself would retry for 15 minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class _Worker:
    """Processes blocks of items in a worker.

    The message of a `PromptRecoveryError` is returned next to the results. If it were raised, Ray
    would report a traceback and lose the results that the block already has.
    """

    def __init__(self, make: Callable[[], Work[Any, Any]]) -> None:
        self._error = ""
        try:
            self._work = make()
        except PromptRecoveryError as error:
            self._error = str(error)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        [start], [items] = batch["start"], batch["items"]
        results: list[Any] = []
        error = self._error
        if not error:
            try:
                results.extend(self._work(pickle.loads(items)))
            except PromptRecoveryError as raised:
                error = str(raised)
        return {"start": [start], "results": [pickle.dumps(results)], "error": [error]}


class _ClusterRewriter:
    """A rewriter with an instance in every worker. The local one only gives its name and card."""

    def __init__(self, cluster: RayCluster, make: Callable[[], Rewriter]) -> None:
        self._cluster, self._make, self._own = cluster, make, make()

    @property
    def identity(self) -> str:
        return self._own.identity

    @property
    def name(self) -> str:
        return self._own.name

    def card(self) -> dict[str, str]:
        return self._own.card()

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        requests = list(zip(chats, seeds, strict=True))
        yield from self._cluster.each(requests, partial(_answering, self._make))

    def close(self) -> None:
        self._own.close()


def _answering(make: Callable[[], Rewriter]) -> Work[tuple[Chat, int], Answer]:
    rewriter = make()
    return lambda items: rewriter.answers([chat for chat, _ in items], [seed for _, seed in items])
