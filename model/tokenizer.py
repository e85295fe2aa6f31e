"""Owns the way from text to token ids and back: the tokenizer protocol and the character tokenizer."""

import hashlib
import json
from functools import cached_property
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt

TokenArray = npt.NDArray[np.integer[Any]]

CODE_POINTS: Final = 0x110000  # Unicode ends here
BYTE_VALUES: Final = 256
# Characters counted at a time: the temporaries of a piece (8 bytes a character) stay in the CPU's cache.
COUNTING_PIECE: Final = 65_536


class Tokenizer(Protocol):
    """What the rest of brickroad asks of a tokenizer."""

    @property
    def vocabulary_size(self) -> int:
        """Number of ids; every id is in [0, vocabulary_size)."""

    @property
    def end_of_text(self) -> int:
        """The id that follows every document; `encode` never produces it."""

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of the canonical JSON: equal fingerprints encode equally."""

    def encode(self, text: str) -> TokenArray:
        """Ids of a text: 1-D, uint16 while the vocabulary fits 65,536, else uint32."""

    def decode(self, ids: npt.ArrayLike) -> str:
        """Text of any sequence of ids; `decode(encode(text)) == text`."""

    def to_json(self) -> str:
        """The tokenizer as canonical JSON text, which `tokenizer_from_json` reads back."""


def tokenizer_from_json(text: str) -> Tokenizer:
    """The tokenizer that `to_json` wrote. ValueError in one line if the text is anything else."""
    kind = _json_object(text).get("type")
    if kind == CharTokenizer.TYPE:
        return CharTokenizer.from_json(text)
    raise ValueError(
        f"unknown tokenizer type {kind!r}: this version of brickroad reads {CharTokenizer.TYPE!r}"
    )


class CharacterCounts:
    """How often each character occurs in a stream of documents; the order of the documents does not matter."""

    def __init__(self) -> None:
        # Dense, but the operating system gives memory only to the pages that are counted in.
        self._counts = np.zeros(CODE_POINTS, dtype=np.int64)

    @classmethod
    def from_pairs(cls, pairs: npt.ArrayLike) -> Self:
        """The inverse of `pairs()`. ValueError if a code point or a count cannot be one."""
        table = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        if ((table < 0) | (table >= [CODE_POINTS, np.iinfo(np.int64).max])).any():
            raise ValueError(
                "character counts hold a code point outside Unicode or a negative count; count again"
            )
        counts = cls()
        np.add.at(counts._counts, table[:, 0], table[:, 1])
        return counts

    def pairs(self) -> npt.NDArray[np.int64]:
        """[distinct, 2]: each code point that occurs and its count, by code point; `.tolist()` is JSON."""
        code_points = np.flatnonzero(self._counts)
        return np.stack([code_points, self._counts[code_points]], axis=1)

    def update(self, text: str) -> None:
        """Counts the characters of one more text."""
        for start in range(0, len(text), COUNTING_PIECE):
            code_points = _code_points(text[start : start + COUNTING_PIECE])
            is_ascii = code_points < 128
            self._counts[:128] += np.bincount(code_points[is_ascii], minlength=128)
            # A table of all of Unicode for each piece would cost more than sorting the few others.
            others, occurrences = np.unique(code_points[~is_ascii], return_counts=True)
            self._counts[others] += occurrences

    def merge(self, other: "CharacterCounts") -> None:
        """Adds the counts of another stream."""
        self._counts += other._counts

    @property
    def total(self) -> int:
        """Characters counted."""
        return int(self._counts.sum())

    @property
    def distinct(self) -> int:
        """Different characters among them."""
        return int(np.count_nonzero(self._counts))


class CharTokenizer:
    """One id a character for the frequent characters, one id a UTF-8 byte for all others.

    Ids: the characters, most frequent first (ties by code point); then the 256 byte values; then
    end-of-text. The bytes make every text encodable, so rare characters need no place in the vocabulary.
    """

    TYPE: Final = "char"
    VERSION: Final = 1

    def __init__(self, characters: list[str]) -> None:
        """`characters` in the order of their ids. ValueError if one is not one character, or stands twice."""
        for character in characters:
            if not isinstance(character, str) or len(character) != 1:
                raise ValueError(f"tokenizer: {character!r} is not one character; build the tokenizer again")
        if len(set(characters)) != len(characters):
            raise ValueError(
                "tokenizer: a character stands twice in its vocabulary; build the tokenizer again"
            )
        self.characters = tuple(characters)

    @classmethod
    def from_counts(cls, counts: CharacterCounts, *, coverage: float = 0.9999) -> Self:
        """The smallest vocabulary of most frequent characters that makes up `coverage` of all occurrences.

        `coverage` in (0, 1]; with 1 every character that was counted gets an id. ValueError otherwise, or
        if nothing was counted.
        """
        if not 0 < coverage <= 1:
            raise ValueError(f"coverage is {coverage}; it is a share of characters, above 0 and at most 1")
        code_points, occurrences = counts.pairs().T
        if code_points.size == 0:
            raise ValueError("no characters were counted; a vocabulary needs at least one document with text")
        # Stable, and `pairs` are sorted by code point: that is the order among equally frequent ones.
        by_frequency = np.argsort(-occurrences, kind="stable")
        covered = np.cumsum(occurrences[by_frequency])
        size = int(np.searchsorted(covered, coverage * covered[-1])) + 1
        return cls([chr(code_point) for code_point in code_points[by_frequency[:size]]])

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote. ValueError in one line if it is anything else."""
        fields = _json_object(text)
        if fields.get("type") != cls.TYPE or fields.get("version") != cls.VERSION:
            found = f"type {fields.get('type')!r}, version {fields.get('version')!r}"
            raise ValueError(
                f"tokenizer has {found}; this version of brickroad reads {cls.TYPE!r}, version {cls.VERSION}"
            )
        characters = fields.get("characters")
        if not isinstance(characters, list) or set(fields) != {"type", "version", "characters"}:
            raise ValueError(
                f"tokenizer has the fields {sorted(fields)}; expected type, version, characters (a list)"
            )
        return cls(characters)

    def to_json(self) -> str:
        """Canonical JSON: one character a line, in the order of ids, pure ASCII."""
        # A list, not one string: JSON would join two lone surrogates that stand side by side into one character.
        fields = {"type": self.TYPE, "version": self.VERSION, "characters": self.characters}
        return json.dumps(fields, indent=1) + "\n"

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hex, of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode("ascii")).hexdigest()

    @property
    def vocabulary_size(self) -> int:
        """Characters, 256 bytes, end-of-text."""
        return len(self.characters) + BYTE_VALUES + 1

    @property
    def first_byte(self) -> int:
        """The id of byte 0; byte b has the id first_byte + b."""
        return len(self.characters)

    @property
    def end_of_text(self) -> int:
        """The last id."""
        return self.vocabulary_size - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The integer type of ids, in memory and in token files."""
        return np.dtype(np.uint16 if self.vocabulary_size <= 65_536 else np.uint32)

    def encode(self, text: str) -> TokenArray:
        """Ids of a text, 1-D, of type `dtype`: one for a known character, else one for each UTF-8 byte."""
        code_points = _code_points(text)
        ids: TokenArray = self._id_of_code_point.take(code_points, mode="clip")
        is_rare = ids == self.end_of_text
        if not is_rare.any():
            return ids
        rare = code_points[is_rare].astype("<u4")
        rare_bytes = rare.tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8", "surrogatepass")
        # Every rare character makes room for its one to four bytes, which then move in, in order.
        places = np.ones(len(ids), dtype=np.int64)
        places[is_rare] += (rare >= 0x80).astype(np.int64) + (rare >= 0x800) + (rare >= 0x10000)
        ids = np.repeat(ids, places)
        ids[np.repeat(is_rare, places)] = (
            np.frombuffer(rare_bytes, np.uint8).astype(self.dtype) + self.first_byte
        )
        return ids

    def decode(self, ids: npt.ArrayLike) -> str:
        """Text of any sequence of ids, also one that no text encodes to.

        End-of-text renders as nothing. Bytes that are no UTF-8, as a half-trained model writes them, render
        as U+FFFD. ValueError for an id outside the vocabulary.
        """
        sequence = np.asarray(ids).reshape(-1)
        if sequence.size == 0:
            return ""
        if sequence.dtype.kind not in "iu" or sequence.min() < 0 or sequence.max() >= self.vocabulary_size:
            raise ValueError(
                f"ids to decode must be integers from 0 to {self.end_of_text}; was another tokenizer meant?"
            )
        pieces, is_used = self._utf8_of_id
        text_bytes: bytes = pieces[sequence].view(np.uint8)[is_used[sequence].view(np.bool_)].tobytes()
        try:
            return text_bytes.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return text_bytes.decode("utf-8", "replace")

    @cached_property
    def _id_of_code_point(self) -> TokenArray:
        """Ids by code point, as far as the vocabulary goes; the last entry stands for all code points beyond.

        `end_of_text`, which no character has, marks the characters that are not in the vocabulary.
        """
        code_points = _code_points("".join(self.characters))
        table = np.full(int(code_points.max(initial=0)) + 2, self.end_of_text, dtype=self.dtype)
        table[code_points] = np.arange(len(code_points), dtype=self.dtype)
        return table

    @cached_property
    def _utf8_of_id(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """For each id its UTF-8 bytes and which of the four are used: four bytes in one number, to look up at once."""
        pieces = [character.encode("utf-8", "surrogatepass") for character in self.characters]
        pieces += [bytes([value]) for value in range(BYTE_VALUES)]
        pieces.append(b"")  # end-of-text
        filled = b"".join(piece.ljust(4, b"\0") for piece in pieces)
        is_used = b"".join((b"\1" * len(piece)).ljust(4, b"\0") for piece in pieces)
        return np.frombuffer(filled, np.uint32), np.frombuffer(is_used, np.uint32)


def _code_points(text: str) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The code points of a text: uint8 if it is pure ASCII, which costs a quarter, else uint32."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _json_object(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tokenizer is not JSON ({error}); build it again") from None
    if not isinstance(fields, dict):
        raise ValueError(f"tokenizer must be a JSON object, not a {type(fields).__name__}; build it again")
    return fields
