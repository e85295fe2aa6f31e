"""Stopping on request: SIGINT, SIGTERM and a flow's limit of time are noted, and end the work where nothing is lost by it."""

import contextlib
import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
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


class BrokenOff(BaseException):
    """What was being done was given up on request. Like KeyboardInterrupt no Exception: a compiler would swallow one."""


class StopRequests:
    """`with StopRequests() as stop: … if stop.signal_number: save and leave`. A second signal ends at once.

    A limit of time that was set outside, as an alarm, counts as SIGTERM; when the work has saved, it ends as that limit would
    have ended it. Outside the main thread signals cannot be caught, and nothing is noted.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._may_break_off: Callable[[], bool] | None = None
        self._earlier: dict[signal.Signals, signal._HANDLER] = {}
        self._on_alarm = signal.getsignal(signal.SIGALRM)
        self._is_out_of_time = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            alarms = [signal.SIGALRM] if callable(self._on_alarm) else []
            for number in (signal.SIGINT, signal.SIGTERM, *alarms):
                self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if self._is_out_of_time and kind in (None, InterruptedByUser) and callable(self._on_alarm):
            self._on_alarm(signal.SIGALRM, None)  # raises

    @contextlib.contextmanager
    def breaking_off(self, may_break_off: Callable[[], bool]) -> Iterator[None]:
        """Inside, a request does not wait until the work is done: BrokenOff is raised wherever it is, if it may be."""
        if self.signal_number is not None:
            raise BrokenOff
        self._may_break_off = may_break_off
        try:
            yield
        finally:
            self._may_break_off = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._is_out_of_time = number == signal.SIGALRM
        self.signal_number = signal.SIGTERM if self._is_out_of_time else number
        self._restore()
        if self._may_break_off is not None and self._may_break_off():
            self._may_break_off = None
            raise BrokenOff

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}
