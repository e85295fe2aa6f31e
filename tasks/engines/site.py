"""What a process of a cluster must have in common with the build: this very program, and the workspace.

And what it does there: one call, whose errors come back as those of a worker process do.
"""

import contextlib
import functools
import hashlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import model
import storage
import tasks
from model import compiled
from storage.errors import StorageError
from storage.store import Store
from storage.workspace import own_workspace
from tasks.workers import answer

_LIBRARIES = ("numpy", "pyarrow", "gigatoken", "tokenizers", "rensa")  # what bytes may depend on


class EngineError(StorageError):
    """A cluster cannot be reached or used; nothing was done there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a call came to, and which process made it."""

    result: Any
    error: Exception | None
    process_id: int


class Place:
    """A place for one call at a time, somewhere on a cluster: what a worker is on either engine."""

    resident_bytes = 0  # the cluster's own affair

    def __init__(self, *, is_local: bool) -> None:
        self._is_local = is_local
        self.process_id: int | None = None

    def result_of(self, answer: Answer) -> Any:
        """What the call gave, and notes who made it, if that is a process of this machine. Raises what the call raised."""
        if self._is_local:
            self.process_id = answer.process_id
        if answer.error is not None:
            raise answer.error
        return answer.result


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a process of a cluster is, and whether it sees what a build has just written: in its workspace, and in its store
    if it has one; `store_trouble` says why not."""

    host: str
    program: str
    sees_workspace: bool
    store_trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A file that a build has just written to its workspace, and to its store if it has one, and its content."""

    path: Path
    content: str
    store: Store | None = None

    @property
    def key(self) -> str:
        """The same in the store."""
        return self.path.name


@functools.cache
def program() -> str:
    """What decides the bytes that are made here: our sources, compiled or not, and the libraries below them."""
    digest = hashlib.sha256()
    for package in (model, storage, tasks):
        root = Path(str(package.__file__)).parent
        for path in sorted([*root.rglob("*.py"), *root.rglob("*.c")]):
            digest.update(f"{path.relative_to(root.parent)}\0".encode() + path.read_bytes())
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    loops = "compiled" if compiled.loops else "not compiled"
    return f"brickroad {version('brickroad')} (sources {digest.hexdigest()[:12]}, {loops}) with {libraries}"


def look(probe: Probe) -> Site:
    """Says what this process is, and what it sees of a probe. With a store, its own workspace need not be the build's."""
    path = own_workspace(probe.path.parent) / probe.path.name if probe.store else probe.path
    sees = False
    with contextlib.suppress(OSError):
        beside = path.with_name(f"{path.name}-{socket.gethostname()}-{os.getpid()}")
        beside.touch()
        beside.unlink()
        sees = path.read_text(encoding="utf-8") == probe.content
    trouble = _store_trouble(probe, probe.store) if probe.store else ""
    return Site(host=socket.gethostname(), program=program(), sees_workspace=sees, store_trouble=trouble)


def _store_trouble(probe: Probe, store: Store) -> str:
    try:
        store.refuse_unusable()
        content = store.read(probe.key)
    except (StorageError, OSError) as error:
        return str(error)
    return "" if content == probe.content.encode() else f"{store.address} is another store there"


def refuse_other(sites: dict[str, Site], probe: Probe) -> bool:
    """Raises EngineError if a process of a cluster is of another program, or does not see what it must: the store if there is
    one, else the workspace. Returns whether all of them see the workspace."""
    for name, site in sites.items():
        where = f"worker {name} on {site.host}"
        if site.program != program():
            raise EngineError(f"{where} has {site.program}; here is {program()}; install the same on both")
        if site.store_trouble:
            raise EngineError(f"{where} does not reach the store: {site.store_trouble}")
        if not site.sees_workspace and not probe.store:
            raise EngineError(
                f"{where} cannot write to {probe.path.parent}; put the workspace on a file system that all hosts share, "
                "under the same path, or give a --store that all of them reach"
            )
    return all(site.sees_workspace for site in sites.values())


@contextlib.contextmanager
def probing(workspace: Path, store: Store | None) -> Iterator[Probe]:
    """A probe for the time of the body: who finds it sees this workspace, and this store."""
    workspace.mkdir(parents=True, exist_ok=True)
    content = os.urandom(16).hex()
    probe = Probe(path=workspace / f".probe-{content[:8]}", content=content, store=store)
    probe.path.write_text(content, encoding="utf-8")
    try:
        if store:
            store.write(probe.key, content.encode())
        yield probe
    finally:
        probe.path.unlink()
        if store:
            store.delete(probe.key)


_calls_of: Counter[str] = Counter()
_lock = threading.Lock()


def answer_here(
    expected: str, workspace: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Answer:
    """A build's call, made in this process, if this is the same program: a cluster may get new processes at any time."""
    if program() != expected:
        error = EngineError(f"a new worker on {socket.gethostname()} has {program()}; here is {expected}")
        return Answer(result=None, error=error, process_id=os.getpid())
    with _lock:
        _calls_of[workspace] += 1
    try:
        result, failure = answer(function, args, kwargs)
        return Answer(result=result, error=failure, process_id=os.getpid())
    finally:
        with _lock:
            _calls_of[workspace] -= 1


def calls_of(workspace: str) -> int:
    """How many calls of builds of a workspace this process is at."""
    return _calls_of[workspace]
