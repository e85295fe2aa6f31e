"""Owns byte-level byte-pair encoding, GPT-2's way: text -> words -> bytes -> the merges that were learnt, in their order.

A tokenizer is a Hugging Face `tokenizer.json`, which other programs read as well. What encodes a whole corpus is a faster
program that gives the same ids; this one needs nothing but Python, and shows how it works.
"""

import functools
import hashlib
import heapq
import itertools
import json
import operator
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from model import compiled
from model.byte_pairs import SYMBOLS, Merges
from model.texts import Texts
from model.unicode_16 import BLANKS, LETTERS, NUMBERS, Ranges

TokenArray = npt.NDArray[np.integer[Any]]

END_OF_TEXT: Final = "<|endoftext|>"
_WORDS_REMEMBERED: Final = 1 << 16
_LONGEST_REMEMBERED: Final = 64  # characters: else a server's memory would fill with what strangers send
_MAXIMUM_IDS: Final = 1 << 24


def byte_level_json(vocabulary: dict[str, int], merges: Sequence[Sequence[str]]) -> str:
    """A `tokenizer.json` as the libraries `tokenizers` and `transformers` read it; the same arguments, the same text.

    They are those of `byte_level_fields`.
    """
    return json_of(byte_level_fields(vocabulary, merges))


def json_of(fields: dict[str, Any]) -> str:
    """The text of a `tokenizer.json`."""
    return json.dumps(fields, ensure_ascii=False) + "\n"  # an indent would take ten times as long


