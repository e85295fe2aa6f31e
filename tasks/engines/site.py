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
    """What a process of a cluster is, and whether it sees what a build has just written."""

    host: str
    program: str
    sees_workspace: bool


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


def look(probe: Path, content: str) -> Site:
    """Says what this process is, and whether it finds a file with this content, and can write beside it."""
    sees = False
    with contextlib.suppress(OSError):
        beside = probe.with_name(f"{probe.name}-{socket.gethostname()}-{os.getpid()}")
        beside.touch()
        beside.unlink()
        sees = probe.read_text(encoding="utf-8") == content
    return Site(host=socket.gethostname(), program=program(), sees_workspace=sees)


def refuse_other(sites: dict[str, Site], probe: Path) -> None:
    """Raises EngineError if a process of a cluster is of another program, or does not see the workspace."""
    for name, site in sites.items():
        where = f"worker {name} on {site.host}"
        if site.program != program():
            raise EngineError(f"{where} has {site.program}; here is {program()}; install the same on both")
        if not site.sees_workspace:
            raise EngineError(
                f"{where} cannot write to {probe.parent}; put the workspace on a file system that all hosts share, under the same path"
            )


@contextlib.contextmanager
def probing(workspace: Path) -> Iterator[tuple[Path, str]]:
    """A file in the workspace, and its content, for the time of the body: who finds it sees this workspace."""
    workspace.mkdir(parents=True, exist_ok=True)
    content = os.urandom(16).hex()
    probe = workspace / f".probe-{content[:8]}"
    probe.write_text(content, encoding="utf-8")
    try:
        yield probe, content
    finally:
        probe.unlink()


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
