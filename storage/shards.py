"""The files of a corpus: finding them, here or behind a network, decompressing them as streams of bytes that are proved complete, and writing some.

A shard may be compressed by xz, Zstandard or gzip: its first bytes tell, and a name can only contradict them. The proof,
before the last chunk is believed: every stream reaches its end, its integrity check holds, and nothing follows but further
streams of the same kind. `lzma.open` ignores trailing garbage, and `gzip` zeros after the end, so neither is used to read.
What the bytes mean is the work of `forms`.
"""

import io
import lzma
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from storage.errors import CorpusError, Malformed, ShardError
from storage.files import atomic_file, named_errors
from storage.network import is_remote, shown, with_secrets
from storage.workspace import natural_order
from storage.xz_index import XZ_MAGIC, uncompressed_size

try:  # liblzma 5.8, whose decoder takes 0.6 of the time; the system's is often older, and Python uses that
    from lzma_mt import LZMADecompressor
    from lzma_mt import LZMAError as FastLzmaError
except ImportError:  # a platform without a wheel: the same bytes, more slowly
    from lzma import LZMADecompressor  # type: ignore[assignment]
    from lzma import LZMAError as FastLzmaError  # type: ignore[assignment]

COMPRESSED_SUFFIXES = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}
SHARD_SUFFIXES = (*COMPRESSED_SUFFIXES, ".txt", ".tar", ".jsonl", ".parquet")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b"

# Text shrinks 3 to 4 times, a book of one repeated line some hundred times; beyond this it is a bomb.
MAX_EXPANSION = 1000
_GRACE_BYTES = 64 << 20
_DECODER_MEMORY_BYTES = 256 << 20  # `xz -9` asks for 65 MiB, `zstd --ultra -22` for 128 MiB
_CHECKS = (lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256)
_READ_BYTES = 1 << 20
_XZ_CHUNK_BYTES = (
    4 << 20
)  # a whole shard of OpenWebText: what comes out in one piece is not copied together again
_ZSTD_PIECE_BYTES = 4 << 10
_CUT_OFF = "is cut off: its {} stream has no end; fetch the file again"
_AFTER_END = "has bytes after the end of its {} stream; fetch the file again"
_NO_SHARDS = f"no {', '.join(SHARD_SUFFIXES)} file in this folder; name the folder that holds the shards"
_NO_MATCH = "no file matches this pattern"
_WILDCARD = re.compile(r"[*?\[]")
# Lone surrogates stand for bytes of a name that are not UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of a corpus. `name` is its path below the corpus, and decides its place in the corpus's order.

    `location` is its path or address, which may hold secrets: show `place`. `content` has its bytes if they are in memory,
    and `copy` is the path of a copy on this disk. `member` is set for a shard that came out of an archive, which is at
    `location` then. `version` is what a server calls this content of a remote file, if it tells.
    """

    location: str
    name: str
    compressed_bytes: int
    content: bytes | None = None
    copy: str | None = None
    member: str | None = None
    version: str | None = None

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a network."""
        return is_remote(self.location)

    @property
    def place(self) -> str:
        """Where it lies, without the secrets of an address."""
        return shown(self.location) if self.is_remote else self.location

    def open(self) -> BinaryIO:
        """Its bytes, from the first. Of a remote file they are all there in the end, or reading raises NetworkError."""
        if self.content is not None:
            return io.BytesIO(self.content)
        if self.copy is None and self.is_remote:
            from storage.remote_streams import open_remote

            return open_remote(self.location, self.compressed_bytes, self.version)
        return Path(self.copy or self.location).open("rb")

    def read(self) -> bytes:
        """All of its bytes; of a remote file by one request, or NetworkError."""
        if self.content is None and self.copy is None and self.is_remote:
            from storage.remote_streams import read_remote

            return read_remote(self.location, self.compressed_bytes, self.version)
        with self.open() as file:
            return file.read()

    def refused(self, reason: str) -> ShardError:
        """The error that says why this shard cannot be trusted."""
        return ShardError(self.place if self.member is None else f"{self.place}: {self.member}", reason)


def find_shards(corpus: str) -> list[Shard]:
    """The shards of a folder (its files of a known form, at any depth), a file, or a glob, in natural order of names.

    It may be an address: `s3://bucket/folder`. Hidden files are passed over, and links to folders are not followed. Raises
    CorpusError, saying what was looked for, if there are none; NetworkError if the network does not tell.
    """
    if is_remote(corpus):
        return _in_order(_remote_shards(corpus))
    path = Path(corpus).expanduser()
    if path.is_dir():
        root, files = path, [file for file in _visible_files(path) if file.suffix in SHARD_SUFFIXES]
        missing = f"{path}: {_NO_SHARDS}"
    elif path.is_file():
        root, files, missing = path.parent, [path], ""
    elif _WILDCARD.search(corpus):
        root, files = _matching_files(path)
        missing = f"{corpus}: {_NO_MATCH}"
    else:
        raise CorpusError(f"{path}: no such file or folder, and no corpus of that name")
    if not files:
        raise CorpusError(missing)
    return _in_order([_shard(file, root) for file in files])


