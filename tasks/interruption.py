"""Stopping on request: SIGINT and SIGTERM are noted, and the loop ends where everything can be saved."""

import ctypes
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent dies


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """To be called in a child: even a parent that is killed by SIGKILL takes it along, where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


class InterruptedByUser(Exception):
    """The work was asked to stop, and has saved what it had. `signal_number` is what asked."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StopRequests:
    """`with StopRequests() as stop: … if stop.signal_number: save and leave`. A second signal ends at once.

    Outside the main thread signals cannot be caught, and nothing is noted.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._earlier: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}
