"""What was found in a file the last time, so that an unchanged file need not be read to know it again.

As git's index does it: a file is unchanged if its size, times and inode are. The change time moves with every write and
cannot be set back. A file that changed in the last seconds is not believed: it could change again within the clock's grain.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.files import atomic_file

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
    def of(cls, path: Path) -> "Signature":
        """The signature of a file now. Raises OSError if it is not there."""
        facts = path.stat()
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)

    def is_settled(self) -> bool:
        """Whether the file has been as it is for some seconds."""
        return max(self.modified_ns, self.changed_ns) < time.time_ns() - _RACY_NANOSECONDS


class KnownFiles:
    """What was found in files, by path and by the settings they were read with. Losing it costs time and nothing else."""

    def __init__(self, path: Path, settings: str) -> None:
        """Reads `path` if it is there; what is damaged or of another format counts as nothing known."""
        self._path, self._settings = path, settings
        self._files: dict[str, Any] = {}
        try:
            value = json.loads(path.read_bytes())
            if value["format"] == _FORMAT and isinstance(value["files"], dict):
                self._files = value["files"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass

    def find(self, location: str) -> Found | None:
        """What was found in a file, if it is still the same file; else None."""
        try:
            signature, found = self._files[self._key(location)]
            now = Signature.of(Path(location))
            return found if signature == [now.size, now.modified_ns, now.changed_ns, now.inode] else None
        except (KeyError, ValueError, TypeError, OSError):
            return None

    def remember(self, location: str, signature: Signature, found: Found) -> None:
        """Notes what was found in a file that had this signature before it was read, and has it still."""
        if signature.is_settled() and Signature.of(Path(location)) == signature:
            one = [signature.size, signature.modified_ns, signature.changed_ns, signature.inode]
            self._files[self._key(location)] = [one, found]

    def save(self) -> None:
        """Writes it all down."""
        with atomic_file(self._path) as file:
            file.write(json.dumps({"format": _FORMAT, "files": self._files}).encode())

    def _key(self, location: str) -> str:
        return f"{self._settings} {Path(location).absolute()}"
