"""What the pages of data sets and evaluations are made with: templates, bars, sizes. Each is one file that needs no network."""

from dataclasses import dataclass
from typing import Any

import jinja2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One line of a chart: what, how much, and its share of the longest."""

    label: str
    amount: str
    share: float


def render_page(template: str, **values: Any) -> str:
    """A page of a template in `tasks/templates`; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = in_bytes
    return environment.get_template(template).render(**values)


def in_bytes(count: float) -> str:
    """A number of bytes as a person reads it: 12 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return (
                f"{count:,.0f} {unit}"
                if unit == "B" or count >= 10 or count == int(count)
                else f"{count:,.1f} {unit}"
            )
        count /= 1024
    return f"{count:,.1f} TiB"
