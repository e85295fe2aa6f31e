"""Arrow's arrays from the bytes that they consist of, and back.

`pa.array`, `cast` and `to_numpy` would import pandas, if it is there, to ask whether they were given one of its series. That
takes half a second, and 40 MB of each process.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

# Arrow's own pool keeps much of what it once had, beside the memory that Python and numpy keep.
pa.set_memory_pool(pa.system_memory_pool())


def string_array(utf8: bytes, sizes: npt.NDArray[np.int64]) -> pa.Array:
    """Texts that stand one after another, each of so many bytes."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    assert offsets[-1] < 1 << 31, "a batch is a few MiB, or one document"
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(utf8)]
    return pa.Array.from_buffers(pa.string(), len(sizes), buffers)


def name_array(names: Sequence[str]) -> pa.Array:
    """Names of shards, members, splits."""
    encoded = [name.encode() for name in names]
    return string_array(b"".join(encoded), np.fromiter(map(len, encoded), np.int64, len(encoded)))


def hash_array(hashes: Sequence[bytes]) -> pa.Array:
    """Hashes of 32 bytes."""
    return pa.Array.from_buffers(pa.binary(32), len(hashes), [None, pa.py_buffer(b"".join(hashes))])


def number_array(values: npt.NDArray[np.integer[Any]]) -> pa.Array:
    """Integers, as wide as they are."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def numbers_of(column: pa.ChunkedArray, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The values of a column, of which each takes as many bytes as `dtype` says."""
    return np.concatenate(
        [np.empty(0, dtype), *(numbers_of_one(chunk, dtype) for chunk in filter(len, column.chunks))]
    )


def numbers_of_one(numbers: pa.Array, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The same of one piece of a column, without copying."""
    return np.frombuffer(numbers.buffers()[1], dtype)[numbers.offset : numbers.offset + len(numbers)]


def flag_array(values: npt.NDArray[np.bool_]) -> pa.Array:
    """Yes or no, a bit each."""
    bits = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def flags_of(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """The inverse of `flag_array`, for a column."""
    pieces = [np.empty(0, np.bool_)]
    for chunk in filter(len, column.chunks):
        bits = np.unpackbits(np.frombuffer(chunk.buffers()[1], np.uint8), bitorder="little")
        pieces.append(bits[chunk.offset : chunk.offset + len(chunk)].view(np.bool_))
    return np.concatenate(pieces)


def bytes_of(texts: pa.Array) -> list[bytes]:
    """Texts, in UTF-8."""
    kind = pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
    values: list[bytes] = texts.view(kind).to_pylist()
    return values


def texts_of(texts: pa.Array) -> tuple[memoryview, npt.NDArray[np.int64]]:
    """Texts, in UTF-8, one after another, and the size of each; without copying."""
    kind = np.dtype(np.int64 if pa.types.is_large_string(texts.type) else np.int32)
    _, offsets, content = texts.buffers()
    if not len(texts) or content is None:
        return memoryview(b""), np.zeros(len(texts), np.int64)
    ends = np.frombuffer(offsets, kind)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return memoryview(content)[ends[0] : ends[-1]], np.diff(ends)


def abandon(writer: pq.ParquetWriter) -> None:
    """Closes a writer before its file is, or it would complain later."""
    if writer.is_open:
        with contextlib.suppress(OSError):  # of a full disk: what is being thrown away need not be whole
            writer.close()


def first_line(error: Exception) -> str:
    """What an error of Arrow says, shortly."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
