"""What a stop of the tour shows, one kind of thing a class."""

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from matplotlib.figure import Figure

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Words:
    """What a guide would say, a paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Python that the stop runs, and where it stands in this repository."""

    source: str
    place: str

    @classmethod
    def of(cls, part: Callable[..., Any]) -> Self:
        """The source of a function or class that is run: what is shown cannot differ from what happens."""
        lines, first = inspect.getsourcelines(part)
        file = Path(inspect.getsourcefile(part) or "").relative_to(_ROOT)
        return cls(source=textwrap.dedent("".join(lines)).rstrip(), place=f"{file.as_posix()}:{first}")


@dataclass(frozen=True, slots=True)
class Printed:
    """Text as it came out, line by line."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names with what was measured or counted; numbers are kept as they are."""

    title: str = ""
    values: Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns; all but the first are numbers, or as short."""

    header: Sequence[str]
    rows: Sequence[Sequence[float | int | str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawing for the page; `in_characters` is what a terminal can show of it."""

    title: str
    figure: Figure
    in_characters: str = ""


Sight = Words | Code | Printed | Facts | Table | Picture


def amount(value: float | int | str) -> str:
    """A number as a person reads it; four digits of those that are not whole."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
