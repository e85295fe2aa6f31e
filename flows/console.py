"""How commands speak: words to stderr, one JSON object to stdout if asked for, one line for an error, exit codes."""

import contextlib
import functools
import json
import shutil
import signal
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from storage.errors import StorageError

P = ParamSpec("P")

EXIT_FAILED = 1
_GO_ON = "what was finished is kept: type the same again to go on"

words = Console(stderr=True, highlight=False)


class Terminated(BaseException):
    """SIGTERM, as an exception: an unhandled signal would end the process without closing what it has started."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def command(function: Callable[P, Mapping[str, Any]]) -> Callable[P, None]:
    """A command that returns its facts: printed as one JSON object with `--json`; errors become one line and a code.

    A command whose facts have `ok` false has done its work, and found something wrong: exit 1.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json, debug = bool(kwargs.get("as_json")), bool(kwargs.get("debug"))
        signal.signal(signal.SIGTERM, _terminate)
        try:
            # Whatever a library prints is words: stdout is for our object alone.
            with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
                facts = function(*args, **kwargs)
            if as_json:
                print(json.dumps(facts, default=_plain, allow_nan=False))
            if facts.get("ok") is False:
                sys.exit(EXIT_FAILED)
        except typer.BadParameter:
            raise  # wrong usage, which Typer reports
        except BaseException as error:
            sys.exit(_report(error, debug))

    return run


def say(text: str) -> None:
    """A line for the person at the terminal."""
    words.print(text)


def table(title: str, rows: Mapping[str, str]) -> None:
    """Facts, one a line."""
    if title:  # by itself: as the table's own it would be broken at the table's width
        words.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
    shown = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in rows.items():
        shown.add_row(f"[dim]{name}[/dim]", value)
    words.print(shown)


def columns(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Facts in columns; all but the first are aligned right."""
    shown = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(header):
        shown.add_column(
            name, justify="left" if number == 0 else "right", overflow="fold", no_wrap=number == 0
        )
    for row in rows:
        shown.add_row(*row)
    words.print(shown)


def next_steps(*commands: str) -> None:
    """What to type next, with our program as it can be called from here."""
    words.print("[bold]Next[/bold]")
    for line in commands:
        words.print(f"  {escape(_program())} {escape(line)}", soft_wrap=True)


def _program() -> str:
    """`brickroad` if the shell finds it, else its path: `make run` activates no environment."""
    if shutil.which("brickroad"):
        return "brickroad"
    path = Path(sys.argv[0])
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def printable(text: str) -> str:
    """Text that a terminal can only show: a model may write control characters, which would drive the terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\ufffd" for c in text)


def size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration(seconds: float) -> str:
    """A time for a person."""
    minutes, hours = round(seconds / 60), seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:,.1f} days"


def _report(error: BaseException, debug: bool) -> int:
    """Says what went wrong, in one line, and returns the exit code."""
    if debug and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    match error:
        case SystemExit(code=code):
            return code if isinstance(code, int) else EXIT_FAILED
        case KeyboardInterrupt():
            line, code = f"interrupted; {_GO_ON}", 128 + signal.SIGINT
        case Terminated():
            line, code = f"terminated; {_GO_ON}", 128 + signal.SIGTERM
        case _ if hasattr(error, "signal_number"):  # a training that has saved, and says itself how to go on
            line, code = str(error), 128 + int(error.signal_number)
        case _ if type(error).__name__ == "CancelledRun":  # of Prefect, which takes a second to import
            line, code = str(error), 128 + signal.SIGTERM
        case OSError():
            line, code = _world_line(error), EXIT_FAILED
        case StorageError() | ValueError() | ArithmeticError():
            line, code = _first_line(error), EXIT_FAILED
        case _:
            line, code = f"{type(error).__name__}: {_first_line(error)} (--debug shows where)", EXIT_FAILED
    # soft_wrap: one line stays one line, so that it can be searched for
    words.print(f"[bold red]error:[/bold red] {escape(line)}", soft_wrap=True)
    return code


def _world_line(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    ways = {
        "No space left on device": "free some space, or choose another place with --workspace",
        "Read-only file system": "choose a place that can be written to with --workspace",
        "Permission denied": "choose a place that you may write to with --workspace",
        "Not a directory": "choose a folder with --workspace",
    }
    reason = error.strerror or str(error)
    return f"{place}{reason}" + (f"; {ways[reason]}" if reason in ways else "")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Shows that something is going on, where there is a terminal."""
    with words.status(text) if words.is_terminal else contextlib.nullcontext():
        yield
