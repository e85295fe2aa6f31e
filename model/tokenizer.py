"""Owns the way from text to token ids and back: the tokenizer protocol and the character tokenizer."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt

from model import compiled
from model.bpe import BpeTokenizer
from model.texts import Texts

TokenArray = npt.NDArray[np.integer[Any]]

CODE_POINTS: Final = 0x110000  # Unicode ends here
BYTE_VALUES: Final = 256
# Bytes counted or encoded at a time: what numpy makes of a piece stays near the CPU's cache.
PIECE_BYTES: Final = 256 << 10
SEPARATOR: Final = b"\xff"  # after each of the documents that are encoded together: no UTF-8 has this byte
SEPARATOR_CODE_POINT: Final = 0xDCFF  # what Python makes of it
_FEW_ARE_ONE_IN: Final = 256
# Of counts by code point: ASCII, what most of the living scripts need, what nearly all texts need, and all of Unicode.
_TABLE_SIZES: Final = (0x80, 0x3000, 0x20000, CODE_POINTS)


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

    def encode_documents(self, texts: Texts) -> tuple[TokenArray, npt.NDArray[np.int64]]:
        """(ids, counts) of texts: all ids one after another, with end-of-text after each document; and how many
        ids each document has, end-of-text counted."""

    def decode(self, ids: npt.ArrayLike) -> str:
        """Text of any sequence of ids; `decode(encode(text)) == text`."""

    def to_json(self) -> str:
        """The tokenizer as canonical JSON text, which `tokenizer_from_json` reads back."""


def tokenizer_from_json(text: str) -> Tokenizer:
    """The tokenizer that `to_json` wrote. ValueError in one line if the text is anything else."""
    fields = _json_object(text)
    if fields.get("type") == CharTokenizer.TYPE:
        return CharTokenizer.from_json(text)
    if "model" in fields:
        return BpeTokenizer.from_fields(fields, text)
    raise ValueError(
        f"unknown tokenizer type {fields.get('type')!r}: this version of brickroad reads {CharTokenizer.TYPE!r} "
        "and tokenizer.json of byte-level BPE"
    )


class CharacterCounts:
    """How often each character occurs in a stream of documents; the order of the documents does not matter."""

    def __init__(self) -> None:
        self._counts = np.zeros(
            128, dtype=np.int64
        )  # by code point, at least as far as the highest one counted

    @classmethod
    def from_pairs(cls, pairs: npt.ArrayLike) -> Self:
        """The inverse of `pairs()`. ValueError if a code point or a count cannot be one."""
        counts = cls()
        counts.add_pairs(pairs)
        return counts

    def add_pairs(self, pairs: npt.ArrayLike) -> None:
        """Adds what `pairs()` of another stream gave. ValueError if a code point or a count cannot be one."""
        table = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        if ((table < 0) | (table >= [CODE_POINTS, np.iinfo(np.int64).max])).any():
            raise ValueError(
                "character counts hold a code point outside Unicode or a negative count; count again"
            )
        self._make_room(int(table[:, 0].max(initial=0)) + 1)
        np.add.at(self._counts, table[:, 0], table[:, 1])

    def pairs(self) -> npt.NDArray[np.int64]:
        """[distinct, 2]: each code point that occurs and its count, by code point; `.tolist()` is JSON."""
        code_points = np.flatnonzero(
            self._counts != 0
        )  # of the counts themselves it would take ten times as long
        return np.stack([code_points, self._counts[code_points]], axis=1)

    def update(self, text: str) -> None:
        """Counts the characters of one more text."""
        self.update_utf8(text.encode("utf-8", "surrogatepass"))

    def update_utf8(self, utf8: bytes) -> None:
        """Counts the characters of one more text, or of several joined. ValueError if it is not UTF-8."""
        if compiled.loops:
            self._count_compiled(compiled.loops, utf8)
        else:
            self._count_in_numpy(utf8)

    def _count_compiled(self, loops: compiled.Loops, utf8: bytes) -> None:
        for code_points in _TABLE_SIZES:
            self._make_room(code_points)
            utf8 = utf8[loops.count(utf8, self._counts) :]
            if not utf8:
                return
        raise ValueError("text to count is not UTF-8")

    def _count_in_numpy(self, utf8: bytes) -> None:
        # Two bytes at a time take half as long, and the few that are not ASCII are then looked at by themselves.
        pairs, high = np.zeros(1 << 16, np.int64), list[npt.NDArray[np.uint8]]()
        for piece in _pieces(utf8):
            pairs += np.bincount(piece[: len(piece) & ~1].view("<u2"), minlength=1 << 16)
            if len(piece) % 2 and piece[-1] < 0x80:
                self._counts[piece[-1]] += 1
            high.append(piece[piece >= 0x80])
        table = pairs.reshape(256, 256)
        self._counts[:128] += (table.sum(axis=0) + table.sum(axis=1))[:128]
        not_ascii = np.concatenate([np.empty(0, np.uint8), *high]).tobytes()
        if not_ascii:
            self._add(np.bincount(_code_points(not_ascii.decode("utf-8", "surrogatepass"))))

    def merge(self, other: "CharacterCounts") -> None:
        """Adds the counts of another stream."""
        self._add(other._counts)

    def remove(self, other: "CharacterCounts") -> None:
        """Takes away the counts of a part of this stream."""
        assert len(other._counts) <= len(self._counts), "no part of it"
        self._counts[: len(other._counts)] -= other._counts

    def _add(self, counts: npt.NDArray[np.int64]) -> None:
        self._make_room(len(counts))
        self._counts[: len(counts)] += counts

    def _make_room(self, code_points: int) -> None:
        if len(self._counts) < code_points:
            grown = np.zeros(code_points, np.int64)
            grown[: len(self._counts)] = self._counts
            self._counts = grown

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
        return self._encode_code_points(_code_points(text))

    def encoded_length(self, characters: npt.NDArray[np.int64]) -> int:
        """How many ids texts have in all, of which the characters were counted: [distinct, 2] as `CharacterCounts.pairs()`."""
        code_points, counts = characters.T
        is_rare = self._id_of_code_point.take(code_points, mode="clip") == self.first_byte
        return int(counts.sum() + (counts * (_utf8_sizes(code_points) - 1))[is_rare].sum())

    def encode_documents(self, texts: Texts) -> tuple[TokenArray, npt.NDArray[np.int64]]:
        """(ids, counts) of texts, as the protocol says."""
        if compiled.loops:
            return compiled.loops.encode_characters(
                texts, self._id_of_code_point, self.first_byte, self.end_of_text
            )
        encoded = []
        for piece in _pieces(SEPARATOR.join([*texts, b""])):
            # Python reads a byte that is no UTF-8 as a lone surrogate, which no valid text has: SEPARATOR_CODE_POINT.
            code_points = _code_points(piece.tobytes().decode("utf-8", "surrogateescape"))
            encoded.append(self._encode_code_points(code_points, separator=self.end_of_text))
        ids = np.concatenate(encoded) if encoded else np.empty(0, self.dtype)
        return ids, np.diff(np.flatnonzero(ids == self.end_of_text) + 1, prepend=0)

    def _encode_code_points(
        self, code_points: npt.NDArray[np.uint32], separator: int | None = None
    ) -> TokenArray:
        """Ids of code points; SEPARATOR_CODE_POINT becomes the id `separator`, if that is given."""
        ids: TokenArray = self._id_of_code_point.take(code_points, mode="clip")
        rare = np.flatnonzero(ids == self.first_byte)
        if separator is not None:
            is_separator = code_points[rare] == SEPARATOR_CODE_POINT
            ids[rare[is_separator]] = separator
            rare = rare[~is_separator]
        if not rare.size:
            return ids
        # Every rare character makes room for its one to four bytes, which then move in, in order.
        spelt = code_points[rare].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
        spelt_bytes = spelt.encode("utf-8", "surrogatepass")
        spelt_ids = np.frombuffer(spelt_bytes, np.uint8).astype(self.dtype) + self.dtype.type(self.first_byte)
        ends = np.cumsum(_utf8_sizes(code_points[rare]))
        if rare.size * _FEW_ARE_ONE_IN < len(ids):  # copying what lies between them is the least work
            between = np.split(ids, rare)
            pieces = [between[0]]
            for own, rest in zip(np.split(spelt_ids, ends[:-1]), between[1:], strict=True):
                pieces += [own, rest[1:]]
            return np.concatenate(pieces)
        places = np.ones(len(ids), dtype=np.int64)
        places[rare] = np.diff(ends, prepend=0)
        is_spelt = np.zeros(len(ids), np.bool_)
        is_spelt[rare] = True
        ids = np.repeat(ids, places)
        ids[np.repeat(is_spelt, places)] = spelt_ids
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

        `first_byte` marks the characters that are not in the vocabulary, and has to be looked at again: it is also the id
        that a rare NUL ends with.
        """
        code_points = np.array([ord(character) for character in self.characters], np.int64)
        table = np.full(int(code_points.max(initial=0)) + 2, self.first_byte, dtype=self.dtype)
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


def _pieces(utf8: bytes) -> Iterator[npt.NDArray[np.uint8]]:
    """UTF-8 in pieces of about PIECE_BYTES that cut no character."""
    whole, start = np.frombuffer(utf8, np.uint8), 0
    while start < len(whole):
        end = min(start + PIECE_BYTES, len(whole))
        while end < len(whole) and whole[end] & 0xC0 == 0x80:  # a continuation byte
            end += 1
        yield whole[start:end]
        start = end


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _utf8_sizes(code_points: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """How many bytes each character takes."""
    return 1 + (code_points >= 0x80).astype(np.int64) + (code_points >= 0x800) + (code_points >= 0x10000)


def _json_object(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tokenizer is not JSON ({error}); build it again") from None
    if not isinstance(fields, dict):
        raise ValueError(f"tokenizer must be a JSON object, not a {type(fields).__name__}; build it again")
    return fields
