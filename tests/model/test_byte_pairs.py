"""The compiled byte pairs are those of `bpe.py`, of every text and every tokenizer, and read and write nothing else."""

import itertools
import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model import byte_pairs, compiled
from model.bpe import BpeTokenizer, byte_characters, byte_level_json, learnt_merges
from model.byte_pairs import Merges
from model.texts import Texts

ROOT = Path(__file__).parents[2]

if compiled.loops is None:
    pytest.skip("nothing was compiled here: no C compiler", allow_module_level=True)

# Letters that merge often, all kinds of blanks and of endings, and characters of one to four bytes.
texts = st.lists(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
    | st.text("aabbc  \t\n'slvretmd12.é東😀\u00a0\u3000", max_size=300),
    max_size=5,
)


def tokenizer_json(merges: list[tuple[str, str]]) -> str:
    """A tokenizer that learnt these merges, whose ids say nothing of their order."""
    tokens = dict.fromkeys([*byte_characters(), *(left + right for left, right in merges)])
    return byte_level_json({token: number for number, token in enumerate(reversed(tokens))}, merges)


@st.composite
def some_merges(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Merges of what stands before them, so that what two of them make may be the same."""
    characters = byte_characters()
    tokens = [characters[byte] for byte in b"abc slvretmd'12. "]
    tokens += [characters[byte] for byte in "é東😀\u3000".encode()]
    merges = list[tuple[str, str]]()
    for _ in range(draw(st.integers(0, 40))):
        pair = (draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens)))
        if pair not in merges and len(pair[0] + pair[1]) < 30:
            merges.append(pair)
            tokens.append(pair[0] + pair[1])
    return merges


def in_python(text: str, merges: list[tuple[str, str]], tokenizer: BpeTokenizer) -> list[int]:
    """Ids by the rule, without any cleverness: of all pairs the first of those whose merge was learnt first."""
    vocabulary = json.loads(tokenizer.to_json())["model"]["vocab"]
    spelling, ranks = byte_characters(), {pair: rank for rank, pair in enumerate(merges)}
    ids = list[int]()
    for word in byte_pairs_words(text):
        parts = [spelling[byte] for byte in word.encode()]
        while ranked := [
            (ranks[pair], place) for place, pair in enumerate(itertools.pairwise(parts)) if pair in ranks
        ]:
            place = min(ranked)[1]
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        ids += [vocabulary[part] for part in parts]
    return ids


def byte_pairs_words(text: str) -> list[str]:
    from model.bpe import _words

    return _words().findall(text)


@given(merges=some_merges(), texts=texts)
@example(
    merges=[], texts=["", "a" * 63 + " b", "a" * 62 + "'s b", "a" * 63 + "'ll", "x" * 62 + "\u3000\u3000y"]
)
@settings(max_examples=300, deadline=None)
def test_ids_are_those_of_the_rule(merges: list[tuple[str, str]], texts: list[str]) -> None:
    tokenizer = BpeTokenizer.from_json(tokenizer_json(merges))
    ids, counts = tokenizer.encode_documents(Texts.of([text.encode() for text in texts]))
    expected = [[*in_python(text, merges, tokenizer), tokenizer.end_of_text] for text in texts]
    assert ids.tolist() == [one for document in expected for one in document]
    assert counts.tolist() == list(map(len, expected))
    assert ids.dtype == tokenizer.dtype


@given(text=st.text("ab", max_size=400), merges=some_merges())
@example(text="a" * 64, merges=[("a", "a")])
@example(text="ab" * 5000, merges=[("a", "b"), ("ab", "ab"), ("abab", "abab"), ("b", "a")])
@settings(max_examples=200, deadline=None)
def test_long_words_merge_in_the_same_order(text: str, merges: list[tuple[str, str]]) -> None:
    tokenizer = BpeTokenizer.from_json(tokenizer_json([("a", "b"), ("b", "b"), *merges]))
    [*ids, end] = tokenizer.encode_documents(Texts.of([text.encode()]))[0].tolist()
    assert end == tokenizer.end_of_text
    if len(text) <= 400:
        assert ids == in_python(text, [("a", "b"), ("b", "b"), *merges], tokenizer)
    assert tokenizer.decode(ids) == text


def test_words_that_push_each_other_out_of_the_table_have_the_same_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merges = [("a", "b"), ("ab", "c"), ("c", "d"), ("Ġ", "a"), ("Ġa", "b")]
    tokenizer = BpeTokenizer.from_json(tokenizer_json(merges))
    text = " ".join("abcdabcdabcdabcd"[start:end] for start in range(8) for end in range(start + 1, 17)) * 3
    expected = in_python(text, merges, tokenizer)
    monkeypatch.setattr(byte_pairs, "_WORD_BITS", 1)
    assert tokenizer.encode_documents(Texts.of([text.encode()]))[0].tolist()[:-1] == expected


def test_many_threads_may_encode_at_once() -> None:
    tokenizer = BpeTokenizer.from_json(tokenizer_json([("a", "b"), ("ab", "c")]))
    documents = [Texts.of([f"abc {number} ab{number}c abcabc".encode() * 300]) for number in range(64)]
    expected = [tokenizer.encode_documents(each)[0].tolist() for each in documents]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            found = threads.map(lambda each: tokenizer.encode_documents(each)[0].tolist(), documents)
            assert list(found) == expected


@pytest.mark.parametrize("broken", [b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xf8\x88\x80\x80\x80", b"\xc3\xc3", b"\xff", b"\xf7\xbf\xbf\xbf", b"\xc0\x80", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf"])  # fmt: skip
@pytest.mark.parametrize("size", [0, 1, 15, 60, 61, 62, 63, 64, 200])
def test_what_is_no_utf8_is_refused_and_the_next_text_is_not_hurt(size: int, broken: bytes) -> None:
    tokenizer = BpeTokenizer.from_json(tokenizer_json([("a", "b")]))
    for text in (b"a" * size + broken, b"a" * size + broken + b" " * 100, "é".encode() * size + broken):
        with pytest.raises(ValueError, match="not UTF-8"):
            tokenizer.encode_documents(Texts.of([text, "é".encode()]))
    assert tokenizer.decode(tokenizer.encode_documents(Texts.of(["éab".encode()]))[0]) == "éab"


@given(text=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=4))
@settings(max_examples=500, deadline=None)
def test_whatever_the_bytes_are_they_come_back_or_are_refused(text: bytes, cuts: list[int]) -> None:
    tokenizer = BpeTokenizer.from_json(tokenizer_json([("a", "b")]))
    sizes = np.diff([0, *sorted(min(cut, len(text)) for cut in cuts), len(text)])
    try:
        ids, counts = tokenizer.encode_documents(Texts(text, sizes))
    except ValueError:
        return
    assert counts.sum() == len(ids) <= len(text) + len(sizes)
    assert (ids[np.cumsum(counts) - 1] == tokenizer.end_of_text).all()
    assert tokenizer.decode(ids) == text.decode("utf-8", "surrogatepass")


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_without_sse2_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [ROOT / "model" / name for name in ("byte_pairs.c", "characters.c")]
    library = tmp_path / "plain.so"
    subprocess.run(["cc", "-U__SSE2__", "-O2", "-shared", "-fPIC", "-o", library, *sources], check=True)
    text = tokenizer_json([("a", "b"), ("Ġ", "ab"), ("Ã", "©")])
    mixed = "ab'll  é\t\n12 \u00a0x\u3000 ab.ab 東京😀 " * 50
    documents = Texts.of([mixed[start:].encode() for start in range(70)])
    expected = BpeTokenizer.from_json(text).encode_documents(documents)[0].tolist()
    monkeypatch.setattr(compiled, "loops", compiled.Loops(str(library)))
    assert BpeTokenizer.from_json(text).encode_documents(documents)[0].tolist() == expected


def changed(**model: Any) -> Any:
    fields = json.loads(tokenizer_json([("a", "b"), ("ab", "c")]))
    return fields | {"model": fields["model"] | model}


@pytest.mark.parametrize(
    "fields",
    [
        changed(merges=[["ab", "c"], ["a", "b"]]),
        changed(merges=[["a", "b"], ["a", "b"]]),
        changed(merges=[["a", "z"]]),
        changed(merges=["a b c"]),
        changed(merges=[["a", 1]]),
        changed(vocab={character: number for number, character in enumerate(byte_characters()[1:])}),
        changed(vocab=dict(zip(byte_characters(), range(65_400, 66_000), strict=False))),
    ],
    ids=["before its parts", "twice", "not in the vocabulary", "of three", "of numbers", "without a byte", "ids beyond 16 bits"],
)  # fmt: skip
def test_what_the_loop_cannot_say_is_left_to_others(fields: Any) -> None:
    assert learnt_merges(fields) is None


def test_merges_are_read_as_they_were_written() -> None:
    merges = learnt_merges(changed())
    assert merges
    again = Merges.from_bytes(merges.to_bytes())
    assert again.end_of_text == merges.end_of_text
    for name in ("symbols", "ends", "ids"):
        assert np.array_equal(getattr(again, name), getattr(merges, name))


def test_sixty_thousand_merges_have_room_and_too_many_are_left_to_others() -> None:
    characters = byte_characters()
    pairs = list(itertools.product(characters, characters))
    few = learnt_merges(json.loads(tokenizer_json(pairs[:60_000])))
    assert few and few.encoder()
    many = learnt_merges(json.loads(tokenizer_json(pairs[:65_200])))
    assert many
    crowded = replace(many, symbols=np.repeat(many.symbols, 3, axis=0), ends=np.repeat(many.ends, 3, axis=0))
    assert crowded.encoder() is None
