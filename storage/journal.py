"""A journal: what is to be told elsewhere, written down here first, a line of JSON an entry; and how far it has been told.

    <name>.jsonl   the entries, only ever appended        <name>.told.json   how many bytes of it have been told

Who writes or tells it holds its lock, which the kernel drops with the process: a journal that can be opened belongs to nobody
who lives. A line counts when its end is written; what a kill or a power cut has left of another is no entry.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from storage.errors import JournalHeldError
from storage.files import named_errors, write_json

_LOOK_SECONDS = 0.05
_BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a journal: its entry, or None if it is damaged, and how many bytes there are up to its end."""

    entry: dict[str, Any] | None
    end_bytes: int


class Journal:
    """The journal at a path, begun if it is not there, for this holder alone until it is closed.

    Raises JournalHeldError if another has it, and does not give it back within `wait_seconds`.
    """

    def __init__(self, path: Path, *, wait_seconds: float = 0.0) -> None:
        self.path = path
        self._told_path = path.with_suffix(".told.json")
        self._file = _locked(path, wait_seconds)
        self._end_bytes = _end_of_last_line(self._file)
        self._file.truncate(self._end_bytes)
        self.told_bytes = _told_bytes(self._told_path)
        if self.told_bytes > self._end_bytes:  # a power cut took lines that had been told
            self.mark_told(self._end_bytes)

    @property
    def is_told(self) -> bool:
        """Whether there is nothing left to tell."""
        return self.told_bytes == self._end_bytes

    def append(self, entry: Mapping[str, Any]) -> None:
        """One more entry, which survives the process. OSError if there is no room: then nothing of it is left."""
        left = memoryview(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        size = len(left)
        with named_errors(self.path):
            try:
                while left:
                    left = left[self._file.write(left) :]
            except OSError:
                self._file.truncate(self._end_bytes)
                raise
        self._end_bytes += size

    def sync(self) -> None:
        """Returns when the entries are on the disk, and survive the machine."""
        with named_errors(self.path):
            os.fsync(self._file.fileno())

    def lines(self) -> Iterator[Line]:
        """All lines, from the first."""
        return _lines(self.path, 0)

    def untold(self) -> Iterator[Line]:
        """The lines that have not been told, up to the last that is whole when it is reached."""
        return _lines(self.path, self.told_bytes)

    def mark_told(self, end_bytes: int) -> None:
        """Notes that all up to here has been told. Where there is no room for a note, this holder alone knows it: the next one
        tells it again, which harms nobody."""
        self.told_bytes = end_bytes
        with contextlib.suppress(OSError):
            write_json(self._told_path, {"bytes": end_bytes})

    def close(self) -> None:
        """Gives it back."""
        self._file.close()

    def remove(self) -> None:
        """Deletes and closes it. What was told goes first: without it all would be told again, which harms nobody."""
        self._told_path.unlink(missing_ok=True)
        self.path.unlink()
        self.close()


def list_journals(folder: Path) -> list[Path]:
    """The journals in a folder."""
    return sorted(folder.glob("*.jsonl"))


def _locked(path: Path, wait_seconds: float) -> BinaryIO:
    deadline = time.monotonic() + wait_seconds
    while True:
        with named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            if time.monotonic() > deadline:
                raise JournalHeldError(
                    f"{path}: another process is writing it; wait until it has ended, or stop it"
                ) from None
            time.sleep(_LOOK_SECONDS)
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()  # who had it has removed it


def _end_of_last_line(file: BinaryIO) -> int:
    end = os.fstat(file.fileno()).st_size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        newline = os.pread(file.fileno(), end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _told_bytes(path: Path) -> int:
    """Zero where nobody has noted it, or so that it cannot be read: telling again harms nobody."""
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["bytes"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0


def _lines(path: Path, start: int) -> Iterator[Line]:
    with named_errors(path), path.open("rb") as file:
        file.seek(start)
        end = start
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield Line(entry=_entry(line), end_bytes=end)


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
