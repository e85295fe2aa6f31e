"""Workers on a Dask cluster: each is a place for one call at a time, of which Dask decides where it is made.

A call whose process was killed Dask makes again elsewhere, by itself, and gives up after some deaths.
"""

import contextlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from storage.store import Store
from tasks.engines.site import (
    Answer,
    EngineError,
    Place,
    answer_here,
    calls_of,
    look,
    probing,
    program,
    refuse_other,
)
from tasks.workers import WORKER_ENVIRONMENT, WorkerEnded

try:
    import dask
    import distributed
except ImportError as error:
    raise EngineError(
        f"engine dask needs a package that is not installed ({error}); install it: pip install 'brickroad[dask]'"
    ) from None

R = TypeVar("R")

_CONNECT_SECONDS = 20
_ASK_SECONDS = 0.1


class DaskCluster:
    """`with DaskCluster(address, count, workspace) as cluster`: a running one, or one of `count` processes here that ends with the body."""

    def __init__(
        self, address: str | None, count: int | None, workspace: Path, store: Store | None = None
    ) -> None:
        self._address, self._count, self._workspace, self._store = address, count, workspace, store
        self.slots = 0
        self.shares_workspace = True

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            where: Any = self._address or stack.enter_context(self._local())
            self._client = stack.enter_context(self._connected(where))
            self._refuse_other()
            if self._address and self.shares_workspace:
                self._wait_for_earlier_calls()  # of a build that was killed: they must not write into this one
                stack.callback(self._wait_for_earlier_calls)
            self.slots = sum(self._client.nthreads().values())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def worker(self) -> "_Place":
        """A place for one call at a time."""
        return _Place(self._client, str(self._workspace), is_local=self._address is None)

    def _local(self) -> Any:
        settings = {
            "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
            "distributed.worker.daemon": True,  # they end when we do
            "distributed.admin.log-format": "%(message)s",
        }
        with dask.config.set(settings):
            return distributed.LocalCluster(
                n_workers=self._count,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=0,  # what calls may take is our own affair
                silence_logs=50,
            )

    def _connected(self, where: Any) -> Any:
        try:
            client = distributed.Client(where, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:  # a time-out is an OSError
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise EngineError(
                f"{where}: no Dask scheduler answers there ({reason}); name one such as tcp://host:8786"
            ) from None
        try:
            client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except (TimeoutError, distributed.TimeoutError):
            client.close()
            raise EngineError(
                f"{where}: the Dask cluster has no worker; start one: dask worker {where}"
            ) from None
        return client

    def _refuse_other(self) -> None:
        with probing(self._workspace, self._store) as probe:
            found = self._client.run(look, probe, on_error="return")
        for name, site in found.items():
            if isinstance(site, BaseException):
                raise EngineError(
                    f"worker {name} has no brickroad such as this ({site}); install the same there"
                )
        self.shares_workspace = refuse_other(found, probe)

    def _wait_for_earlier_calls(self) -> None:
        """Returns when no process of the cluster is at a call of a build of this workspace: a thread cannot be ended."""
        while any(self._client.run(calls_of, str(self._workspace), on_error="ignore").values()):
            time.sleep(_ASK_SECONDS)


class _Place(Place):
    """One call at a time, of which Dask decides where it is made."""

    def __init__(self, client: Any, workspace: str, *, is_local: bool) -> None:
        super().__init__(is_local=is_local)
        self._client, self._workspace = client, workspace
        self._future: Any = None

    def call(self, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        key = f"{function.__name__}-{secrets.token_hex(8)}"
        try:
            self._future = self._client.submit(
                answer_here, program(), self._workspace, function, args, kwargs, key=key, pure=False
            )
            answer: Answer = self._future.result()
        except distributed.KilledWorker as error:
            raise WorkerEnded(str(error).splitlines()[0]) from None
        except distributed.client.FutureCancelledError:
            raise WorkerEnded("the call was cancelled on the Dask cluster") from None
        finally:
            self._future = None
        return self.result_of(answer)  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Cancels the call; what has begun on a running cluster is waited for when that is left."""
        if (future := self._future) is not None:
            future.cancel()
