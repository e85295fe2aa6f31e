"""Worker processes: functions run side by side, each in a process of its own, which may die without taking the rest along.

A worker is a plain child process with one connection to us, or a place on a cluster (tasks/engines/). Threads borrow idle
workers, so the parallelism of the caller is that of its threads. A worker that is killed costs the one call it was at, which
is made again, once.
"""

import contextlib
import functools
import logging
import math
import os
import signal
import subprocess  # nosec B404 # programs of ours are started, each without a shell
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

import psutil

from storage.errors import StorageError

P = ParamSpec("P")
R = TypeVar("R")

_LIMIT_WITHOUT_BUDGET_BYTES = 1 << 30
_IN_FLIGHT_A_WORKER = 2  # one being worked on, one waiting
_SERVE = "import sys; from tasks.workers import serve; serve(int(sys.argv[1]))"
# What a worker has freed it needs again for the next shard: given back to the system each time, as glibc does with large
# pieces, it would cost a page fault every 4 KiB. More than 16 MiB of it was for a shard that was larger than most.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # pages of 2 MiB where there are some: fewer faults
    "OPENBLAS_NUM_THREADS": "1",  # threads that numpy would start, which nothing here uses
}
_log = logging.getLogger("brickroad.workers")


class WorkerDied(StorageError):
    """A worker process ended in the middle of its work, and so did the one that took its place."""


# What a worker takes with shards of ordinary size: Python, numpy, pyarrow, an encoder with its cache, a shard's text.
WORKER_BYTES = 384 << 20


