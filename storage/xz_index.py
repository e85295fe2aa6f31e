"""The index at the end of an .xz file: what it expands to, without decompressing (the .xz file format, sections 2 to 4)."""

import io
import zlib
from typing import BinaryIO

from storage.errors import Malformed

XZ_MAGIC = b"\xfd7zXZ\x00"
_END_BYTES = 12  # of a stream's header, and of its footer
_CUT_OFF = "is cut off: it does not end as xz files do; fetch the file again"
_CORRUPT = "its xz index is corrupt; fetch the file again"


def uncompressed_size(file: BinaryIO) -> int:
    """Bytes that an xz file expands to, over all of its streams. Raises Malformed unless the indexes span the file."""
    file.seek(0)
    if file.read(len(XZ_MAGIC)) != XZ_MAGIC:
        raise Malformed("is not xz (its first bytes are not xz's)")
    end, total = file.seek(0, io.SEEK_END), 0
    while end > 0:
        file.seek(max(0, end - _END_BYTES))
        footer = file.read(min(end, _END_BYTES))
        if footer[-4:] == bytes(4):  # stream padding
            end -= 4
        else:
            stream_bytes, content_bytes = _last_stream(file, footer, end)
            end, total = end - stream_bytes, total + content_bytes
    return total


def _last_stream(file: BinaryIO, footer: bytes, end: int) -> tuple[int, int]:
    """Size of the stream that ends at `end`, and of what it expands to."""
    if footer[10:] != b"YZ" or zlib.crc32(footer[4:10]) != int.from_bytes(footer[:4], "little"):
        raise Malformed(_CUT_OFF)
    index_bytes = (int.from_bytes(footer[4:8], "little") + 1) * 4
    if index_bytes > end - 2 * _END_BYTES:
        raise Malformed(_CUT_OFF)
    file.seek(end - _END_BYTES - index_bytes)
    blocks = _blocks(file.read(index_bytes))
    stream_bytes = 2 * _END_BYTES + index_bytes + sum(-(-unpadded // 4) * 4 for unpadded, _ in blocks)
    file.seek(max(0, end - stream_bytes))
    if stream_bytes > end or file.read(len(XZ_MAGIC)) != XZ_MAGIC:
        raise Malformed("its xz index does not fit the file; fetch the file again")
    return stream_bytes, sum(content for _, content in blocks)


def _blocks(index: bytes) -> list[tuple[int, int]]:
    """(unpadded, uncompressed) size of each block of an index, whose own checksum must hold."""
    if index[0] != 0 or zlib.crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
        raise Malformed(_CORRUPT)
    position = 1  # after the index indicator

    def number() -> int:
        nonlocal position
        value = 0
        for shift in range(0, 63, 7):
            byte = index[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise Malformed(_CORRUPT)

    try:
        return [(number(), number()) for _ in range(number())]
    except IndexError:
        raise Malformed(_CORRUPT) from None
