"""Atomic writes, digests and locks: "done" means that the final name exists, and its bytes are on the disk."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from zlib_ng import zlib_ng

PARTIAL_SUFFIX = ".partial"
_READ_BYTES = 1024 * 1024
_WRITTEN_BYTES = 256 * 1024


def canonical_json(value: Any) -> str:
    """JSON with one spelling for one value (sorted keys, no spaces), to be hashed or compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """sha256, in hex, of `value` as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256, in hex, of a file's bytes."""
    with named_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(utf8: bytes | memoryview) -> bytes:
    """The identity of a document: sha256 of its text, 32 bytes."""
    return hashlib.sha256(utf8).digest()


def crc32(data: bytes | memoryview, before: int = 0) -> int:
    """CRC-32 of bytes, after others with that of `before`: against accidents, at a twentieth of the cost of a sha256."""
    return zlib_ng.crc32(data, before)


def crc32_file(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    checksum = 0
    with named_errors(path), path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            checksum = crc32(chunk, checksum)
    return checksum


def write_pieces(file: BinaryIO, data: bytes | memoryview) -> None:
    """Writes much data at once, in pieces: for a piece of some MB Linux looks for memory that lies together, and in a
    virtual machine that took four to eight times as long (docs/decisions.md)."""
    view = memoryview(data).cast("B")
    for start in range(0, len(view), _WRITTEN_BYTES):
        file.write(view[start : start + _WRITTEN_BYTES])


def begin_writing_out(descriptor: int, start: int = 0, size: int = 0) -> None:
    """Has the system bring a file to the disk now, or so many bytes of it, and take the memory of what is there already.

    For files that nobody reads soon: memory that has just been used costs a third of what new memory costs
    (docs/decisions.md).
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` only whole: written beside it, flushed to disk, then renamed.

    If the body raises, nothing is left. Safe to run twice, and against another writer of the same path: the last
    rename wins, and each is whole.
    """
    temporary = _temporary_beside(path)
    try:
        with named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Where to write what is to be at `path`, in a folder that is there: it appears whole, and another writer's is not touched.

    Not flushed to the disk. A cluster may take a worker for dead that is not, and have its work done twice at once.
    """
    temporary = _temporary_beside(path)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


class Together:
    """Files that get their final names together, in the order they were opened, after all of them are on the disk.

    Whoever takes the last name for "done" never sees it without the others. Safe against another writer of the same names.
    """

    def __init__(self) -> None:
        self._files: list[tuple[Path, Path, BinaryIO]] = []

    def open(self, path: Path) -> BinaryIO:
        """A binary file to write, which will be at `path`."""
        temporary = _temporary_beside(path)
        with named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("wb")
        self._files.append((path, temporary, file))
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def adopt(self, others: "Together") -> None:
        """Takes over the files of others, to be published with these; the system begins to write them to the disk now."""
        for path, _, file in others._files:
            with named_errors(path):
                file.flush()
                begin_writing_out(file.fileno())
        self._files += others._files
        others._files = []

    def publish(self) -> None:
        """Returns when the files are on the disk under their final names."""
        for path, _, file in self._files:
            with named_errors(path), file:
                file.flush()
                os.fsync(file.fileno())
        for path, temporary, _ in self._files:
            temporary.rename(path)
        for folder in {path.parent for path, _, _ in self._files}:
            with named_errors(folder):
                _sync_folder(folder)

    def discard(self) -> None:
        """Removes what has no final name yet; nothing, after `publish`."""
        for _, temporary, file in self._files:
            with contextlib.suppress(OSError):  # of a full disk: what could not be written is removed anyway
                file.close()
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as readable JSON, atomically."""
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


@contextlib.contextmanager
def staged_folder(parent: Path) -> Iterator[Path]:
    """A fresh folder below `parent`, removed afterwards unless `publish_folder` has given it its final name."""
    stage = _temporary_beside(parent / "stage")
    try:
        with named_errors(parent):
            stage.mkdir(parents=True)
            yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def publish_folder(stage: Path, path: Path, *, is_done: Callable[[Path], bool]) -> None:
    """Gives a staged folder its final name, after all its files are on the disk.

    What stands at `path` by then is kept if it `is_done` (another writer was faster with the same content); the rest
    of a removal that was killed, or a folder that lost files, gives way.
    """
    with named_errors(path):
        for file in sorted(stage.iterdir()):
            sync_file(file)
        _sync_folder(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stage.rename(path)
        except OSError:
            if not path.is_dir():
                raise
            if not is_done(path):
                _replace_folder(stage, path)
        _sync_folder(path.parent)


def _replace_folder(stage: Path, path: Path) -> None:
    aside = _temporary_beside(path)
    path.rename(aside)
    stage.rename(path)
    shutil.rmtree(aside, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Returns when the file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def link_or_copy(source: Path, target: Path) -> None:
    """The same bytes under a second name: a hard link (no time, no space), or a copy on another file system."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def remove_partials(folder: Path) -> int:
    """Removes what killed writers left below `folder`; returns how many. Call it under the lock of that folder."""
    leftovers = [
        Path(place, name)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if name.endswith(PARTIAL_SUFFIX)
    ]
    for leftover in leftovers:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    return len(leftovers)


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[bool]:
    """Holds `path` as a lock for the body; yields whether it had to wait for another holder.

    `flock`, because the kernel drops it with the process: a holder that was killed blocks nobody.
    """
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    with handle:
        waited = False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield waited


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """A full disk is reported by `write`, and a bad one by `read`, without a name; the user needs to know where."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(error.errno, reason, str(path)) from error
        raise
