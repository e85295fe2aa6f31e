"""The words of a text as numbers: what shared passages and near duplicates are found by.

A word is what GPT-3's filter against test texts takes for one (Brown et al. 2020, arXiv:2005.14165, appendix C): "a
lowercase, whitespace delimited word with no punctuation". Removed are punctuation, symbols and control characters of any
script (Unicode's categories P, S, Cc, Cf). Where a script is written without blanks (Chinese, Japanese, Thai, Lao, Khmer,
Burmese, Tibetan), each character is a word: a whole sentence as one word would be shared by nobody.

A hash is a polynomial modulo 2^64 in the word's characters, mixed; it depends on no library, process or machine, but for
the Unicode tables of Python, which grow with its versions. Texts are taken many at a time: numpy costs little for a
character and much for a call.
"""

import functools
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

# Classes of characters. The first three are what text is made of.
_WORD, _BLANK, _ALONE, _REMOVED, _UNASSIGNED = range(5)
_ALONE_RANGES = (
    (0x0E00, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007),
    (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9D),
    (0x1B000, 0x1B16F), (0x20000, 0x3FFFD),
)  # fmt: skip
# Texts are hashed in pieces that a CPU's cache has room for. Whoever writes more than this without an ASCII blank has his
# word cut there.
_PIECE_BYTES = 256 << 10
_NO_ASCII_BLANKS = bytes(byte for byte in range(256) if byte not in b" \n\t\r\f\v")
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64


def hashed_words(texts: Sequence[bytes]) -> tuple[Hashes, Counts]:
    """The hashes of the words of all texts, one text after another, and how many words each text has.

    `texts` are valid UTF-8. Memory beyond the result: some MiB, and the longest text once more.
    """
    pieces, owners = list[bytes](), list[int]()
    for number, text in enumerate(texts):
        for piece in _pieces(text):
            pieces.append(piece)
            owners.append(number)
    hashes = [np.empty(0, np.uint64)] * len(pieces)
    is_ascii = [piece.isascii() for piece in pieces]
    for kind in (True, False):
        for group in _groups([number for number, one in enumerate(is_ascii) if one == kind], pieces):
            for number, words in zip(group, _hashed([pieces[one] for one in group], kind), strict=True):
                hashes[number] = words
    counts = np.bincount(owners, [len(words) for words in hashes], len(texts)).astype(np.int64)
    return np.concatenate([np.empty(0, np.uint64), *hashes]), counts


def hashed_ngrams(
    words: Hashes, counts: Counts, size: int, *, short_texts: bool = False
) -> tuple[Hashes, Counts]:
    """The hashes of `size` neighbouring words, text by text, and how many each text has: one less than its words for each
    word beyond the first, none if it has fewer words. With `short_texts`, fewer words are one n-gram as they are.
    """
    ngrams = np.zeros(max(0, len(words) - size + 1), np.uint64)
    for place in range(size):
        ngrams += words[place : place + len(ngrams)] * _odd(place)
    ngrams = _mixed(ngrams)
    found = np.maximum(counts - size + 1, 0)
    ends = np.cumsum(counts)
    is_inside = np.repeat(np.tile([True, False], len(counts)), np.ravel([found, counts - found], "F"))
    # The n-grams that begin in the last words of a text would end in the next one.
    ngrams = ngrams[is_inside[: len(ngrams)]]
    if not short_texts:
        return ngrams, found
    is_short = (counts > 0) & (counts < size)
    starts = np.cumsum(found) - found
    whole = [
        int(hashed_ngrams(words[end - count : end], np.array([count]), int(count))[0][0])
        for end, count in zip(ends[is_short].tolist(), counts[is_short].tolist(), strict=True)
    ]
    return np.insert(ngrams, starts[is_short], np.array(whole, np.uint64)), found + is_short


def combined(columns: npt.NDArray[np.unsignedinteger]) -> Hashes:
    """One hash for each row of a table of numbers."""
    hashes = np.zeros(len(columns), np.uint64)
    for place in range(columns.shape[1]):
        hashes += columns[:, place].astype(np.uint64) * _odd(place)
    return _mixed(hashes)


def words_of(text: str) -> list[str]:
    """The words of a text as strings, to be shown: those that `hashed_words` has the hashes of."""
    text = text.lower()
    classes = dict(zip(map(ord, text), _classes()[_codes(text)].tolist(), strict=True))
    table = {
        code: None if kind == _REMOVED else f" {chr(code)} "
        for code, kind in classes.items()
        if kind in (_REMOVED, _ALONE)
    }
    return text.translate(table).split()


def characters(utf8: bytes) -> int:
    """How many characters (code points) a text has."""
    if utf8.isascii():
        return len(utf8)
    return int(np.count_nonzero(np.frombuffer(utf8, np.int8) >= -64))  # all bytes but continuation bytes


