"""Which engine a build runs on, and its workers there."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from storage.store import Store
from tasks.sharing import AtStore
from tasks.workers import Workers, chosen_workers

Engine = Literal["threads", "dask", "ray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Where shards are read and encoded. It changes no byte of what is made, and is in no fingerprint.

    `engine` is threads (that lend out worker processes of this machine), dask or ray. `address` is that of a running cluster,
    such as tcp://host:8786 of Dask or host:6379 of Ray, which is left running; without one a cluster of this machine's
    processes is started, and ended with the build.
    """

    engine: Engine = "threads"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ("threads", "dask", "ray"):
            raise ValueError(f"engine {self.engine!r} is not known: choose threads, dask or ray")
        if self.address is not None and self.engine == "threads":
            raise ValueError(f"engine_address {self.address} is of a cluster; choose its engine, dask or ray")


@contextlib.contextmanager
def started_workers(
    engine: EngineConfig,
    workspace: Path,
    configured: int | None,
    memory_budget_bytes: int | None,
    store: Store | None = None,
) -> Iterator[Workers]:
    """The workers of a build, for the time of the body: so many as configured, else one a CPU, or all that a cluster has.

    With a store the hosts of a cluster may have workspaces of their own; then there are workers of this machine beside them,
    for what is done in ours. Raises ValueError for a budget that nobody here could keep, EngineError if the cluster cannot
    be used.
    """
    if engine.address is not None and memory_budget_bytes is not None:
        raise ValueError(
            "memory_budget is for processes of this machine; a running cluster has limits of its own"
        )
    count = None if engine.address else chosen_workers(configured, memory_budget_bytes)
    bind = AtStore(store=store, root=workspace, has_own=False).bound if store else None
    if engine.engine == "threads":
        assert count
        with Workers(count, memory_budget_bytes=memory_budget_bytes, bind=bind) as workers:
            yield workers
        return
    # Either takes a second to import, and is not installed unless somebody wants it.
    if engine.engine == "dask":
        from tasks.engines.on_dask import DaskCluster as Cluster
    else:
        from tasks.engines.on_ray import RayCluster as Cluster
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(engine.address, count, workspace, store))
        slots = min(configured, cluster.slots) if configured else cluster.slots
        here = None
        if store and not cluster.shares_workspace:
            here = stack.enter_context(Workers(chosen_workers(None), bind=bind))
            bind = AtStore(store=store, root=workspace, has_own=True).bound
        workers = Workers(
            slots, memory_budget_bytes=memory_budget_bytes, start=cluster.worker, bind=bind, here=here
        )
        yield stack.enter_context(workers)
