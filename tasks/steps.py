"""Who runs the steps of a build: whoever wants them watched, recorded or limited; or plain calls."""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from tasks.workers import Workers

P = ParamSpec("P")
R = TypeVar("R")


class Steps(Protocol):
    """Who runs the steps of a build, and tells what happens."""

    @property
    def log(self) -> "logging.Logger | logging.LoggerAdapter[Any]":
        """Where to say what a person should know."""

    def one(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What a step comes to."""

    def many(
        self,
        step: Callable[..., Sequence[R]],
        groups: Iterable[Sequence[Any]],
        *,
        total: int,
        workers: Workers,
        **settings: Any,
    ) -> Generator[R]:
        """What a step comes to for each of `total` items: `step(group, workers=…, **settings)`, some groups side by side.

        It may begin at once. The results come in the order of the items, each as soon as all before it are there. Closed before its end, it
        returns when nothing is being done any more.
        """


class PlainSteps:
    """Steps as they are: function calls, and threads for what goes side by side."""

    log = logging.getLogger("brickroad.dataset")

    def one(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What a step comes to."""
        return step(*args, **kwargs)

    def many(
        self,
        step: Callable[..., Sequence[R]],
        groups: Iterable[Sequence[Any]],
        *,
        total: int,
        workers: Workers,
        **settings: Any,
    ) -> Generator[R]:
        """As `Steps` says."""
        with (
            ThreadPoolExecutor(workers.count) as threads,
            contextlib.closing(
                threads.map(partial(step, workers=workers, **settings), groups)
            ) as results,  # what has not begun is cancelled
        ):
            for result in results:
                yield from result