def letter_share(utf8: bytes) -> float:
    """The share of a text's characters that are letters, marks, digits (Unicode's L, M, N) or blanks, of any script.

    The rest is punctuation, symbols, control characters and what Unicode does not know. An empty text has 1.0.
    """
    if not utf8:
        return 1.0
    if utf8.isascii():
        return 1 - len(utf8.translate(None, _ascii_letters())) / len(utf8)
    text_like = total = 0
    for piece in _pieces(utf8):
        classes = _classes()[_codes(piece.decode())]
        text_like += int(np.count_nonzero(classes <= _ALONE))
        total += len(classes)
    return text_like / total


def _pieces(text: bytes) -> Iterator[bytes]:
    """A text whole, or cut behind blanks."""
    start = 0
    while len(text) - start > _PIECE_BYTES:
        window = text[start : start + _PIECE_BYTES]
        end = len(window.rstrip(_NO_ASCII_BLANKS)) or _whole_characters(window)
        yield window[:end]
        start += end
    yield text[start:] if start else text


def _whole_characters(window: bytes) -> int:
    """Where the last character of a window begins, which may be cut."""
    end = len(window) - 1
    while window[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _groups(numbers: list[int], pieces: list[bytes]) -> Iterator[list[int]]:
    """Numbers of neighbouring pieces that together are about as long as one may be."""
    group, size = list[int](), 0
    for number in numbers:
        if group and size + len(pieces[number]) > _PIECE_BYTES:
            yield group
            group, size = [], 0
        group.append(number)
        size += len(pieces[number]) + 1
    if group:
        yield group


def _hashed(pieces: list[bytes], is_ascii: bool) -> list[Hashes]:
    """The hashes of the words of each piece; the pieces are parted by a blank and hashed at once."""
    if is_ascii:
        cleaned = [piece.translate(_ascii_lower(), _ascii_removed()) for piece in pieces]
        lengths = np.array([len(one) + 1 for one in cleaned])
        codes: npt.NDArray[np.unsignedinteger] = np.frombuffer(b"\n".join([*cleaned, b""]), np.uint8)
        classes = _classes()[codes]
    else:
        lowered = [piece.decode().lower() for piece in pieces]
        codes = _codes("\n".join([*lowered, ""]))
        classes = _classes()[codes]
        keep = classes != _REMOVED
        starts = np.cumsum([0, *(len(one) + 1 for one in lowered[:-1])])
        lengths = np.add.reduceat(keep, starts, dtype=np.int64)
        codes, classes = codes[keep], classes[keep]
    hashes, starts = _word_hashes(codes, classes)
    ends = np.searchsorted(starts, np.cumsum(lengths))
    return [hashes[start:end] for start, end in pairwise([0, *ends.tolist()])]


def _word_hashes(
    codes: npt.NDArray[np.unsignedinteger], classes: npt.NDArray[np.uint8]
) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The hash of each word, and where it begins. A word's hash does not depend on its place: it is divided out."""
    is_blank, is_alone = classes == _BLANK, classes == _ALONE
    begins = ~is_blank
    begins[1:] &= (is_blank | is_alone)[:-1] | is_alone[1:]
    starts = np.flatnonzero(begins)
    if not len(starts):
        return np.empty(0, np.uint64), starts
    powers, inverses = _powers()
    values = codes.astype(np.uint64)
    values += np.uint64(1)
    values[is_blank] = 0
    values *= powers[: len(values)]
    sums = np.add.reduceat(values, starts)
    sums *= inverses[starts]
    return _mixed(sums), starts


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _mixed(hashes: Hashes) -> Hashes:
    """Spreads every bit over all bits, in place: the end of splitmix64 (Steele, Lea, Flood 2014)."""
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)
    return hashes


def _odd(place: int) -> np.uint64:
    return np.uint64(pow(_FACTOR, place + 1, 1 << 64))


@functools.cache
def _powers() -> tuple[Hashes, Hashes]:
    """The powers of the factor modulo 2^64, and of its inverse: as many as a piece has characters, and the blanks between."""
    many = 2 * _PIECE_BYTES + 2
    factor, inverse = np.uint64(_FACTOR), np.uint64(pow(_FACTOR, -1, 1 << 64))
    return tuple(  # type: ignore[return-value]
        np.multiply.accumulate(np.concatenate([[np.uint64(1)], np.full(many, one)]))
        for one in (factor, inverse)
    )


@functools.cache
def _classes() -> npt.NDArray[np.uint8]:
    """The class of every character."""
    classes = np.fromiter(map(_class_of, map(chr, range(sys.maxunicode + 1))), np.uint8)
    for first, last in _ALONE_RANGES:
        block = classes[first : last + 1]
        block[block == _WORD] = _ALONE
    return classes


def _class_of(character: str) -> int:
    if character.isspace():
        return _BLANK
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return _WORD
    return _REMOVED if category[0] in "PS" or category in ("Cc", "Cf") else _UNASSIGNED


def _ascii_of(*kinds: int) -> bytes:
    return bytes(code for code in range(128) if _classes()[code] in kinds)


@functools.cache
def _ascii_removed() -> bytes:
    return _ascii_of(_REMOVED)


@functools.cache
def _ascii_letters() -> bytes:
    return _ascii_of(_WORD, _BLANK)


@functools.cache
def _ascii_lower() -> bytes:
    return bytes(range(256)).lower()
