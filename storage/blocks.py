"""Large files, written and checked block by block, so that any number of processes can work on one of them.

A file's identity is made from the sha256 of each of its blocks of 64 MiB: one pass over the bytes, side by side, and damage
is known to within a block. A file of one block has the sha256 that any other program gives it.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from storage.files import begin_writing_out, named_errors

BLOCK_BYTES = 64 << 20
_COPY_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """Size and checksums of one file, in hex. `sha256` is that of its only block, or else of the blocks' sha256, 32 bytes
    each, one after another."""

    bytes: int
    sha256: str
    block_sha256: list[str]

    @classmethod
    def of(cls, size: int, block_sha256: list[str]) -> "FileFacts":
        """The facts of a file of so many bytes, with such blocks; the last may be shorter than the others."""
        if len(block_sha256) <= 1:
            whole = "".join(block_sha256) or hashlib.sha256().hexdigest()
        else:
            whole = hashlib.sha256(bytes.fromhex("".join(block_sha256))).hexdigest()
        return cls(bytes=size, sha256=whole, block_sha256=block_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRange:
    """Neighbouring bytes of a file."""

    path: Path
    start: int
    bytes: int

    @property
    def end(self) -> int:
        """Where the byte after the last one is."""
        return self.start + self.bytes

    def blocks(self) -> range:
        """The numbers of the file's blocks that hold these bytes."""
        return range(self.start // BLOCK_BYTES, -(-self.end // BLOCK_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of a file that is being put together, and the ranges that it is made of: of other files, or of this file,
    where somebody has written them already."""

    path: Path
    number: int
    pieces: list[FileRange]


class BlockwiseFile:
    """Cuts a file, that is to consist of ranges of files, into blocks which can be written in any order."""

    def __init__(self, path: Path) -> None:
        """The file is made here, empty."""
        path.touch()
        self.path = path
        self._next: list[FileRange] = []
        self._room = BLOCK_BYTES
        self._blocks = 0
        self.bytes = 0

    def append(self, piece: FileRange) -> Iterator[Block]:
        """The blocks that are known whole, now that these bytes follow."""
        self.bytes += piece.bytes
        start, rest = piece.start, piece.bytes
        while rest:
            size = min(rest, self._room)
            self._next.append(FileRange(path=piece.path, start=start, bytes=size))
            start, rest, self._room = start + size, rest - size, self._room - size
            if not self._room:
                yield self._cut()

    def finish(self) -> Iterator[Block]:
        """The last block, unless the file ends with a whole one."""
        if self._next:
            yield self._cut()

    def _cut(self) -> Block:
        block = Block(path=self.path, number=self._blocks, pieces=self._next)
        self._next, self._room = [], BLOCK_BYTES
        self._blocks += 1
        return block


def write_block(block: Block) -> str:
    """Writes a block to its place in its file, unless it is there; returns its sha256 in hex. May be done again."""
    sha256 = hashlib.sha256()
    with block.path.open("r+b", buffering=0) as target:
        place = block.number * BLOCK_BYTES
        for piece in block.pieces:
            is_there = piece.path == block.path
            assert not is_there or piece.start == place
            for chunk in _chunks(piece):
                sha256.update(chunk)
                if not is_there:
                    with named_errors(block.path):
                        write_at(target.fileno(), chunk, place)
                place += len(chunk)
        begin_writing_out(target.fileno(), size=place)
    return sha256.hexdigest()


class BlockSink:
    """`with BlockSink(path, range(3, 5)) as sink: sink.write(…)` writes neighbouring blocks in one pass; then `sink.sha256`.

    What is written is given in the order it has in the file, and may begin before the blocks and end after them.
    """

    def __init__(self, path: Path, blocks: range) -> None:
        self.path = path
        #: Of each block that is whole, or the last one, in hex.
        self.sha256: list[str] = []
        self._start, self._end = blocks.start * BLOCK_BYTES, blocks.stop * BLOCK_BYTES
        self._next = self._start
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        with named_errors(self.path):
            self._file = self.path.open("r+b", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None and self._next % BLOCK_BYTES:
                self._end_block(self._next - self._next % BLOCK_BYTES)

    def write(self, data: memoryview, place: int) -> None:
        """Writes as much of the data, which belongs at this place of the file, as lies in the blocks."""
        own = data[max(0, self._start - place) : max(0, self._end - place)]
        assert not own or max(place, self._start) == self._next, "nothing is left out"
        while own:
            piece = own[: min(_COPY_BYTES, BLOCK_BYTES - self._next % BLOCK_BYTES)]
            self._hash.update(piece)
            with named_errors(self.path):
                write_at(self._file.fileno(), piece, self._next)
            own, self._next = own[len(piece) :], self._next + len(piece)
            if self._next % BLOCK_BYTES == 0:
                self._end_block(self._next - BLOCK_BYTES)

    def _end_block(self, start: int) -> None:
        self.sha256.append(self._hash.hexdigest())
        self._hash = hashlib.sha256()
        begin_writing_out(self._file.fileno(), start, self._next - start)


def file_facts(path: Path) -> FileFacts:
    """Size and checksums of a file, its blocks side by side."""
    with named_errors(path):
        size = path.stat().st_size
        return FileFacts.of(size, ranges_sha256(block_ranges(path, size)))


def ranges_sha256(pieces: Sequence[FileRange]) -> list[str]:
    """sha256, in hex, of each of these ranges, made side by side."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        return list(threads.map(range_sha256, pieces))


def block_ranges(path: Path, size: int) -> list[FileRange]:
    """The blocks of a file of so many bytes."""
    starts = range(0, size, BLOCK_BYTES)
    return [FileRange(path=path, start=start, bytes=min(BLOCK_BYTES, size - start)) for start in starts]


def range_sha256(piece: FileRange) -> str:
    """sha256, in hex, of these bytes."""
    sha256 = hashlib.sha256()
    for chunk in _chunks(piece):
        sha256.update(chunk)
    return sha256.hexdigest()


def _chunks(piece: FileRange) -> Iterator[memoryview]:
    """The bytes of a range. Raises OSError if the file has ended before them."""
    buffer = memoryview(bytearray(min(_COPY_BYTES, piece.bytes)))
    with named_errors(piece.path), piece.path.open("rb", buffering=0) as file:
        file.seek(piece.start)
        left = piece.bytes
        while left:
            size = file.readinto(buffer[: min(left, len(buffer))])
            if not size:
                raise OSError(
                    errno.EIO, f"is shorter than it was; {left:,} bytes are missing", str(piece.path)
                )
            yield buffer[:size]
            left -= size


def write_at(descriptor: int, data: memoryview, place: int) -> None:
    """All of the data: a system call may write less, on a disk that is getting full, and call that no error."""
    while data:
        written = os.pwrite(descriptor, data, place)
        data, place = data[written:], place + written
