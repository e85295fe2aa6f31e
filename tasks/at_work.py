"""A flow run at work: it holds a lease of its workspace, and ends when nobody can reach it any more or a person cancels it.

Prefect cancels runs that a worker has started, by their process. One that was typed at a terminal has no worker, so it asks by
itself whether it was cancelled; and one whose worker is dead could not be cancelled by anybody, so it saves and ends.
"""

import contextlib
import functools
import inspect
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar, cast

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import FlowRunContext, SettingsContext, get_settings_context
from prefect.events import emit_event
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY
from prefect.states import Cancelled

from storage.leases import HeldLease, take_lease
from storage.workspace import Workspace

P = ParamSpec("P")
R = TypeVar("R")

FLOW_RUN = "flow_run_id"
TRIES = "tries"

_STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
_LOOK_SECONDS = 1.0
_ASK_SECONDS = 5.0
_SAVING_SECONDS = 300.0  # for a checkpoint, after the worker has died
_OUTPUTS = (1, 2)  # stdout and stderr
_BEAT_SECONDS = 60.0  # between signs of life, by which tasks/overview.py knows who is silent
_is_within: ContextVar[bool] = ContextVar("_is_within", default=False)
_last: list[HeldLease] = []  # of the flow run before, in a process that makes several


def _without_hearts() -> SettingsContext:
    """In it no flow has Prefect's heartbeat, whose thread sleeps in whole seconds and is waited for: each flow would end half a
    second later. The overseer gives the signs of life. No environment variable can say it."""
    settings = get_settings_context()
    none = settings.settings.copy_with_update(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    return SettingsContext(profile=settings.profile, settings=none)


# When a flow is imported, since Prefect asks before its function begins. A worker's run may import it in another thread than it
# runs it in: then this holds for the flows within it alone.
_without_hearts().__enter__()


def leased(function: Callable[P, R]) -> Callable[P, R]:
    """The function of a flow, which is seen to be at work in its workspace while it runs. Flows within it are part of it."""
    signature, what = inspect.signature(function), function.__name__.replace("_", "-")

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        context = FlowRunContext.get()
        if _is_within.get() or context is None or context.flow_run is None:
            return function(*args, **kwargs)
        facts = {FLOW_RUN: str(context.flow_run.id), TRIES: str(context.flow_run.run_count)}
        _take(Workspace.at(signature.bind(*args, **kwargs).arguments.get("workspace")), what, facts)
        token = _is_within.set(True)
        try:
            with _Overseer(facts[FLOW_RUN], context.flow_run.name) as overseer, _without_hearts():
                try:
                    return function(*args, **kwargs)
                except BaseException as error:
                    if not overseer.is_cancelled:
                        raise
                    # A state is what Prefect takes as the run's end; whoever called the flow gets CancelledRun.
                    return cast(R, Cancelled(message=f"cancelled by a person; {error}".rstrip("; ")))
        finally:
            _is_within.reset(token)

    return run


def _take(workspace: Workspace, what: str, facts: dict[str, str]) -> None:
    """A lease that is held until the process ends, or another flow run begins in it: Prefect hears of a flow run's end
    after its function has ended, and dies with the process if that is killed in between."""
    while _last:
        _last.pop().release()
    _last.append(take_lease(workspace.leases, what, facts))


class _Overseer:
    """Ends this process as SIGTERM would, if its worker has died, or its flow run was cancelled without one. Gives signs of life."""

    def __init__(self, flow_run_id: str, name: str) -> None:
        self.is_cancelled = False
        self._flow_run_id = flow_run_id
        self._resource = {
            "prefect.resource.id": f"prefect.flow-run.{flow_run_id}",
            "prefect.resource.name": name,
        }
        self._last_beat = time.monotonic()  # it has just begun, which says enough
        self._is_over = threading.Event()
        # With the settings of whoever calls, of which Prefect's address is one.
        look = copy_context().run
        self._looking = threading.Thread(target=look, args=(self._look,), daemon=True, name="overseer")

    def __enter__(self) -> "_Overseer":
        if threading.current_thread() is threading.main_thread():  # else no signal reaches the flow
            self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def _look(self) -> None:
        if os.environ.get(_STARTED_BY_WORKER) == self._flow_run_id:
            self._until_the_worker_is_dead()
        else:
            self._until_cancelled()

    def _until_the_worker_is_dead(self) -> None:
        parent = os.getppid()
        with _readable_outputs():
            while not self._is_over.wait(_LOOK_SECONDS):
                self._beat()
                if os.getppid() != parent:
                    _say_nothing_more()
                    os.kill(os.getpid(), signal.SIGTERM)  # it saves, and ends
                    if not self._is_over.wait(_SAVING_SECONDS):
                        os.kill(os.getpid(), signal.SIGKILL)
                    return

    def _until_cancelled(self) -> None:
        with get_client(sync_client=True) as client:  # to make one costs ten times what a question does
            while not self._is_over.wait(_ASK_SECONDS):
                self._beat()
                if self._is_cancelling(client) and not self._is_over.is_set():
                    self.is_cancelled = True
                    with contextlib.suppress(OSError):  # nobody may be there to read it
                        print("This flow run was cancelled: it saves, and ends.", file=sys.stderr)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    def _is_cancelling(self, client: SyncPrefectClient) -> bool:
        with contextlib.suppress(Exception):  # the server is busy, or down: it is asked again
            state = client.read_flow_run(cast(Any, self._flow_run_id)).state
            return state is not None and state.is_cancelling()
        return False

    def _beat(self) -> None:
        if time.monotonic() - self._last_beat > _BEAT_SECONDS:
            self._last_beat = time.monotonic()
            with contextlib.suppress(Exception):  # a sign that cannot be given must not end the watch
                emit_event("prefect.flow-run.heartbeat", self._resource)  # by a thread of Prefect's


@contextlib.contextmanager
def _readable_outputs() -> Iterator[None]:
    """In it nothing that this process prints is an error, though the worker, which reads it, dies: else the first line after
    that were one, and a training would end without having saved. Where /proc is (Linux); what is no pipe needs no reader."""
    with contextlib.ExitStack() as stack:
        for output in _OUTPUTS:
            with contextlib.suppress(OSError):
                if stat.S_ISFIFO(os.fstat(output).st_mode):
                    reader = os.open(f"/proc/self/fd/{output}", os.O_RDONLY | os.O_NONBLOCK)
                    stack.callback(os.close, reader)
        yield


def _say_nothing_more() -> None:
    """Nobody reads what is printed, and a pipe that is full would hold up who prints."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in _OUTPUTS:
        os.dup2(nowhere, output)
    os.close(nowhere)
