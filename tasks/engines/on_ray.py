"""Workers on a Ray cluster: each is a place for one call at a time, of which Ray decides where it is made."""

import contextlib
import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from storage.store import Store
from tasks.engines.site import Answer, EngineError, Place, answer_here, look, probing, program, refuse_other
from tasks.workers import WORKER_ENVIRONMENT, WorkerEnded

R = TypeVar("R")

_STOP_SECONDS = 10
_STORE_BYTES = 100 << 20  # of answers, which are small; Ray would take a third of the memory
_SETTINGS: dict[str, Any] = {
    "log_to_driver": False,
    "configure_logging": False,
    "logging_level": logging.ERROR,
    "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
}
# A cluster of this machine's processes is on loopback alone, which Ray has this switch for, and asks for a token that only we
# know. Ray reads all of it when it is imported.
_LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


def _imported(*, is_local: bool) -> Any:
    """Ray. Raises EngineError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if is_local:
        os.environ |= _LOCAL_ENVIRONMENT
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            f"engine ray needs a package that is not installed ({error}); install it: pip install 'brickroad[ray]'"
        ) from None
    return ray


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """What SIGTERM means is ours to say: Ray takes it for itself when it begins, if it may."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class RayCluster:
    """`with RayCluster(address, count, workspace) as cluster`: a running one, or one of `count` processes here that ends with the body."""

    def __init__(
        self, address: str | None, count: int | None, workspace: Path, store: Store | None = None
    ) -> None:
        self._address, self._count, self._workspace, self._store = address, count, workspace, store
        self.slots = 0
        self.shares_workspace = True

    def __enter__(self) -> Self:
        self._ray = ray = _imported(is_local=self._address is None)
        with contextlib.ExitStack() as stack:
            with _own_signals():
                stack.enter_context(self._connected() if self._address else self._local())
            self._answer = ray.remote(max_retries=0, num_cpus=1)(answer_here)
            self._refuse_other()
            self.slots = int(ray.cluster_resources().get("CPU", 0))
            if not self.slots:
                raise EngineError(
                    f"{self._address}: the Ray cluster has no CPU; start a node: ray start --address {self._address}"
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def worker(self) -> "_Place":
        """A place for one call at a time."""
        return _Place(self._ray, self._answer, str(self._workspace), is_local=self._address is None)

    @contextlib.contextmanager
    def _local(self) -> Iterator[None]:
        self._ray.init(
            num_cpus=self._count, include_dashboard=False, object_store_memory=_STORE_BYTES, **_SETTINGS
        )
        try:
            yield
        finally:
            self._ray.shutdown()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        ray = self._ray
        try:
            ray.init(address=self._address, **_SETTINGS)
        except Exception as error:  # of a dozen kinds: of its own, of gRPC, of sockets
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EngineError(
                f"{self._address}: no Ray cluster can be joined there ({reason}); name one such as host:6379, from one of its hosts"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()

    def _refuse_other(self) -> None:
        ray = self._ray
        with probing(self._workspace, self._store) as probe:
            on = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            look_there = ray.remote(max_retries=0, num_cpus=0)(look)
            asked = {
                node["NodeName"]: look_there.options(scheduling_strategy=on(node["NodeID"], soft=False))
                for node in ray.nodes()
                if node["Alive"] and node["Resources"].get("CPU")
            }
            found = {}
            for name, question in asked.items():
                try:
                    found[name] = ray.get(question.remote(probe))
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().splitlines()[-1]
                    raise EngineError(
                        f"node {name} has no brickroad such as this ({reason}); install the same there"
                    ) from None
            self.shares_workspace = refuse_other(found, probe)


class _Place(Place):
    """One call at a time, of which Ray decides where it is made."""

    def __init__(self, ray: Any, answer: Any, workspace: str, *, is_local: bool) -> None:
        super().__init__(is_local=is_local)
        self._ray, self._answer, self._workspace = ray, answer, workspace
        self._asked: Any = None
        errors = ray.exceptions
        self._ended = (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.TaskCancelledError,
            errors.LocalRayletDiedError,
        )

    def call(self, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        self._asked = self._answer.options(name=function.__name__).remote(
            program(), self._workspace, function, args, kwargs
        )
        try:
            answer: Answer = self._ray.get(self._asked)
        except self._ended as error:
            raise WorkerEnded(f"a Ray worker ended ({type(error).__name__})") from None
        finally:
            self._asked = None
        return self.result_of(answer)  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Ends the process that is at the call."""
        if (asked := self._asked) is not None:
            self._ray.cancel(asked, force=True)
            self._ray.wait([asked], timeout=_STOP_SECONDS)
