"""Leases: who is at work in a workspace. A small file each, locked by whom it names for as long as that process lives.

    <workspace>/leases/<id>.json    what, facts on it, host, boot, process, when it began

The kernel drops the lock with the process, however that ends: who gets the lock knows that the holder is dead. There is no
heartbeat and no time-out, so a process that is healthy is never taken for dead, be it stopped, swapped out or slow. A holder
removes no lease: a sweeper does, after it has seen to what the holder has left.
"""

import fcntl
import functools
import json
import os
import secrets
import socket
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from storage.errors import StorageError
from storage.files import PARTIAL_SUFFIX, named_errors, write_json

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_held_here: "weakref.WeakSet[HeldLease]" = weakref.WeakSet()

#: alive: its process holds it · dead: nobody does · elsewhere: unlocked as far as this machine can tell, but of another one
Standing = Literal["alive", "dead", "elsewhere"]


class LeaseError(StorageError):
    """A lease cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a process says of its work. `boot` is the machine's since it was started; hosts in containers have one in common."""

    id: str
    what: str
    facts: Mapping[str, str]
    host: str
    boot: str
    pid: int
    began_at: float  # seconds since 1970

    def is_of_this_machine(self) -> bool:
        """Whether this machine's kernel knows of the lock, or would if it had not been started anew since."""
        return self.boot == boot_id() or self.host == socket.gethostname()

    def __str__(self) -> str:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.began_at))
        return f"{self.what} by process {self.pid} on {self.host}, begun {began}"


class HeldLease:
    """A lease that this process holds, until `release`, or its end. Children do not: exec closes it, and so does fork."""

    def __init__(self, lease: Lease, handle: BinaryIO) -> None:
        self.lease = lease
        self._handle = handle
        _held_here.add(self)

    def release(self) -> None:
        """The work is over; whether all know of it a sweeper will see."""
        self._handle.close()


def take_lease(folder: Path, what: str, facts: Mapping[str, str]) -> HeldLease:
    """A lease of this process, which has its name only when it is locked: no sweeper finds it otherwise."""
    _let_go_in_forks()
    folder.mkdir(parents=True, exist_ok=True)
    lease = Lease(
        id=secrets.token_hex(16),
        what=what,
        facts=facts,
        host=socket.gethostname(),
        boot=boot_id(),
        pid=os.getpid(),
        began_at=time.time(),
    )
    temporary = folder / f".{lease.id}{PARTIAL_SUFFIX}"
    with named_errors(temporary), ExitStack() as undoing:
        handle = undoing.enter_context(temporary.open("xb"))
        undoing.callback(temporary.unlink, missing_ok=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.write(json.dumps(asdict(lease)).encode())
        handle.flush()
        os.fsync(handle.fileno())
        temporary.rename(_path(folder, lease.id))
        undoing.pop_all()
    return HeldLease(lease, handle)


def leases(folder: Path) -> list[tuple[Lease, Standing]]:
    """All leases and how they stand, the oldest first."""
    found = list[tuple[Lease, Standing]]()
    for path in folder.glob("*.json"):
        with suppress(FileNotFoundError), _opened(path) as (lease, is_free):
            found.append((lease, _standing(lease, is_free)))
    return sorted(found, key=lambda one: one[0].began_at)


def dead_leases(folder: Path) -> Iterator[Lease]:
    """Leases whose process is no more, each locked by us while it is seen to: of two sweepers one sees to it."""
    for path in sorted(folder.glob("*.json")):
        with suppress(FileNotFoundError), _opened(path) as (lease, is_free):
            if _standing(lease, is_free) == "dead":
                yield lease


def is_alive(folder: Path, lease_id: str) -> Lease | None:
    """The lease of that id if its process lives, or might on a machine that cannot be asked."""
    with suppress(FileNotFoundError), _opened(_path(folder, lease_id)) as (lease, is_free):
        return None if _standing(lease, is_free) == "dead" else lease
    return None


def inherit_leases(folder: Path, host: str) -> list[Lease]:
    """The leases of a host that is no more, as a person says: from now on they are of this machine, so that those that nobody
    holds are dead. Raises ValueError if no lease is of that host."""
    elsewhere = [lease for lease, how in leases(folder) if how == "elsewhere"]
    found = [lease for lease in elsewhere if lease.host == host]
    if not found:
        hosts = ", ".join(sorted({lease.host for lease in elsewhere})) or "none"
        raise ValueError(f"{folder}: no lease here is of another machine named {host!r}; there are: {hosts}")
    for lease in found:
        write_json(_path(folder, lease.id), asdict(lease) | {"boot": boot_id()})
    return found


def remove_lease(folder: Path, lease: Lease) -> None:
    """Nothing is left to be seen to."""
    _path(folder, lease.id).unlink(missing_ok=True)


@functools.cache
def boot_id() -> str:
    """What tells this start of this machine from any other; empty where the system does not say."""
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""


def _standing(lease: Lease, is_free: bool) -> Standing:
    if not is_free:
        return "alive"
    return "dead" if lease.is_of_this_machine() else "elsewhere"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Lease, bool]]:
    """A lease, and whether nobody held it; then we do, for the body. Raises FileNotFoundError if it is gone."""
    with path.open("rb") as handle:
        is_free = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_free = False
        if os.fstat(handle.fileno()).st_nlink == 0:  # another sweeper was faster
            raise FileNotFoundError(path)
        try:
            lease = Lease(**json.loads(handle.read()))
        except (ValueError, TypeError) as error:
            raise LeaseError(f"{path}: is no lease ({error}); delete it") from None
        yield lease, is_free


def _path(folder: Path, lease_id: str) -> Path:
    return folder / f"{lease_id}.json"


@functools.cache
def _let_go_in_forks() -> None:
    """A fork shares its parent's locks, and would keep them when the parent is dead."""
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for held in _held_here:
        held.release()
