"""A store: what machines that share no file system have in common. Each has its own workspace, which is its cache.

Its objects lie as they do in a workspace: `documents/`, `datasets/`. Their names stand for their content, and what says that
something is done (a record, a manifest) is written last; so any number of builds may use one store at once.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar

from storage.errors import NetworkError, StoreError
from storage.files import atomic_file, crc32
from storage.network import Doing, is_remote, patiently, scheme_of, shown
from storage.shelves import Bucket, Folder, Shelf

T = TypeVar("T")

STORE_VARIABLE = "BRICKROAD_STORE"
READ_BYTES = 8 << 20  # by one request
_BUCKETS = ("s3", "s3a", "gs", "gcs")
_PREFIX_OF_FILES = "file://"


@dataclass(frozen=True, kw_only=True)
class Store:
    """Objects by key at an address: `s3://bucket/prefix`, `gs://bucket/prefix`, or a folder.

    It travels to other processes as its address; whoever uses it takes its credentials from their own environment.
    """

    address: str

    @classmethod
    def at(cls, address: str) -> Self:
        """The store at an address. Raises ValueError if that can be none, or holds secrets: it is shown and recorded."""
        if address.lower().startswith(_PREFIX_OF_FILES):
            address = address[len(_PREFIX_OF_FILES) :]
        if not is_remote(address):
            return cls(address=str(Path(address).expanduser().absolute()))
        if shown(address) != address:
            raise ValueError(
                f"{shown(address)}: the address of a store is recorded; leave user, password and query out, "
                "and set AWS_PROFILE or GOOGLE_APPLICATION_CREDENTIALS"
            )
        if scheme_of(address) not in _BUCKETS or not address.partition("://")[2].strip("/"):
            raise ValueError(
                f"{address}: is no store; name a folder, s3://bucket/prefix or gs://bucket/prefix"
            )
        return cls(address=address.rstrip("/"))

    @classmethod
    def chosen(cls, address: str | None = None) -> Self | None:
        """The store at `address`, else at $BRICKROAD_STORE; None if that is not set either, or `address` is empty."""
        chosen = os.environ.get(STORE_VARIABLE) if address is None else address
        return cls.at(chosen) if chosen else None

    def place(self, key: str) -> str:
        """The address of an object."""
        return f"{self.address}/{key}"

    def refuse_unusable(self) -> None:
        """Writes an object, reads it and removes it. Raises StoreError, NetworkError or OSError if one of these cannot be."""
        if not is_remote(self.address) and not Path(self.address).is_dir():
            raise StoreError(
                self.address, f"is no folder that is there; mount it, or make it: mkdir -p {self.address}"
            )
        key, content = f".probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
        try:
            self.write(key, content)
            found = self.read(key)
            self.delete(key)
        except NetworkError as error:
            raise NetworkError(
                self.address, f"cannot be used as a store: {error.reason}", error.can_heal
            ) from None
        if found != content:
            raise StoreError(self.address, "does not give back what was written to it; use another store")

    def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is none."""
        return self._patiently(key, lambda: self._shelf.size(key))

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        """An object, or the part from byte `start` to before `end`, less where it ends earlier; None if there is none."""
        return self._patiently(key, lambda: self._shelf.read(key, start, end))

    def write(self, key: str, content: bytes) -> None:
        """Makes an object, or replaces it: it appears whole."""
        self._patiently(key, lambda: self._shelf.write(key, content), "written")

    def put(self, path: Path, key: str) -> None:
        """Makes an object of a file, unless one of this size is there: its name stands for its content."""
        if self.size(key) != path.stat().st_size:
            self.replace(path, key)

    def replace(self, path: Path, key: str) -> None:
        """Makes an object of a file, whatever is there."""
        self._patiently(key, lambda: self._shelf.put(key, path), "written")

    def delete(self, key: str) -> None:
        """Removes an object that is there."""
        self._patiently(key, lambda: self._shelf.delete(key), "written")

    def listed(self, folder: str) -> dict[str, tuple[int, float]]:
        """Size and time of writing, in seconds since 1970, of all objects below a folder, by their keys."""
        return self._patiently(folder, lambda: self._shelf.listed(folder))

    def fetch(self, key: str, path: Path, *, size: int, checksum: int) -> None:
        """An object as a file, which appears whole, after its size and CRC-32 have proved right. Raises StoreError."""
        found = 0
        with atomic_file(path) as file:
            for start in range(0, size, READ_BYTES):
                data = self.read_range(key, start, min(READ_BYTES, size - start))
                found = crc32(data, found)
                file.write(data)
            if found != checksum:
                raise self.damaged(key, "its bytes are not those that were stored")

    def read_range(self, key: str, start: int, size: int) -> bytes:
        """So many bytes of an object, by one request. Raises StoreError if they are not there."""
        data = self.read(key, start, start + size)
        if data is None:
            raise self.damaged(key, "is not there, though its record is")
        if len(data) != size:
            raise self.damaged(key, f"ends at byte {start + len(data):,}, before its recorded end")
        return data

    def damaged(self, key: str, reason: str) -> StoreError:
        """The error that an object is not what its record says."""
        return StoreError(
            self.place(key), f"{reason}; delete it and its record there, and build again with this store"
        )

    @cached_property
    def _shelf(self) -> Shelf:
        return Bucket(self.address) if is_remote(self.address) else Folder(Path(self.address))

    def _patiently(self, key: str, action: Callable[[], T], doing: Doing = "read") -> T:
        return patiently(self.place(key), action, doing) if is_remote(self.address) else action()

    def __getstate__(self) -> dict[str, str]:
        return {"address": self.address}
