"""The door to `characters.c` and `byte_pairs.c`: their loops, where they were compiled, and None where there was no C compiler.

They are an optional extension of the package (`pyproject.toml`), which `make setup` builds. Nothing depends on them but the
time that it takes: `tokenizer.py` says the same in numpy, and `bpe.py` in Python.
"""

import ctypes
import importlib.util
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from model.texts import Texts

Ids = npt.NDArray[np.integer[Any]]

_INTERFACE = 3  # of the C files
_ENCODERS = {
    np.dtype(np.uint16): ("brickroad_encode_uint16", ctypes.c_uint16),
    np.dtype(np.uint32): ("brickroad_encode_uint32", ctypes.c_uint32),
}

# What byte_pairs.c calls so.
_PAIR_BITS = 17
_WORD_DTYPE = np.dtype([("low", "u8"), ("high", "u8"), ("ids", "u2", 7), ("count", "u2")])
_WAYS = 2
_MORE_IDS = 7
_NOT_UTF8, _NO_MEMORY = -1, -2


class _BytePairTables(ctypes.Structure):
    """`struct byte_pairs`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("kinds", "ids", "two_bytes", "neighbours", "pairs", "words")),
        ("word_bits", ctypes.c_int64),
        ("end_of_text", ctypes.c_int64),
    )


class Loops:
    """What the C files can do, from the library at `path`. OSError, ValueError or AttributeError if it is not that."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)  # which lets other threads run while it works
        if ctypes.c_int32.in_dll(library, "brickroad_interface").value != _INTERFACE:
            raise OSError("was compiled from another version")
        size, array = ctypes.c_int64, ctypes.c_void_p
        self._count = library.brickroad_count
        self._count.argtypes, self._count.restype = [ctypes.c_char_p, size, array, size], size
        self._encoders = {}
        for dtype, (name, number) in _ENCODERS.items():
            encode = self._encoders[dtype] = library[name]
            encode.argtypes = [array, array, size, array, size, number, number, array, array]
            encode.restype = size
        tables = ctypes.POINTER(_BytePairTables)
        self.prepare_byte_pairs = library.brickroad_byte_pairs_prepare
        self.prepare_byte_pairs.argtypes = [tables, array, array, size]
        self.encode_byte_pairs = library.brickroad_byte_pairs_encode
        self.encode_byte_pairs.argtypes = [tables, array, array, size, array, array, array]
        self.encode_byte_pairs.restype = size

    def count(self, utf8: bytes, counts: npt.NDArray[np.int64]) -> int:
        """Adds the characters of a text to `counts`, by code point.

        Returns how many bytes were counted: fewer than there are if the next character is beyond `counts`, or none.
        """
        assert counts.dtype == np.int64 and counts.flags.c_contiguous, "as the loop reads it"
        return int(self._count(utf8, len(utf8), counts.ctypes.data, len(counts)))

    def encode_characters(
        self, texts: Texts, known: Ids, first_byte: int, end_of_text: int
    ) -> tuple[Ids, npt.NDArray[np.int64]]:
        """(ids, counts) of texts, as `Tokenizer.encode_documents` says.

        `known` are ids by code point, its last one that of all code points beyond; a character with the id `first_byte` is
        spelt in bytes. ValueError if the texts are not UTF-8.
        """
        assert known.flags.c_contiguous and len(known), "as the loop reads it"
        utf8, sizes = _arrays(texts)
        # No character has more ids than bytes.
        ids, counts = np.empty(len(utf8) + len(sizes), known.dtype), np.empty(len(sizes), np.int64)
        vocabulary = known.ctypes.data, len(known), first_byte, end_of_text
        found = self._encoders[known.dtype](
            utf8.ctypes.data, sizes.ctypes.data, len(sizes), *vocabulary, ids.ctypes.data, counts.ctypes.data
        )
        if found < 0:
            raise ValueError("texts to encode are not UTF-8")
        return ids[:found], counts


