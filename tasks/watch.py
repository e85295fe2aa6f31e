"""Progress as a person sees it: a bar with rate and time left on a terminal, lines in a log, an artifact in Prefect."""

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tasks.progress_artifact import ProgressArtifact

_ARTIFACT_SECONDS = 5.0
_LINE_SECONDS = 15.0  # between lines where there is no terminal to draw a bar on
_QUIET_SECONDS = 2.0  # what takes less is not worth a line


class _RateColumn(ProgressColumn):
    """Units done a second, over the whole time so far, without what was done before."""

    def __init__(self, unit: str, done_before: int) -> None:
        super().__init__()
        self.unit = unit
        self.done_before = done_before

    def render(self, task: Task) -> Text:
        if task.fields["facts"]:  # which tell a rate that says more, and 80 columns are not for two
            return Text()
        return Text(
            _rate(task.completed - self.done_before, task.elapsed or 0.0, self.unit),
            style="progress.data.speed",
        )


class Watcher(Protocol):
    """Somebody who is told how far something is."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def advance(self, units: int, facts: str = "") -> None:
        """`units` more are done; `facts` is what else is worth a glance, such as the loss."""


class Watch:
    """`with Watch("ingesting", total=7, unit="shards") as watch: watch.advance(1)`.

    Draws to stderr. Within a flow run it also keeps a progress artifact under `artifact_key`, if one is given.
    """

    def __init__(
        self, what: str, *, unit: str, total: int, done: int = 0, artifact_key: str | None = None
    ) -> None:
        self.what = what
        self.unit = unit
        self.total = total
        self._done = self._done_before = done
        self._began = self._last_line = self._last_artifact = time.monotonic()
        self._artifact = ProgressArtifact.of_this_run(artifact_key, what) if artifact_key else None
        self._bar = _bar(unit, done) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, completed=self._done, facts="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif time.monotonic() - self._began > _QUIET_SECONDS:
            self._print_line()
        if self._artifact:
            if kind is None:
                self._artifact.finish(f"{self.what}: {self._line()}")
            self._artifact.close()

    def advance(self, units: int, facts: str = "") -> None:
        """`units` more are done; `facts` is what else is worth a glance, such as the loss."""
        self._done += units
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=self._done, facts=facts)
        elif now - self._last_line > _LINE_SECONDS:
            self._last_line = now
            self._print_line(facts)
        if self._artifact and now - self._last_artifact > _ARTIFACT_SECONDS:
            self._last_artifact = now
            self._artifact.tell(100.0 * self._done / max(1, self.total), f"{self.what}: {self._line(facts)}")

    def _line(self, facts: str = "") -> str:
        done, seconds = self._done - self._done_before, time.monotonic() - self._began
        amount = f"{_amount(self._done, self.unit)} of {_amount(self.total, self.unit)}"
        left = _left(self.total - self._done, done, seconds)
        return ", ".join(filter(None, [amount, _rate(done, seconds, self.unit), left, facts]))

    def _print_line(self, facts: str = "") -> None:
        print(f"{self.what}: {self._line(facts)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def pulse(what: str) -> Iterator[None]:
    """Shows that something of unknown length is going on, and how long it has taken."""
    began = time.monotonic()
    if sys.stderr.isatty():
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=16),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            bar.add_task(what, total=None)
            yield
    else:
        yield
        if time.monotonic() - began > _QUIET_SECONDS:
            print(f"{what}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def _bar(unit: str, done_before: int) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=16),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False, compact=True),
        _RateColumn(unit, done_before),
        TextColumn("{task.fields[facts]}", style="cyan"),
        console=Console(stderr=True),
        refresh_per_second=4,
    )


def _amount(number: float, unit: str) -> str:
    return decimal(int(number)) if unit == "bytes" else f"{number:,.0f} {unit}"


def _rate(done: float, seconds: float, unit: str) -> str:
    if not done or seconds < 0.1:
        return ""
    each = done / seconds
    return f"{decimal(int(each))}/s" if unit == "bytes" else f"{each:,.{0 if each >= 10 else 1}f} {unit}/s"


def _left(to_do: float, done: float, seconds: float) -> str:
    """How long the rest takes if it goes on so: 1:05 left; nothing at the end, or before there is a rate."""
    if to_do <= 0 or not done or seconds < 1:
        return ""
    minutes, rest = divmod(round(to_do * seconds / done), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"
