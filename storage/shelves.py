"""Where a store keeps its objects: in a folder that machines share, or in a bucket. An object appears whole, or not at all."""

import os
import shutil
from pathlib import Path
from typing import Any, Protocol

from storage.files import atomic_file
from storage.network import Trouble, is_beyond_the_end, scheme_of
from storage.remote import file_system, path_in

_SENT_BYTES = 8 << 20  # of a file, by one request


class Shelf(Protocol):
    """Objects by key, which are written once. May raise whatever its file system raises, and be asked again."""

    def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is none."""

    def read(self, key: str, start: int, end: int | None) -> bytes | None:
        """An object, or the part from byte `start` to before `end`, less where it ends earlier; None if there is none."""

    def write(self, key: str, content: bytes) -> None:
        """Makes an object, or replaces it."""

    def put(self, key: str, path: Path) -> None:
        """The same, of a file."""

    def delete(self, key: str) -> None:
        """Removes an object that is there."""

    def listed(self, folder: str) -> dict[str, tuple[int, float]]:
        """Size and time of writing, in seconds since 1970, of all objects below a folder, by their keys."""


class Folder:
    """A folder on a file system that all machines mount."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def size(self, key: str) -> int | None:
        path = self._root / key
        return path.stat().st_size if path.is_file() else None

    def read(self, key: str, start: int, end: int | None) -> bytes | None:
        try:
            with (self._root / key).open("rb") as file:
                file.seek(start)
                return file.read() if end is None else file.read(end - start)
        except FileNotFoundError:
            return None

    def write(self, key: str, content: bytes) -> None:
        with atomic_file(self._root / key) as file:
            file.write(content)

    def put(self, key: str, path: Path) -> None:
        with path.open("rb") as source, atomic_file(self._root / key) as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def delete(self, key: str) -> None:
        (self._root / key).unlink()

    def listed(self, folder: str) -> dict[str, tuple[int, float]]:
        found = dict[str, tuple[int, float]]()
        for place, _, names in os.walk(self._root / folder):
            for path in (Path(place, name) for name in names if not name.startswith(".")):
                facts = path.stat()
                found[path.relative_to(self._root).as_posix()] = (facts.st_size, facts.st_mtime)
        return found


class Bucket:
    """A bucket of S3 or Cloud Storage, or what is below a prefix in it."""

    def __init__(self, address: str) -> None:
        self._fs: Any = file_system(address)
        self._root = path_in(self._fs, address)
        # Of S3 several pieces of a file go at once, by default 10 of 50 MB; Cloud Storage takes them one after another.
        self._sending = {"max_concurrency": 2} if scheme_of(address) in ("s3", "s3a") else {}

    def size(self, key: str) -> int | None:
        self._fs.invalidate_cache()
        try:
            info = self._fs.info(f"{self._root}/{key}")
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def read(self, key: str, start: int, end: int | None) -> bytes | None:
        whole = {} if end is None and not start else {"start": start, "end": end}
        try:
            content: bytes = self._fs.cat_file(f"{self._root}/{key}", **whole)
        except FileNotFoundError:
            return None
        except Exception as error:
            if is_beyond_the_end(error):
                return b""
            raise
        return content

    def write(self, key: str, content: bytes) -> None:
        try:
            self._fs.pipe_file(f"{self._root}/{key}", content)
        except FileNotFoundError:
            bucket = self._root.partition("/")[0]
            raise Trouble(f"there is no bucket {bucket}; make it, or name another", can_heal=False) from None

    def put(self, key: str, path: Path) -> None:
        self._fs.put_file(str(path), f"{self._root}/{key}", chunksize=_SENT_BYTES, **self._sending)

    def delete(self, key: str) -> None:
        self._fs.rm_file(f"{self._root}/{key}")

    def listed(self, folder: str) -> dict[str, tuple[int, float]]:
        self._fs.invalidate_cache()
        infos = self._fs.find(f"{self._root}/{folder}", detail=True)
        return {
            name.removeprefix(f"{self._root}/"): (int(info["size"]), _written_at(info))
            for name, info in infos.items()
        }


def _written_at(info: dict[str, Any]) -> float:
    """When an object was written, as S3 and Cloud Storage tell it."""
    written = info.get("LastModified") or info.get("mtime")
    return written.timestamp() if written else 0.0
