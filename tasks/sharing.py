"""What a build shares through a store: what others have made is brought here, and what was made here is put there."""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from storage.datasets import Dataset, read_dataset
from storage.documents.parts import DocumentPart
from storage.documents.shared import bring_part, bring_record, is_here, listed_parts, put_part
from storage.shared_datasets import SharedDataset, fetch_dataset, put_dataset
from storage.store import Store
from storage.workspace import Workspace, own_workspace
from tasks.watch import Watch, pulse

R = TypeVar("R")

_AT_ONCE = 16  # requests, which mostly wait


@dataclass(frozen=True, slots=True, kw_only=True)
class AtStore:
    """Where a worker of a build works: with this store, and in a workspace that is the build's, whose folder is `root`, or
    `has_own`, which is another folder or on another host."""

    store: Store
    root: Path
    has_own: bool

    def workspace(self) -> Path:
        """The folder of the workspace of this process."""
        return own_workspace(self.root) if self.has_own else self.root

    def bound(self, function: Callable[..., R]) -> Callable[..., R]:
        """The function as a worker is to call it: with the stored texts it is asked about at hand, in its own workspace."""
        bound: functools.partial[R] = functools.partial(_call_at, self, function)
        return functools.update_wrapper(bound, function)


def _call_at(at: AtStore, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    here = at.workspace()
    args = _moved(args, at.root, here)
    for part in _parts_in(args):
        bring_part(part, at.store)
    result: R = _moved(function(*args, **kwargs), here, at.root)
    return result


def _moved(value: Any, before: Path, now: Path) -> Any:
    """The same, with the paths below one workspace as they are below another."""
    if before == now:
        return value
    if isinstance(value, Path):
        return now / value.relative_to(before) if value.is_relative_to(before) else value
    if isinstance(value, list | tuple):
        return type(value)(_moved(one, before, now) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        values = {each.name: getattr(value, each.name) for each in fields(value)}
        moved = {name: _moved(one, before, now) for name, one in values.items()}
        return replace(value, **{name: one for name, one in moved.items() if one is not values[name]})
    return value


def _parts_in(value: Any) -> Iterator[DocumentPart]:
    """The stored texts that a call is about."""
    if isinstance(value, DocumentPart):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _parts_in(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from _parts_in(getattr(value, each.name))


def share_texts(parts: Sequence[DocumentPart], store: Store) -> None:
    """Puts those stored texts into the store that are here and not there."""
    there = listed_parts(store)
    missing = [part for part in parts if part.path.name not in there and is_here(part)]
    with (
        Watch("share texts", total=len(missing), unit="shards") as watch,
        ThreadPoolExecutor(_AT_ONCE) as threads,
    ):
        for _ in threads.map(lambda part: put_part(part, store), missing):
            watch.advance(1)


def bring_records(parts: Sequence[DocumentPart], store: Store) -> None:
    """Brings the records of stored texts here; the texts come when somebody is to read them."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for _ in threads.map(lambda part: bring_record(part, store), parts):
            pass


def share_dataset(dataset: Dataset, inputs_fingerprint: str, store: Store) -> None:
    """Puts a finished data set into the store."""
    with pulse("share"):
        put_dataset(dataset, inputs_fingerprint, store)


def bring_dataset(shared: SharedDataset, workspace: Workspace, inputs_fingerprint: str = "") -> Dataset:
    """A data set of a store, here."""
    coming = fetch_dataset(shared, workspace, inputs_fingerprint)
    if total := next(coming, 0):
        with Watch("fetch", total=total, unit="bytes", artifact_key="fetch") as watch:
            for size in coming:
                watch.advance(size)
    return read_dataset(workspace.datasets / shared.name / shared.digest)
