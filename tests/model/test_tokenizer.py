"""Every text survives the tokenizer, and nothing else passes for a tokenizer."""

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import compiled
from model.tokenizer import CharacterCounts, CharTokenizer, tokenizer_from_json

# All of Unicode with the surrogates, which hypothesis leaves out unless told.
any_text = st.text(st.characters(exclude_categories=()))
GREETING = "grüezi, 世界 🙂!"


@pytest.fixture(params=["compiled", "numpy"], autouse=True, scope="module")
def loops(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds with and without the compiled loops."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(compiled, "loops", None)
        elif not compiled.loops:
            pytest.skip("characters.c was not compiled here: no C compiler")
        yield


def counted(*texts: str) -> CharacterCounts:
    counts = CharacterCounts()
    for text in texts:
        counts.update(text)
    return counts


@given(learnt=any_text.filter(bool), text=any_text)
@settings(max_examples=300, deadline=None)
def test_decode_inverts_encode_for_every_text(learnt: str, text: str) -> None:
    tokenizer = CharTokenizer.from_counts(counted(learnt), coverage=0.8)
    for sample in (learnt, text, text + learnt):
        ids = tokenizer.encode(sample)
        assert tokenizer.decode(ids) == sample
        assert tokenizer.end_of_text not in ids


def test_every_single_code_point_survives() -> None:
    everything = "".join(map(chr, range(0x110000)))
    tokenizer = CharTokenizer.from_counts(counted(GREETING))
    assert tokenizer.decode(tokenizer.encode(everything)) == everything


def test_lone_surrogates_side_by_side_do_not_become_one_character() -> None:
    tokenizer = CharTokenizer(["\ud83d", "\ude00"])
    again = tokenizer_from_json(tokenizer.to_json())
    for text in ("\ud83d\ude00", "😀"):
        assert again.decode(again.encode(text)) == text
    assert len(again.encode("\ud83d\ude00")) == 2


def test_ids_are_characters_by_frequency_then_bytes_then_end_of_text() -> None:
    tokenizer = CharTokenizer.from_counts(counted("bbb aa cc"), coverage=1.0)
    assert tokenizer.characters == ("b", " ", "a", "c")
    assert tokenizer.encode("cab b").tolist() == [3, 2, 0, 1, 0]
    assert tokenizer.encode("é").tolist() == [4 + 0xC3, 4 + 0xA9]
    assert tokenizer.vocabulary_size == 4 + 256 + 1
    assert tokenizer.end_of_text == 260


@pytest.mark.parametrize(("coverage", "size"), [(0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)])
def test_coverage_takes_the_fewest_characters_that_reach_it(coverage: float, size: int) -> None:
    tokenizer = CharTokenizer.from_counts(counted("aaaaabbbcd"), coverage=coverage)
    assert len(tokenizer.characters) == size


@given(texts=st.lists(any_text, min_size=1))
@settings(deadline=None, max_examples=50)
def test_counts_are_right_and_do_not_depend_on_order(texts: list[str]) -> None:
    expected = Counter(map(ord, "".join(texts)))
    merged = counted(*texts[1:])
    merged.merge(counted(texts[0]))
    for counts in (
        counted(*texts),
        counted(*reversed(texts)),
        merged,
        CharacterCounts.from_pairs(merged.pairs()),
    ):
        assert dict(counts.pairs().tolist()) == expected
        assert (counts.total, counts.distinct) == (expected.total(), len(expected))


def test_a_text_longer_than_one_piece_is_counted_whole() -> None:
    text = ("a" * 65_535 + "é🙂") * 2
    assert dict(counted(text).pairs().tolist()) == {ord("a"): 131_070, ord("é"): 2, ord("🙂"): 2}


@pytest.mark.parametrize("pairs", [[[0x110000, 1]], [[-1, 1]], [[65, -1]]])
def test_counts_that_cannot_be_are_refused(pairs: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="outside Unicode or a negative"):
        CharacterCounts.from_pairs(pairs)


def test_dtype_grows_with_the_vocabulary() -> None:
    characters = [chr(code) for code in range(0x1000, 0x1000 + 65_536)]
    largest_small = CharTokenizer(characters[: 65_536 - 257])
    assert largest_small.encode(GREETING).dtype == np.uint16
    large = CharTokenizer(characters[: 65_536 - 256])
    assert large.encode(GREETING).dtype == np.uint32
    assert large.decode(large.encode(GREETING + characters[-300])) == GREETING + characters[-300]


def test_json_is_canonical_and_fingerprinted() -> None:
    tokenizer = CharTokenizer.from_counts(counted(GREETING))
    again = tokenizer_from_json(tokenizer.to_json())
    assert again.to_json() == tokenizer.to_json()
    assert again.fingerprint == tokenizer.fingerprint
    assert len(again.fingerprint) == 64
    assert again.fingerprint != CharTokenizer.from_counts(counted("abc")).fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "wordpiece"}, "unknown tokenizer type 'wordpiece'"),
        ({"version": 2}, "version 2"),
        ({"characters": ["a", "b", "a"]}, "stands twice"),
        ({"characters": ["ab"]}, "'ab' is not one character"),
        ({"characters": [7]}, "7 is not one character"),
        ({"characters": "ab"}, "expected type, version, characters"),
        ({"merges": []}, "expected type, version, characters"),
    ],
)
def test_json_that_is_no_tokenizer_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    fields = json.loads(CharTokenizer(["a"]).to_json()) | change
    with pytest.raises(ValueError, match=message) as caught:
        tokenizer_from_json(json.dumps(fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "not json", "[]", "null", "[" * 100_000, '{"type": ["char"]}'])
def test_text_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        tokenizer_from_json(text)


@pytest.mark.parametrize("coverage", [0.0, -1.0, 1.01, float("nan")])
def test_coverage_must_be_a_share(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        CharTokenizer.from_counts(counted("a"), coverage=coverage)


def test_no_text_gives_no_vocabulary() -> None:
    with pytest.raises(ValueError, match="at least one document"):
        CharTokenizer.from_counts(CharacterCounts())


def test_whatever_a_model_writes_can_be_read() -> None:
    tokenizer = CharTokenizer(["a", "é"])
    first_byte, end = tokenizer.first_byte, tokenizer.end_of_text
    assert tokenizer.decode([0, first_byte + 0xC3, 1, end, 0]) == "a\ufffdéa"
    assert tokenizer.decode([end]) == tokenizer.decode([]) == ""
    for ids in ([end + 1], [-1], [0.5]):
        with pytest.raises(ValueError, match="ids to decode"):
            tokenizer.decode(ids)
    assert isinstance(tokenizer.decode(np.random.default_rng(0).integers(0, end + 1, 10_000)), str)
