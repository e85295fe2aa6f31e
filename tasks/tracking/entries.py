"""What a training tells MLflow, as entries of its journal: plain values, complete in themselves, in the order they came."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Points of curves at a step. With their time they are the same points however often they are told."""

    step: int
    at_ms: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text file among the run's artifacts."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The run goes on, with these tags."""

    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """There is a checkpoint of this step, with these metrics on this data set."""

    step: int
    metrics: Mapping[str, float]
    dataset_name: str
    dataset_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """The checkpoint of this step is not kept."""

    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The run is over, as FINISHED, FAILED or KILLED."""

    status: str
    at_ms: int


Entry = Points | Text | Resumed | Saved | Dropped | Ended

_KINDS: dict[str, type[Entry]] = {
    kind.__name__.lower(): kind for kind in (Points, Text, Resumed, Saved, Dropped, Ended)
}


def to_fields(entry: Entry) -> dict[str, Any]:
    """An entry as a line of a journal has it."""
    return {"kind": type(entry).__name__.lower()} | asdict(entry)


def from_fields(fields: dict[str, Any] | None) -> Entry | None:
    """The entry of a line; None if it is damaged, or of a kind that this version does not know."""
    if fields is None or fields.get("kind") not in _KINDS:
        return None
    try:
        return _KINDS[fields["kind"]](**{key: value for key, value in fields.items() if key != "kind"})
    except TypeError:
        return None