def chosen_workers(configured: int | None, memory_budget_bytes: int | None = None) -> int:
    """Workers to use: as configured, else one for each CPU that this process may use; fewer if memory is short.

    Raises ValueError if the budget has no room for one.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = configured or available or 1
    if memory_budget_bytes is None:
        return wanted
    own = resident_bytes()
    if memory_budget_bytes < own + WORKER_BYTES:
        least = (own + WORKER_BYTES) / 1e9
        raise ValueError(
            f"memory_budget is {memory_budget_bytes / 1e9:.2f} GB; one worker and this process need {least:.2f} GB"
        )
    return min(wanted, (memory_budget_bytes - own) // WORKER_BYTES)


class WorkerEnded(Exception):
    """The process is no more, and what it was at is not done."""


class Worker(Protocol):
    """Whoever makes one call at a time, in a process that is not ours."""

    #: Memory after the last call, if that is ours to watch.
    resident_bytes: int

    @property
    def process_id(self) -> int | None:
        """The process, if it is of this machine and known."""

    def call(self, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """What the function gives, or raises. Raises WorkerEnded if it was not called to its end."""

    def stop(self) -> None:
        """Ends the worker, and the call that it is at."""


class Workers:
    """`with Workers(4) as workers: workers.run(function, argument)`. Leaving the context ends the processes.

    Functions and arguments travel by pickle between processes of this same program; nothing is read from disk that way.
    With a memory budget, for this process and all workers, a call that needs much of it waits until that is free, and a
    worker that has grown beyond its share is replaced after its call.
    """

    def __init__(
        self,
        count: int,
        *,
        memory_budget_bytes: int | None = None,
        start: Callable[[], Worker] | None = None,
        bind: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
        here: "Workers | None" = None,
    ) -> None:
        """`start` gives a new worker; by default a child process. `bind` makes of a function what a worker is to call.

        `here` are workers of this machine, if these are of hosts that have workspaces of their own; else they are these.
        """
        self.count = count
        self.here = here or self
        self._bind = bind
        self._new_worker = start or _ChildProcess
        #: Beyond ordinary use, free for calls that need more; without a budget there is no end of it.
        self._spare_bytes: float = math.inf
        self.resident_limit_bytes = _LIMIT_WITHOUT_BUDGET_BYTES
        if memory_budget_bytes is not None:
            self._spare_bytes = memory_budget_bytes - resident_bytes() - count * WORKER_BYTES
            self.resident_limit_bytes = WORKER_BYTES
        self._all_spare_bytes = self._spare_bytes
        self._memory_is_free = threading.Condition()
        self.deaths: list[str] = []
        self._idle = _FairQueue()
        self._running: set[Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        for _ in range(self.count):
            self._idle.put(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends all workers at once, and the calls that they are at."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, set()
        for worker in running:
            worker.stop()

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of a function, called in a worker as soon as one is idle. Its errors are raised here.

        Raises WorkerDied if two workers end before they answer.
        """
        ended, bound = "", self._bind(function) if self._bind else function
        for _ in range(2):
            worker = self._idle.get()
            try:
                if worker is None or self._closed:
                    raise WorkerDied("the workers were stopped")
                return worker.call(bound, args, kwargs)
            except WorkerEnded as error:
                ended = str(error)
                self._replace(worker, ended, function, args)
                worker = None
            finally:
                self._give_back(worker)
        raise WorkerDied(
            f"{_what(function, args)}: {ended}, twice; if memory ran out, use fewer --workers or a smaller --memory-budget"
        )

    def largest_piece(self, copies: int) -> int | None:
        """The largest thing of which a worker may have so many copies in memory; None if there is no limit."""
        if self._all_spare_bytes == math.inf:
            return None
        return int((self._all_spare_bytes + WORKER_BYTES // 2) / copies)

    @contextlib.contextmanager
    def memory(self, needed_bytes: int) -> Iterator[None]:
        """Holds memory for a call that needs more than a worker ordinarily has; waits for it, and for all of it alone
        if it is more than there is."""
        needed = min(max(0, needed_bytes - WORKER_BYTES // 2), self._all_spare_bytes)
        with self._memory_is_free:
            self._memory_is_free.wait_for(lambda: needed <= self._spare_bytes)
            self._spare_bytes -= needed
        try:
            yield
        finally:
            with self._memory_is_free:
                self._spare_bytes += needed
                self._memory_is_free.notify_all()

    def map(self, function: Callable[..., R], arguments: Iterable[tuple[Any, ...]]) -> Iterator[R]:
        """The results for each tuple of arguments, in order; arguments are taken as workers get ready for them."""
        with ThreadPoolExecutor(self.count) as threads:
            waiting: deque[Future[R]] = deque()
            try:
                for args in arguments:
                    waiting.append(threads.submit(self.run, function, *args))
                    if len(waiting) >= self.count * _IN_FLIGHT_A_WORKER:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def process_ids(self) -> list[int]:
        """The processes that are running now."""
        with self._lock:
            found = [worker.process_id for worker in self._running]
        others = self.here.process_ids() if self.here is not self else []
        return [process for process in found if process is not None] + others

    def _start(self) -> Worker | None:
        with self._lock:
            if self._closed:
                return None
            worker = self._new_worker()
            self._running.add(worker)
        return worker

    def _give_back(self, worker: Worker | None) -> None:
        if worker and worker.resident_bytes > self.resident_limit_bytes:
            self._forget(worker)
            worker = None
        self._idle.put(worker or self._start())

    def _replace(
        self, worker: Worker, ended: str, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self._forget(worker)
        if not self._closed:
            self.deaths.append(f"{ended} at {_what(function, args)}")
            _log.warning("%s; another one does its work", self.deaths[-1])

    def _forget(self, worker: Worker) -> None:
        worker.stop()
        with self._lock:
            self._running.discard(worker)


class _FairQueue:
    """Idle workers, handed to callers in the order they came, and the last one first, whose memory is still warm.

    With `queue`, a caller that gives a worker back and wants one again is faster than those that wait.
    """

    def __init__(self) -> None:
        self._idle: list[Worker | None] = []
        self._waiting: deque[Future[Worker | None]] = deque()
        self._lock = threading.Lock()

    def put(self, worker: Worker | None) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set_result(worker)
            else:
                self._idle.append(worker)

    def get(self) -> Worker | None:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            turn: Future[Worker | None] = Future()
            self._waiting.append(turn)
        return turn.result()


class _ChildProcess:
    """One child process and the connection to it. It ends when we do: its standard input is a pipe that only we hold."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        self.resident_bytes = 0
        self.process = subprocess.Popen(  # nosec B603 # this Python, and code of ours; no shell
            [sys.executable, "-c", _SERVE, str(theirs.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env=os.environ | WORKER_ENVIRONMENT,
        )
        theirs.close()

    @property
    def process_id(self) -> int:
        return self.process.pid

    def call(self, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        try:
            self._connection.send((function, args, kwargs))
            result, error, self.resident_bytes = self._connection.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise WorkerEnded(f"worker process {self.process.pid} {how}") from None
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            self._connection.close()
        assert self.process.stdin
        self.process.stdin.close()


def _what(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """A call as a person would name it: by its first argument, which is a shard or a part, or some shards."""
    first, more = args[0] if args else "", ""
    if isinstance(first, list) and first:
        first, more = first[0], f" and {len(first) - 1} more" if len(first) > 1 else ""
    return f"{function.__name__} {getattr(first, 'name', None) or getattr(first, 'path', first)}{more}"


# --- in the worker ----------------------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Answers calls until the connection is closed."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides what it means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, args, kwargs = connection.recv()
            connection.send((*answer(function, args, kwargs), resident_bytes()))


def _end_with_parent() -> None:
    """Ends this process as soon as the parent is gone, however it went."""
    while os.read(0, 1):
        pass
    os._exit(1)


def answer(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Exception | None]:
    """What a function gives, or raises, with where it did so."""
    try:
        return function(*args, **kwargs), None
    except Exception as error:
        error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
        return None, error


def resident_bytes() -> int:
    """Memory of this process that is resident now."""
    return int(_this_process().memory_info().rss)


@functools.cache
def _this_process() -> psutil.Process:
    return psutil.Process()
