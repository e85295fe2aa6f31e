"""Words and n-grams as hashes: the same words, and no others, whatever stands beside a text."""

import random
import string
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import words as words_module
from model.words import characters, combined, hashed_ngrams, hashed_words, letter_share, words_of

ALPHABET = [
    *"abcXYZ 019\n\t.,-'_é",
    "\u0301",
    "İ",
    "ß",
    "Σ",
    "東",
    "京",
    "ไ",
    "\u3000",
    "\xad",
    "\0",
    "😀",
    "\ue000",
]
texts = st.lists(st.text(st.sampled_from(ALPHABET) | st.characters(codec="utf-8"), max_size=60), max_size=8)


def hashes_of(text: str) -> list[int]:
    return hashed_words([text.encode()])[0].tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\t\u3000", []),
        ("?! ... — « »", []),
        ("Don't stop, well-known U.S. man!", ["dont", "stop", "wellknown", "us", "man"]),
        ("ÜBER naïve\xa0ΟΔΟΣ", ["über", "naïve", "οδος"]),
        ("世界人权。第1条", ["世", "界", "人", "权", "第", "1", "条"]),
        ("a\0b co\xadop \ufeffx", ["ab", "coop", "x"]),
    ],
)
def test_what_a_word_is(text: str, words: list[str]) -> None:
    assert words_of(text) == words
    assert hashes_of(text) == [hashes_of(word)[0] for word in words]


@given(texts=texts)
def test_hashes_are_those_of_the_words(texts: list[str]) -> None:
    hashes, counts = hashed_words([text.encode() for text in texts])
    expected = [words_of(text) for text in texts]
    assert counts.tolist() == [len(words) for words in expected]
    flat = [word for words in expected for word in words]
    known: dict[int, str] = {}
    for one, word in zip(hashes.tolist(), flat, strict=True):
        assert known.setdefault(one, word) == word  # a hash stands for one word
    assert len(set(known.values())) == len(known)  # and a word has one hash


@given(texts=texts, size=st.integers(1, 6), short_texts=st.booleans())
def test_ngrams_end_with_their_text(texts: list[str], size: int, short_texts: bool) -> None:
    words, counts = hashed_words([text.encode() for text in texts])
    ngrams, found = hashed_ngrams(words, counts, size, short_texts=short_texts)
    alone = [
        hashed_ngrams(*hashed_words([text.encode()]), size, short_texts=short_texts)[0].tolist()
        for text in texts
    ]
    assert found.tolist() == [len(one) for one in alone]
    assert ngrams.tolist() == [value for one in alone for value in one]
    for count, many in zip(counts.tolist(), found.tolist(), strict=True):
        assert many == (1 if short_texts and 0 < count < size else max(0, count - size + 1))


@pytest.mark.parametrize("alphabet", ["abc", "abcé", "東京", "a"])
def test_a_long_text_is_cut_where_nobody_notices(alphabet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    text = " ".join("".join(rng.choices(alphabet, k=rng.randrange(1, 9))) for _ in range(2000))
    whole = hashes_of(text)
    words_module._powers.cache_clear()
    monkeypatch.setattr(words_module, "_PIECE_BYTES", 100)
    assert hashes_of(text) == whole
    shares = letter_share(text.encode())
    monkeypatch.undo()
    words_module._powers.cache_clear()
    assert shares == letter_share(text.encode()) == 1


@pytest.mark.parametrize("character", ["x", "é", "東", "😀", "\0"])
def test_megabytes_without_a_blank(character: str) -> None:
    text = character * 1_000_000
    hashes, counts = hashed_words([text.encode(), b"one two"])
    assert counts[1] == 2
    assert len(hashes) == counts.sum()
    assert counts[0] == {"x": 4, "é": 8, "東": 1_000_000}.get(character, 0)


def test_hashes_never_change() -> None:
    """They are spelt out here, and two are written down: what a data set was made by must not drift."""
    many, factor = 1 << 64, 0x9E3779B97F4A7C15
    for word in ("the", "road", "東", "über"):
        value = sum((ord(character) + 1) * factor**place for place, character in enumerate(word)) % many
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % many
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % many
        assert hashes_of(word) == [value ^ (value >> 31)]
    assert hashes_of("the Road") == [17357140401427252685, 336068405031852311]


def test_combined_rows() -> None:
    rows = np.array([[1, 2, 3], [3, 2, 1], [1, 2, 3]], np.uint32)
    first, second, third = combined(rows).tolist()
    assert first == third != second


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 1.0), ("abc", 1.0), ("a b\n", 1.0), ("ab..", 0.5), ("...", 0.0), ("né..", 0.5), ("東京", 1.0), ("\0\0", 0.0), ("नमस्ते", 1.0), ("7 + 7", 0.8), ("😀é", 0.5)],
)  # fmt: skip
def test_letter_share(text: str, share: float) -> None:
    assert letter_share(text.encode()) == pytest.approx(share)


@given(text=st.text(st.characters(codec="utf-8") | st.sampled_from(string.printable)))
def test_characters_and_letters_are_what_unicode_says(text: str) -> None:
    assert characters(text.encode()) == len(text)
    letters = sum(unicodedata.category(one)[0] in "LMN" or one.isspace() for one in text)
    assert letter_share(text.encode()) == pytest.approx(letters / len(text) if text else 1)
