"""Waiting for what may never answer."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, action: Callable[[], T]) -> T:
    """What an action returns or raises, if it is over in time; else TimeoutError, and it is left alone on a thread that ends with the process."""
    return begun(action).result(seconds)


def begun(action: Callable[[], T]) -> "Future[T]":
    """An action on a thread of its own, which does not hold the process when that wants to end. It sees the context of the caller."""
    outcome, context = Future[T](), contextvars.copy_context()

    def run() -> None:
        try:
            outcome.set_result(context.run(action))
        except BaseException as error:  # raised again where the result is asked for
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome
