"""The terminal's side of `brickroad tour`: a stop's sights as they come, and a pause between stops."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.padding import Padding
from rich.syntax import Syntax

from flows.console import columns, printable, say, table, words
from tasks.tour.ground import Ground
from tasks.tour.page import write_page
from tasks.tour.sights import Code, Facts, Picture, Printed, Sight, Table, Words, amount
from tasks.tour.stops import STOPS, Stop


def walk_through(stops: Sequence[Stop], ground: Ground) -> list[Mapping[str, Any]]:
    """Shows the stops one after another, and what each measured; at a terminal Enter goes on, and q ends the tour."""
    facts = []
    for stop in stops:
        facts.append(_visit(stop, ground))
        if stop is not stops[-1] and not _goes_on():
            break
    return facts


def _visit(stop: Stop, ground: Ground) -> Mapping[str, Any]:
    """Shows a stop, and writes its page."""
    words.rule(f"[bold]{STOPS.index(stop) + 1} of {len(STOPS)}[/bold] · {escape(stop.name)}", align="left")
    say(f"[bold]{escape(stop.title)}[/bold]")
    began, sights = time.monotonic(), list[Sight]()
    for sight in stop.walk(ground):
        sights.append(sight)
        _show(sight)
    page = write_page(ground.folder, stop, sights)
    seconds = time.monotonic() - began
    say(f"\n[dim]{seconds:.0f} s. With its pictures: {escape(str(page))}[/dim]\n")
    measured = {
        name: value for sight in sights if isinstance(sight, Facts) for name, value in sight.values.items()
    }
    return {"name": stop.name, "title": stop.title, "seconds": seconds, "page": str(page), "facts": measured}


def _show(sight: Sight) -> None:
    """One sight, as well as a terminal can."""
    match sight:
        case Words(text):
            say(f"\n{escape(text)}\n")
        case Code(source, place):
            say(f"  [dim]{escape(place)}[/dim]")
            shown = Syntax(source, "python", theme="ansi_dark", background_color="default", word_wrap=True)
            words.print(Padding(shown, (0, 0, 1, 2), expand=False))
        case Printed(text):
            words.print(Padding(escape(printable(text)), (0, 0, 0, 2), expand=False))
        case Facts():
            table(
                sight.title, {name: escape(printable(amount(value))) for name, value in sight.values.items()}
            )
        case Table():
            rows = [[escape(printable(amount(value))) for value in row] for row in sight.rows]
            columns("", list(sight.header), rows)
        case Picture():
            say(f"\n{escape(sight.title)}" + ("" if sight.in_characters else " [dim](on the page)[/dim]"))
            if sight.in_characters:
                words.print(Padding(escape(sight.in_characters), (0, 0, 0, 2), expand=False))


def _goes_on() -> bool:
    """Waits for Enter where somebody can press it."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    try:
        words.print("[bold]Enter[/bold] goes on, q ends: ", end="")
        return input().strip().lower() not in ("q", "quit")
    except EOFError:
        return False