def byte_level_fields(vocabulary: dict[str, int], merges: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What a `tokenizer.json` of GPT-2's kind says.

    `vocabulary` has every token but end-of-text, spelt in the characters of `byte_characters`, with ids from 0 without a
    gap; end-of-text becomes the id after the last.
    """
    end_of_text = len(vocabulary)
    by_id = dict(sorted({**vocabulary, END_OF_TEXT: end_of_text}.items(), key=operator.itemgetter(1)))
    assert [*by_id.values()] == [*range(end_of_text + 1)], "ids have a gap"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {
        "id": end_of_text, "content": END_OF_TEXT, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    }  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,  # nosec B105 # a token of text, no password
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": by_id, "merges": merges,
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special], "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": byte_level | {"trim_offsets": False},
        "decoder": byte_level, "model": model,
    }  # fmt: skip


def byte_characters() -> list[str]:
    """The character that stands for each byte in a vocabulary: itself if it can be printed, else one from 256 on.

    From GPT-2's code (openai/gpt-2, src/encoder.py, `bytes_to_unicode`).
    """
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _as_bytes(spelt: str) -> bytes:
    """The bytes that characters of a vocabulary stand for; each must be one of `byte_characters`."""
    byte_of = {ord(character): byte for byte, character in enumerate(byte_characters())}
    return spelt.translate(byte_of).encode("latin-1")


class BpeTokenizer:
    """Byte-level BPE with GPT-2's rule of what a word is. Every text can be encoded: the 256 bytes are tokens."""

    def __init__(
        self, vocabulary: dict[str, int], merges: list[str | list[str]], end_of_text: int, text: str
    ) -> None:
        """Spelt as in `tokenizer.json`, whose whole text is `text`. What only encoding needs is made when it is needed.

        ValueError, then at the latest, if it is not byte-level BPE.
        """
        self._json = text
        self.end_of_text = end_of_text
        tokens = {token: number for token, number in vocabulary.items() if number != end_of_text}
        spelt = "".join(tokens)
        if unknown := set(spelt).difference(byte_characters()):
            raise ValueError(f"tokenizer: {min(unknown)!r} stands for no byte; it is not byte-level BPE")
        spelt_bytes = _as_bytes(spelt)  # all at once, since each character is one byte
        ends = itertools.accumulate(map(len, tokens))
        self.vocabulary_size = max([*tokens.values(), end_of_text]) + 1
        if min(tokens.values(), default=0) < 0 or self.vocabulary_size > _MAXIMUM_IDS:
            raise ValueError(f"tokenizer: ids must be from 0 to {_MAXIMUM_IDS - 1:,}")
        self._bytes_of_id = [b""] * self.vocabulary_size
        for (token, number), end in zip(tokens.items(), ends, strict=True):
            self._bytes_of_id[number] = spelt_bytes[end - len(token) : end]
        self._merges = merges
        self._ids_of_word = functools.lru_cache(_WORDS_REMEMBERED)(self._merged)

    @cached_property
    def _id_of_bytes(self) -> dict[bytes, int]:
        ids = {token: number for number, token in enumerate(self._bytes_of_id) if token}
        if missing := [byte for byte in range(256) if bytes([byte]) not in ids]:
            raise ValueError(f"tokenizer: its vocabulary lacks byte {missing[0]}")
        return ids

    @cached_property
    def _rank_of_pair(self) -> dict[tuple[bytes, bytes], int]:
        byte_of = {character: byte for byte, character in enumerate(byte_characters())}
        ranks = {
            (bytes(byte_of[c] for c in left), bytes(byte_of[c] for c in right)): rank
            for rank, (left, right) in enumerate(zip(*_sides(self._merges), strict=True))
        }
        if any(left + right not in self._id_of_bytes for left, right in ranks):
            raise ValueError("tokenizer: its vocabulary lacks a merged pair")
        return ranks

    @cached_property
    def _compiled(self) -> compiled.BytePairs | None:
        merges = learnt_merges(json.loads(self._json))
        return merges.encoder() if merges else None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a `tokenizer.json` of GPT-2's kind. ValueError in one line if it is anything else."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not a tokenizer.json of byte-level BPE ({error!r})") from None
        return cls.from_fields(fields, text)

    @classmethod
    def from_fields(cls, fields: Any, text: str) -> Self:
        """What `from_json` reads, from the JSON of `text` as Python has it."""
        try:
            merges = list(fields["model"]["merges"])
            vocabulary = dict(fields["model"]["vocab"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a tokenizer.json of byte-level BPE ({error!r})") from None
        if not is_gpt2_kind(fields):
            raise ValueError("a tokenizer.json, but not of GPT-2's kind")
        return cls(vocabulary, merges, fields["added_tokens"][0]["id"], text)

    def to_json(self) -> str:
        """The `tokenizer.json` it was read from."""
        return self._json

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hex, of the JSON."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The integer type of ids, in memory and in token files."""
        return np.dtype(np.uint16 if self.vocabulary_size <= 65_536 else np.uint32)

    def encode(self, text: str) -> TokenArray:
        """Ids of a text, 1-D. A literal `<|endoftext|>` is text like any other."""
        ids: list[int] = []
        for word in _words().findall(text):
            ids += self._ids_of_word(word) if len(word) <= _LONGEST_REMEMBERED else self._merged(word)
        return np.array(ids, self.dtype)

    def encode_documents(self, texts: Texts) -> tuple[TokenArray, npt.NDArray[np.int64]]:
        """(ids, counts) of texts, as the protocol says."""
        if compiled.loops and self._compiled:
            return self._compiled.encode_documents(texts)
        end = np.array([self.end_of_text], self.dtype)
        encoded = [np.append(self.encode(text.decode()), end) for text in texts]
        counts = np.array([len(ids) for ids in encoded], np.int64)
        return np.concatenate(encoded) if encoded else np.empty(0, self.dtype), counts

    def decode(self, ids: npt.ArrayLike) -> str:
        """Text of any sequence of ids; end-of-text renders as nothing, bytes that are no UTF-8 as U+FFFD.

        ValueError for an id outside the vocabulary.
        """
        sequence = np.asarray(ids).reshape(-1)
        if sequence.size and (
            sequence.dtype.kind not in "iu" or sequence.min() < 0 or sequence.max() >= self.vocabulary_size
        ):
            raise ValueError(
                f"ids to decode must be integers from 0 to {self.vocabulary_size - 1}; was another tokenizer meant?"
            )
        utf8 = b"".join(map(self._bytes_of_id.__getitem__, sequence.tolist()))
        try:
            return utf8.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return utf8.decode("utf-8", "replace")

    def _merged(self, word: str) -> list[int]:
        """Ids of a word: its bytes, of which the neighbours with the earliest merge are joined until there is none.

        A heap keeps the pairs in that order, so that a word of 20,000 letters, as a prompt may be, takes no longer than others do.
        """
        parts = [bytes([byte]) for byte in word.encode("utf-8", "surrogatepass")]
        end = len(parts)
        before, after = [*range(-1, end - 1)], [*range(1, end + 1)]  # the places of neighbours
        pairs: list[tuple[int, int, tuple[bytes, bytes]]] = []  # (rank, place of the left one, both)

        def note(left: int, right: int) -> None:
            if (
                left >= 0
                and right < end
                and (rank := self._rank_of_pair.get((parts[left], parts[right]))) is not None
            ):
                heapq.heappush(pairs, (rank, left, (parts[left], parts[right])))

        for place in range(end - 1):
            note(place, place + 1)
        while pairs:
            _, place, pair = heapq.heappop(pairs)
            other = after[place]
            if other == end or (parts[place], parts[other]) != pair:
                continue  # one of them has been joined to another meanwhile
            parts[place], parts[other] = pair[0] + pair[1], b""
            after[place] = after[other]
            if after[place] < end:
                before[after[place]] = place
            note(before[place], place)
            note(place, after[place])
        return [self._id_of_bytes[part] for part in parts if part]


def learnt_merges(fields: Any) -> Merges | None:
    """What `byte_pairs.c` merges, from a parsed `tokenizer.json` of GPT-2's kind.

    None if that is nothing for it: there are more ids or symbols than 16 bits have, or a merge takes what none before it makes.
    """
    vocabulary, end_of_text = fields["model"]["vocab"], fields["added_tokens"][0]["id"]
    try:
        lefts, rights = _sides(fields["model"]["merges"])
        spelt = [*byte_characters(), *map(operator.add, lefts, rights)]
        ids = np.fromiter(map(vocabulary.__getitem__, spelt), np.int64, len(spelt))
        # Of tokens that two merges make, the first one's number.
        symbol_of = dict(zip(reversed(spelt), range(len(spelt) - 1, -1, -1), strict=True))
        left, right, first = (
            np.fromiter(map(symbol_of.__getitem__, some), np.int64, len(some))
            for some in (lefts, rights, spelt[256:])
        )
    # What is wrong is said where it is read to be used without the compiled loop.
    except (KeyError, ValueError, TypeError):
        return None
    numbers = np.arange(256, len(spelt))
    if (
        max(len(spelt), ids.max(), end_of_text) >= SYMBOLS
        or min(ids.min(), end_of_text) < 0
        or (np.maximum(left, right) >= numbers).any()
        or len(np.unique(left * SYMBOLS + right)) < len(left)
    ):
        return None
    spelt_bytes = np.frombuffer(_as_bytes("".join(spelt)), np.uint8)
    sizes = np.fromiter(map(len, spelt), np.int64, len(spelt))
    after = np.cumsum(sizes)
    symbols = np.stack([left, right, numbers], axis=1)
    # The same token by another merge merges like the first.
    for again in np.flatnonzero(first != numbers):
        for side in (0, 1):
            same = symbols[symbols[:, side] == first[again]]
            same[:, side] = numbers[again]
            symbols = np.concatenate([symbols, same])
    ends = np.stack(
        [spelt_bytes[after - 1][symbols[:, 0]], spelt_bytes[after - sizes][symbols[:, 1]]], axis=1
    )
    id_of_symbol = np.zeros(SYMBOLS, np.uint16)
    id_of_symbol[: len(ids)] = ids
    return Merges(
        symbols=symbols.astype(np.uint16),
        ends=ends,
        ids=id_of_symbol,
        end_of_text=end_of_text,
    )


def _sides(merges: Sequence[str | Sequence[str]]) -> tuple[list[str], list[str]]:
    """The left and the right tokens of merges in either of the two spellings of `tokenizer.json`."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return [left for left, _ in pairs], [right for _, right in pairs]


_FEATURES_NOT_KNOWN: Final = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


def is_gpt2_kind(fields: Any) -> bool:
    """Whether a parsed `tokenizer.json` means byte-level BPE with GPT-2's words, and nothing else."""
    try:
        model, before, after = fields["model"], fields["pre_tokenizer"], fields["decoder"]
        return (
            model["type"] == "BPE"
            and isinstance(model["vocab"], dict)
            and isinstance(model["merges"], list)
            and not any(model.get(key) for key in _FEATURES_NOT_KNOWN)
            and fields.get("normalizer") is None
            and before["type"] == after["type"] == "ByteLevel"
            and not before["add_prefix_space"]
            and before.get("use_regex", True)
            and [token["content"] for token in fields["added_tokens"]] == [END_OF_TEXT]
        )
    except (KeyError, TypeError, AttributeError):
        return False


@functools.cache
def _words() -> re.Pattern[str]:
    """GPT-2's pattern for words (openai/gpt-2, src/encoder.py), for a `re` that does not know `\\\\p{L}`."""
    letter, number, space = map(_in_brackets, (LETTERS, NUMBERS, BLANKS))
    return re.compile(
        rf"'(?:[sdmt]|ll|ve|re)| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+|[{space}]+(?![^{space}])|[{space}]+"
    )


def _in_brackets(ranges: Ranges) -> str:
    """Characters as they stand between brackets in a pattern."""
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges)