class NoRoom(Exception):
    """There are too many merges for the tables of `byte_pairs.c`."""


class BytePairs:
    """Byte-pair encoding by `byte_pairs.c`. It remembers words, in a table that does not grow.

    `kinds` has the kind of each code point, [0x110000]; `ids` the id of each symbol, [65536]. Of each merge: `merges` has three
    symbols, [merges, 3], left, right and what they make, which is the smaller the earlier it was learnt; and `ends` the last
    byte of the left one and the first byte of the right one, [merges, 2]. Raises NoRoom.
    """

    def __init__(
        self,
        loops: Loops,
        *,
        kinds: npt.NDArray[np.uint8],
        ids: npt.NDArray[np.uint16],
        merges: npt.NDArray[np.uint16],
        ends: npt.NDArray[np.uint8],
        end_of_text: int,
        word_bits: int,
    ) -> None:
        assert kinds.shape == (0x110000,) and ids.shape == (1 << 16,) and merges.shape == (len(ends), 3)
        self._loops = loops
        self._arrays: dict[str, npt.NDArray[Any]] = {
            "kinds": np.ascontiguousarray(kinds, np.uint8),
            "ids": np.ascontiguousarray(ids, np.uint16),
            "two_bytes": np.empty(1 << 16, np.uint16),
            "neighbours": np.empty(1 << 10, np.uint64),
            "pairs": np.empty(1 << _PAIR_BITS, np.uint32),
            "words": _aligned_zeros(_WAYS << word_bits, _WORD_DTYPE),
        }
        pointers = {name: array.ctypes.data for name, array in self._arrays.items()}
        self._tables = _BytePairTables(**pointers, word_bits=word_bits, end_of_text=end_of_text)
        self._one_at_a_time = threading.Lock()
        merges, ends = np.ascontiguousarray(merges, np.uint16), np.ascontiguousarray(ends, np.uint8)
        if loops.prepare_byte_pairs(self._tables, merges.ctypes.data, ends.ctypes.data, len(merges)):
            raise NoRoom(f"{len(merges):,} merges find no room in a table of {1 << _PAIR_BITS:,}")

    def encode_documents(self, texts: Texts) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
        """(ids, counts) of texts, as `Tokenizer.encode_documents` says. ValueError if they are not UTF-8."""
        utf8, sizes = _arrays(texts)
        # No byte has more than one id.
        ids = np.empty(len(utf8) + len(sizes) + _MORE_IDS, np.uint16)
        counts = np.empty(len(sizes), np.int64)
        starts = np.empty(sizes.max(initial=0) // 64 + 1, np.uint64)
        arguments = utf8.ctypes.data, sizes.ctypes.data, len(sizes), starts.ctypes.data, ids.ctypes.data
        with self._one_at_a_time:
            found = self._loops.encode_byte_pairs(self._tables, *arguments, counts.ctypes.data)
        if found == _NOT_UTF8:
            raise ValueError("texts to encode are not UTF-8")
        if found == _NO_MEMORY:
            raise MemoryError("not enough memory for the longest word of texts to encode")
        return ids[:found], counts


def _arrays(texts: Texts) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Bytes and sizes as the loops read them."""
    utf8, sizes = np.frombuffer(texts.utf8, np.uint8), np.ascontiguousarray(texts.sizes, np.int64)
    assert (sizes >= 0).all() and sizes.sum() == len(utf8), "sizes of other texts"
    return utf8, sizes


def _aligned_zeros(length: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Zeros that begin where a line of the cache does."""
    line = 64
    whole = np.zeros(length * dtype.itemsize + line, np.uint8)
    start = -whole.ctypes.data % line
    return whole[start : start + length * dtype.itemsize].view(dtype)


def _load() -> Loops | None:
    built = importlib.util.find_spec("model._loops")
    if not built or not built.origin:
        return None
    try:
        return Loops(built.origin)
    except (OSError, ValueError, AttributeError):  # of another machine, or another version
        return None


loops = _load()
