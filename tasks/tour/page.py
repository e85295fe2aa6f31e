"""What a stop showed, as a page of its own that needs no network, and a page that lists them."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from storage.files import atomic_file
from tasks.pages import render_page
from tasks.pictures import as_svg
from tasks.tour.sights import Picture, Printed, Sight, amount
from tasks.tour.stops import STOPS, Stop


def write_page(folder: Path, stop: Stop, sights: Sequence[Sight]) -> Path:
    """Writes the page of a stop, and the list of all that have one by now; returns the page's path."""
    page = folder / f"{stop.name}.html"
    folder.mkdir(parents=True, exist_ok=True)
    shown = [(type(sight).__name__, _for_page(sight)) for sight in _joined(sights)]
    number = STOPS.index(stop) + 1
    _write(page, render_page("tour_stop.html", stop=stop, number=number, sights=shown, amount=amount))
    there = [(one, (folder / f"{one.name}.html").is_file()) for one in STOPS]
    _write(folder / "index.html", render_page("tour.html", stops=there))
    return page


def _write(path: Path, html: str) -> None:
    with atomic_file(path) as file:
        file.write(html.encode())


def _joined(sights: Iterable[Sight]) -> Iterator[Sight]:
    """The sights, with what was printed in a row in one piece."""
    for kind, some in itertools.groupby(sights, type):
        if kind is Printed:
            yield Printed("\n".join(sight.text for sight in some if isinstance(sight, Printed)))
        else:
            yield from some


def _for_page(sight: Sight) -> object:
    """The sight, or of a picture its title and drawing."""
    return (sight.title, Markup(as_svg(sight.figure))) if isinstance(sight, Picture) else sight  # nosec B704 # a picture drawn here from numbers
