"""Compressed files as streams of bytes, proved complete: xz, Zstandard and gzip, told apart by their first bytes.

The proof, before the last chunk is believed: every stream reaches its end, its integrity check holds, and nothing
follows but further streams of the same kind. `lzma.open` ignores trailing garbage, and `gzip` zeros after the end.
"""

import lzma
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import zstandard

from storage.errors import Malformed
from storage.xz_index import XZ_MAGIC

try:  # liblzma 5.8, whose decoder takes 0.6 of the time; the system's is often older, and Python uses that
    from lzma_mt import LZMADecompressor
    from lzma_mt import LZMAError as FastLzmaError
except ImportError:  # a platform without a wheel: the same bytes, more slowly
    from lzma import LZMADecompressor  # type: ignore[assignment]
    from lzma import LZMAError as FastLzmaError  # type: ignore[assignment]

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


def write_zstd(file: BinaryIO, chunks: Iterable[bytes]) -> None:
    """Writes chunks as one Zstandard frame with a checksum."""
    with zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(file, closefd=False) as writer:
        for chunk in chunks:
            writer.write(chunk)


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
