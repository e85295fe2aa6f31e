"""The bytes of one file behind a network: all of them, of one version, in order; or a NetworkError.

A web server is read by one request that streams, since many do not send parts of a file. An object store is read in blocks,
one request each. fsspec's own files buffer, cache and guess; none of that is wanted here.
"""

import contextlib
import io
import re
from typing import Any, BinaryIO, Protocol

from storage.network import Trouble, patiently, scheme_of
from storage.remote import WEB, file_system, path_in, version_of, web_address

_FIRST_BLOCK_BYTES = 1 << 20  # enough to tell what a file is
_LARGEST_BLOCK_BYTES = 16 << 20
_BEFORE_A_JUMP_BYTES = 64 << 10  # who jumps to the end of a file reads backwards from there
_REQUESTS_A_FILE = 100  # of a web server, which may break off after each byte
_SKIPPED_BYTES = 64 << 20  # read and thrown away, where a server sends no parts
_CHANGED = "changed while it was being read; run again when it is complete"


def read_remote(location: str, size: int, version: str | None) -> bytes:
    """The whole file, by one request. Raises NetworkError unless it has exactly so many bytes."""
    source = _source(location, size, version, first_block_bytes=size)

    def whole() -> bytes:
        pieces, position = list[bytes](), 0
        while position < size:
            pieces.append(source.read(position))
            position += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    with contextlib.closing(source):
        return patiently(location, whole)


def open_remote(location: str, size: int, version: str | None) -> BinaryIO:
    """The file as a stream, which can jump. Its end is its end: it raises NetworkError where bytes are missing, too many,
    or of another version; after a broken connection it goes on at the same byte."""
    return io.BufferedReader(_RemoteStream(location, size, version), _FIRST_BLOCK_BYTES)


class _Source(Protocol):
    """Where bytes come from; may raise anything, and be asked again."""

    def read(self, start: int) -> bytes:
        """Some bytes from `start` on, at least one."""

    def finish(self) -> None:
        """Raises if what was read is not one version of the file."""

    def close(self) -> None:
        """Ends the connection."""


def _source(location: str, size: int, version: str | None, *, first_block_bytes: int) -> _Source:
    fs = file_system(location)
    if scheme_of(location) in WEB:
        return _WebStream(fs, web_address(location), size, version)
    return _Blocks(fs, path_in(fs, location), size, version, first_block_bytes)


class _Blocks:
    """A file of an object store, in blocks that grow."""

    def __init__(self, fs: Any, path: str, size: int, version: str | None, first_block_bytes: int) -> None:
        self._fs, self._path, self._size, self._version = fs, path, size, version
        self._block_bytes, self._requests = first_block_bytes, 0
        # The Hub's file system asks for facts before it reads, unless it knows the size.
        self._options = {"size": size, "cache_type": "none"} if fs.protocol == "hf" else {}

    def read(self, start: int) -> bytes:
        end = min(self._size, start + self._block_bytes)
        data: bytes = self._fs.cat_file(self._path, start=start, end=end, **self._options)
        if len(data) != end - start:
            raise Trouble(f"its server sent {len(data):,} bytes where {end - start:,} were asked for")
        self._requests += 1
        self._block_bytes = max(self._block_bytes, min(2 * self._block_bytes, _LARGEST_BLOCK_BYTES))
        return data

    def finish(self) -> None:
        if self._requests > 1 and self._version is not None:
            self._fs.invalidate_cache()
            if version_of(self._fs.info(self._path)) != self._version:
                raise Trouble(_CHANGED, can_heal=False)

    def close(self) -> None:
        pass


class _WebStream:
    """A file of a web server, by one request, and after a jump or a broken connection by another one."""

    def __init__(self, fs: Any, url: str, size: int, version: str | None) -> None:
        self._fs, self._url, self._size, self._version = fs, url, size, version
        self._validator: str | None = None
        self._stream: Any = None
        self._requests = 0
        self._position = self._delivered = 0

    def read(self, start: int) -> bytes:
        try:
            if self._stream is None or self._position != start:
                self._open(start)
            return self._next()
        except BaseException:
            self.close()
            raise

    def finish(self) -> None:
        """Every answer was compared as it came."""

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _next(self) -> bytes:
        data: bytes = self._stream.read(_FIRST_BLOCK_BYTES)
        self._position += len(data)
        if not data:
            raise Trouble(f"the connection ended at byte {self._position:,} of {self._size:,}")
        if self._position > self._size or (self._position == self._size and self._stream.read(1)):
            raise Trouble(f"its server sends more than the {self._size:,} bytes that it announced")
        self._delivered = max(self._delivered, self._position)
        return data

    def _open(self, start: int) -> None:
        self.close()
        self._requests += 1
        if self._requests > _REQUESTS_A_FILE:
            raise Trouble(f"its server broke off {_REQUESTS_A_FILE} times", can_heal=False)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        # With a size it does not ask for one first.
        self._stream = self._fs.open(self._url, block_size=0, size=self._size, headers=headers)
        self._compare(self._stream.r, start)
        self._position = 0 if self._stream.r.status == 200 else start
        if start - self._position > max(self._delivered, _SKIPPED_BYTES):
            raise Trouble("its server does not send parts of a file", can_heal=False)
        while self._position < start:
            skipped = self._stream.read(min(_FIRST_BLOCK_BYTES, start - self._position))
            if not skipped:
                raise Trouble(f"the connection ended at byte {self._position:,} of {self._size:,}")
            self._position += len(skipped)

    def _compare(self, response: Any, start: int) -> None:
        """Raises unless an answer is of the same file as the listing, and as the answer before."""
        headers = response.headers
        if response.status == 206:
            pattern = rf"bytes {start}-{self._size - 1}/({self._size}|\*)"
            is_same = re.fullmatch(pattern, headers.get("Content-Range", "")) is not None
        else:
            is_same = headers.get("Content-Length", str(self._size)) == str(self._size)
        tag = headers.get("ETag")
        validator = tag or headers.get("Last-Modified")
        if self._version is not None and tag != self._version:
            is_same = False
        if start and self._delivered:
            if validator is None:
                raise Trouble("its server tells no version of it, so it cannot go on there", can_heal=False)
            is_same = is_same and validator == self._validator
        self._validator = validator
        if not is_same:
            raise Trouble(_CHANGED, can_heal=False)


class _RemoteStream(io.RawIOBase):
    """A file that is read where one stands in it, with the chunk that came last."""

    def __init__(self, location: str, size: int, version: str | None) -> None:
        self._location, self._size = location, size
        self._source = _source(location, size, version, first_block_bytes=_FIRST_BLOCK_BYTES)
        self._position = self._chunk_start = 0
        self._chunk = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size:
            return 0
        chunk_end = self._chunk_start + len(self._chunk)
        if not self._chunk_start <= self._position < chunk_end:
            self._fetch(
                self._position if self._position == chunk_end else self._position - _BEFORE_A_JUMP_BYTES
            )
        start = self._position - self._chunk_start
        piece = memoryview(self._chunk)[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        if self._position == self._size:
            patiently(self._location, self._source.finish)
        return len(piece)

    def _fetch(self, start: int) -> None:
        """The chunk that holds the position, read from `start` on."""
        self._chunk_start, self._chunk = max(0, start), b""
        while self._position >= (end := self._chunk_start + len(self._chunk)):
            self._chunk += patiently(self._location, lambda end=end: self._source.read(end))  # type: ignore[misc]

    def close(self) -> None:
        self._source.close()
        super().close()
