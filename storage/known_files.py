"""What was found in a file the last time, so that an unchanged file need not be read to know it again.

As git's index does it: a file is unchanged if its size, times and inode are. The change time moves with every write and
cannot be set back. A file that changed in the last seconds is not believed: it could change again within the clock's grain.
A remote file is unchanged if its size and its server's version of it are; without a version it is never known again.
"""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.files import atomic_file, fingerprint
from storage.network import is_remote, shown

KNOWN_FILES = "known-files.json"  # beside the stored text
_FORMAT = 1
_RACY_NANOSECONDS = 2 * 10**9

Found = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells a file's content without reading it: size, modification and change time, inode."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, location: str) -> "Signature":
        """The signature of a file now. Raises OSError if it is not there."""
        facts = os.stat(location)  # noqa: PTH116 - of twenty thousand files, and a Path takes longer than the question
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)

    def facts(self) -> list[Any]:
        """The signature as JSON."""
        return [self.size, self.modified_ns, self.changed_ns, self.inode]

    def is_settled(self) -> bool:
        """Whether the file has been as it is for some seconds."""
        return max(self.modified_ns, self.changed_ns) < time.time_ns() - _RACY_NANOSECONDS


@dataclass(frozen=True, slots=True)
class RemoteSignature:
    """What tells a remote file's content, as its server listed it: no request is made for it."""

    size: int
    version: str | None

    def facts(self) -> list[Any]:
        """The signature as JSON."""
        return [self.size, self.version]


class KnownFiles:
    """What was found in files, by path and by the settings they were read with. Losing it costs time and nothing else."""

    def __init__(self, path: Path, settings: str) -> None:
        """Reads `path` if it is there; what is damaged or of another format counts as nothing known."""
        self._path, self._settings = path, settings
        self._files = _parsed(path.read_bytes() if path.is_file() else b"")
        self._of_others = dict[str, Any]()

    def learn(self, content: bytes) -> None:
        """What another machine has found, as `told` there; of files behind a network, which are the same from anywhere."""
        self._of_others = _parsed(content)

    def told(self, locations: Iterable[str]) -> bytes:
        """What is known of these files here, or was learnt, for `learn`."""
        known = self._of_others | self._files
        keys = (self._key(location) for location in locations if is_remote(location))
        return _content({key: known[key] for key in keys if key in known})

    def find(self, location: str, listed: RemoteSignature | None = None) -> Found | None:
        """What was found in a file, if it is still the same file; else None. Of a remote one, `listed` is how it is now."""
        key = self._key(location)
        for files in (self._files, self._of_others):
            try:
                facts, found = files[key]
                if facts == (listed or Signature.of(location)).facts():
                    return found  # type: ignore[no-any-return]
            except (KeyError, ValueError, TypeError, OSError):
                continue
        return None

    def remember(self, location: str, signature: Signature | RemoteSignature, found: Found) -> None:
        """Notes what was found in a file that had this signature before it was read, and has it still."""
        if isinstance(signature, RemoteSignature):
            is_sure = signature.version is not None
        else:
            is_sure = signature.is_settled() and Signature.of(location) == signature
        if is_sure:
            self._files[self._key(location)] = [signature.facts(), found]

    def save(self) -> None:
        """Writes it all down."""
        with atomic_file(self._path) as file:
            file.write(_content(self._files))

    def _key(self, location: str) -> str:
        if not is_remote(location):
            return (
                f"{self._settings} {location if location.startswith(os.sep) else Path(location).absolute()}"
            )
        place = shown(location)  # two addresses that differ in what is not shown are two files
        return f"{self._settings} {place}" + ("" if place == location else f" {fingerprint(location)[:16]}")


def _content(files: dict[str, Any]) -> bytes:
    return json.dumps({"format": _FORMAT, "files": files}).encode()


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
        return value["files"] if value["format"] == _FORMAT and isinstance(value["files"], dict) else {}
    except (ValueError, KeyError, TypeError):
        return {}