def compression(file: BinaryIO, shard: Shard) -> str | None:
    """How the file is compressed, if it is; a name that claims what it is not is refused. The file is at its start then."""
    if shard.compressed_bytes == 0:
        raise Malformed("the file is empty")
    claimed = COMPRESSED_SUFFIXES.get(Path(shard.name).suffix)
    found = compression_of(file.read(len(XZ_MAGIC)))
    file.seek(0)
    if claimed and found != claimed:
        raise Malformed(f"is not {claimed} (its first bytes are not {claimed}'s); name it after what it is")
    return found


def shard_content(file: BinaryIO, shard: Shard) -> Iterator[bytes]:
    """The bytes of a shard, decompressed if they are compressed; ends only when all of the file is accounted for.

    Raises Malformed if it is empty, not what its name says, cut, damaged, followed by something else, or a bomb.
    """
    compression(file, shard)
    return expanded(file, shard.compressed_bytes)


def uncompressed_bytes(shard: Shard) -> int:
    """Size of the shard's content; of xz from the index at its end, without decompressing anything.

    Raises ShardError if an xz file does not end as xz files do. Of a remote file, only one that is named `.xz` is asked for.
    """
    if shard.is_remote and shard.content is None and not shard.name.endswith(".xz"):
        return shard.compressed_bytes
    with named_errors(Path(shard.place)), shard.open() as file:
        try:
            return uncompressed_size(file) if compression(file, shard) == "xz" else shard.compressed_bytes
        except Malformed as error:
            raise shard.refused(str(error)) from None


