"""How much memory a build takes, all of its processes together, and how much it may take."""

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import psutil

_LOOK_SECONDS = 0.1


class MemoryWatch:
    """`with MemoryWatch(workers.process_ids) as memory: …; memory.peak_bytes`.

    Counts proportional set size where the system tells it (Linux): memory that processes share counts once, and the page
    cache of a mapped file does not count as anybody's twice. Elsewhere resident size.
    """

    def __init__(self, others: Callable[[], list[int]]) -> None:
        self.peak_bytes = 0
        self._most_resident_bytes = 0
        self._others = others
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.look()
        self._ended.set()
        self._thread.join()

    def look(self) -> None:
        """Takes one reading."""
        processes = [os.getpid(), *self._others()]
        resident = _total(processes, lambda process: process.memory_info().rss)
        # Resident sizes count what is shared more than once, but are told a hundred times as fast; and there is no new
        # peak of the one without one of the other. One of less than a hundredth is not looked at.
        if resident > 1.01 * self._most_resident_bytes:
            self._most_resident_bytes = resident
            self.peak_bytes = max(self.peak_bytes, _total(processes, _proportional_bytes))

    def _look_on(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self.look()


@contextlib.contextmanager
def frozen_heap() -> Iterator[None]:
    """Objects that are there already, which are mostly those of imported libraries, are not looked through for garbage.

    Python does so each time that many objects have come: with Prefect imported, a sixth of a small build.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _total(processes: list[int], measure: Callable[[psutil.Process], int]) -> int:
    total = 0
    for process_id in processes:
        try:
            total += measure(psutil.Process(process_id))
        except psutil.Error:  # it ended a moment ago
            continue
    return total


def _proportional_bytes(process: psutil.Process) -> int:
    return int(process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss)
