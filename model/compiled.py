"""The door to `characters.c`: its loops, where they were compiled, and None where there was no C compiler.

They are an optional extension of the package (`pyproject.toml`), which `make setup` builds. Nothing depends on them but the
time that it takes: `tokenizer.py` says the same in numpy.
"""

import ctypes
import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt

from model.texts import Texts

Ids = npt.NDArray[np.integer[Any]]

_INTERFACE = 2  # of characters.c
_ENCODERS = {
    np.dtype(np.uint16): ("brickroad_encode_uint16", ctypes.c_uint16),
    np.dtype(np.uint32): ("brickroad_encode_uint32", ctypes.c_uint32),
}


class CharacterLoops:
    """What `characters.c` can do, from the library at `path`. OSError, ValueError or AttributeError if it is not that."""

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

    def count(self, utf8: bytes, counts: npt.NDArray[np.int64]) -> int:
        """Adds the characters of a text to `counts`, by code point.

        Returns how many bytes were counted: fewer than there are if the next character is beyond `counts`, or none.
        """
        assert counts.dtype == np.int64 and counts.flags.c_contiguous, "as the loop reads it"
        return int(self._count(utf8, len(utf8), counts.ctypes.data, len(counts)))

    def encode(
        self, texts: Texts, known: Ids, first_byte: int, end_of_text: int
    ) -> tuple[Ids, npt.NDArray[np.int64]]:
        """(ids, counts) of texts, as `Tokenizer.encode_documents` says.

        `known` are ids by code point, its last one that of all code points beyond; a character with the id `first_byte` is
        spelt in bytes. ValueError if the texts are not UTF-8.
        """
        sizes, utf8 = np.ascontiguousarray(texts.sizes, np.int64), np.frombuffer(texts.utf8, np.uint8)
        assert known.flags.c_contiguous and len(known), "as the loop reads it"
        assert (sizes >= 0).all() and sizes.sum() == len(utf8), "sizes of other texts"
        # No character has more ids than bytes.
        ids, counts = np.empty(len(utf8) + len(sizes), known.dtype), np.empty(len(sizes), np.int64)
        vocabulary = known.ctypes.data, len(known), first_byte, end_of_text
        found = self._encoders[known.dtype](
            utf8.ctypes.data, sizes.ctypes.data, len(sizes), *vocabulary, ids.ctypes.data, counts.ctypes.data
        )
        if found < 0:
            raise ValueError("texts to encode are not UTF-8")
        return ids[:found], counts


def _load() -> CharacterLoops | None:
    built = importlib.util.find_spec("model._characters")
    if not built or not built.origin:
        return None
    try:
        return CharacterLoops(built.origin)
    except (OSError, ValueError, AttributeError):  # of another machine, or another version
        return None


loops = _load()