def write_shard(path: Path, documents: Iterable[tuple[str, bytes]]) -> None:
    """Writes (member name, UTF-8 text) pairs as a shard of OpenWebText's layout. Same input, same bytes.

    The layout, from real shards: GNU tar, mode 0644, no owner, modification time 0; xz with a CRC64 check.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in documents:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o644
            tar.addfile(member, io.BytesIO(text))
    with atomic_file(path) as file:
        file.write(lzma.compress(buffer.getvalue(), format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64))


def write_zstd(file: BinaryIO, chunks: Iterable[bytes]) -> None:
    """Writes chunks as one Zstandard frame with a checksum."""
    with zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(file, closefd=False) as writer:
        for chunk in chunks:
            writer.write(chunk)


# --- finding ----------------------------------------------------------------------------------------------------------


def _visible_files(root: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; a folder that cannot be listed raises, it is not passed over."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        here = Path(folder)
        yield from (here / name for name in names if not name.startswith("."))


def _matching_files(pattern: Path) -> tuple[Path, list[Path]]:
    """The folder before the first wildcard, so that a name does not tell where the corpus lies, and what matches."""
    fixed = next(index for index, part in enumerate(pattern.parts) if _WILDCARD.search(part))
    root, rest = Path(*pattern.parts[:fixed]), str(Path(*pattern.parts[fixed:]))
    try:
        found = list(root.glob(rest))
    except ValueError as error:
        raise CorpusError(f"{pattern}: is not a pattern ({error})") from None
    return root, [path for path in found if not path.is_dir() and not is_hidden(path.relative_to(root))]


def is_hidden(path: Path) -> bool:
    """Whether a path is passed over where a folder or an archive is read."""
    return any(part.startswith(".") and part != ".." for part in path.parts)


def _shard(file: Path, root: Path) -> Shard:
    location = str(file)
    _refuse_unprintable(location)
    try:
        facts = file.stat()
    except FileNotFoundError:
        facts = None
    if facts is None or not stat.S_ISREG(facts.st_mode):
        raise CorpusError(f"{file}: is no file that can be read (a link to nothing?); mend or remove it")
    name = location.removeprefix(f"{root}".rstrip("/") + "/")
    return Shard(location=location, name=name, compressed_bytes=facts.st_size)


def _remote_shards(corpus: str) -> list[Shard]:
    from storage.remote import list_files

    listing = list_files(with_secrets(corpus))
    files = [file for file in listing.files if listing.kind == "file" or not is_hidden(Path(file.name))]
    if listing.kind == "folder":
        files = [file for file in files if Path(file.name).suffix in SHARD_SUFFIXES]
    if not files:
        raise CorpusError(f"{shown(corpus)}: {_NO_SHARDS if listing.kind == 'folder' else _NO_MATCH}")
    for file in files:
        _refuse_unprintable(file.name)
    return [
        Shard(location=file.location, name=file.name, compressed_bytes=file.size, version=file.version)
        for file in files
    ]


def _in_order(shards: list[Shard]) -> list[Shard]:
    return sorted(shards, key=lambda shard: natural_order(shard.name))


def _refuse_unprintable(name: str) -> None:
    if _UNPRINTABLE.search(name):
        raise CorpusError(f"{name!a}: its name has control characters or is not UTF-8; rename it")


# --- decompressing ----------------------------------------------------------------------------------------------------


def compression_of(head: bytes) -> str | None:
    """The compression of a file that begins with these bytes: "xz", "zstd", "gzip" or None."""
    for magic, kind in ((XZ_MAGIC, "xz"), (ZSTD_MAGIC, "zstd"), (GZIP_MAGIC, "gzip")):
        if head.startswith(magic):
            return kind
    return None


def expanded(file: BinaryIO, compressed_bytes: int) -> Iterator[bytes]:
    """The content of a file from its start, decompressed if it is compressed; ends only when all of it is accounted for.

    Raises Malformed if it is cut, damaged, followed by something else, or expands beyond all reason.
    """
    head = file.read(_READ_BYTES)
    kind = compression_of(head)
    if kind is None:
        return _rest(head, file)
    streams = {"xz": _xz, "zstd": _zstd, "gzip": _gzip}[kind](head, file)
    return _bounded(streams, compressed_bytes * MAX_EXPANSION + _GRACE_BYTES)


def _rest(data: bytes, file: BinaryIO) -> Iterator[bytes]:
    while data:
        yield data
        data = file.read(_READ_BYTES)


def _bounded(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    produced = 0
    for chunk in chunks:
        produced += len(chunk)
        if produced > limit:
            raise Malformed(f"expands to more than {MAX_EXPANSION} times its size: a decompression bomb")
        yield chunk


def _xz(data: bytes, file: BinaryIO) -> Iterator[bytes]:
    """One or more xz streams, with legal padding between them."""
    while data:
        decoder = LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_DECODER_MEMORY_BYTES)
        while not decoder.eof:
            try:
                chunk = decoder.decompress(data, max_length=_XZ_CHUNK_BYTES)
            except (lzma.LZMAError, FastLzmaError) as error:
                raise _damaged(error) from None
            yield chunk
            data = file.read(_READ_BYTES) if decoder.needs_input and not decoder.eof else b""
            if decoder.needs_input and not decoder.eof and not data:
                raise Malformed(_CUT_OFF.format("xz"))
        if decoder.check not in _CHECKS:  # a check of a kind unknown to liblzma would be passed over
            raise Malformed("has no integrity check that is known; compress it again with: xz --check=crc64")
        data = _after_xz_stream(decoder.unused_data, file)


def _after_xz_stream(data: bytes, file: BinaryIO) -> bytes:
    """What follows a finished xz stream: nothing, or the start of the next one after legal padding (zeros by fours)."""
    padding = 0
    while True:
        rest = data.lstrip(b"\0")
        padding += len(data) - len(rest)
        if rest:
            rest += file.read(_READ_BYTES)
            if padding % 4 or not rest.startswith(XZ_MAGIC):
                raise Malformed(_AFTER_END.format("xz"))
            return rest
        data = file.read(_READ_BYTES)
        if not data:
            if padding % 4:
                raise Malformed(_AFTER_END.format("xz"))
            return b""


def _zstd(data: bytes, file: BinaryIO) -> Iterator[bytes]:
    """One or more Zstandard frames."""
    while data:
        if not data.startswith(ZSTD_MAGIC):
            raise Malformed(_AFTER_END.format("zstd"))
        decoder = zstandard.ZstdDecompressor(max_window_size=_DECODER_MEMORY_BYTES // 2).decompressobj()
        while not decoder.eof:
            # There is no limit on what a call may produce, and a block of 4 bytes can stand for 128 KiB.
            piece, data = data[:_ZSTD_PIECE_BYTES], data[_ZSTD_PIECE_BYTES:]
            try:
                yield decoder.decompress(piece)
            except zstandard.ZstdError as error:
                raise _damaged(error) from None
            data = data or file.read(_READ_BYTES)
            if not data and not decoder.eof:
                raise Malformed(_CUT_OFF.format("zstd"))
        data = _next_stream(decoder.unused_data + data, file)


def _gzip(data: bytes, file: BinaryIO) -> Iterator[bytes]:
    """One or more gzip members."""
    while data:
        if not data.startswith(GZIP_MAGIC):
            raise Malformed(_AFTER_END.format("gzip"))
        decoder = zlib.decompressobj(wbits=31)  # 15 for the largest window, 16 for gzip's header and checksum
        while not decoder.eof:
            try:
                yield decoder.decompress(data, _READ_BYTES)
            except zlib.error as error:
                raise _damaged(error) from None
            data = decoder.unconsumed_tail or (b"" if decoder.eof else file.read(_READ_BYTES))
            if not data and not decoder.eof:
                raise Malformed(_CUT_OFF.format("gzip"))
        data = _next_stream(decoder.unused_data, file)


def _next_stream(data: bytes, file: BinaryIO) -> bytes:
    """The beginning of what follows a stream, long enough to tell what it is."""
    return data if len(data) >= len(ZSTD_MAGIC) else data + file.read(_READ_BYTES)


def _damaged(error: Exception) -> Malformed:
    return Malformed(f"cannot be decompressed ({str(error).lower()}); fetch the file again")
