"""The compiled loops say what numpy says, of every text, and read and write nothing else whatever the bytes are."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model import compiled
from model.texts import Texts
from model.tokenizer import CharacterCounts, CharTokenizer

ROOT = Path(__file__).parents[2]
T = TypeVar("T")

# What UTF-8 can hold: surrogates are not in it.
any_texts = st.lists(st.text(st.characters(exclude_categories=("Cs",))), max_size=8)
loops = compiled.loops
needs_loops = pytest.mark.skipif(loops is None, reason="nothing was compiled here: no C compiler")


def in_numpy(function: Callable[[], T]) -> T:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "loops", None)
        return function()


def counted(texts: list[bytes]) -> CharacterCounts:
    counts = CharacterCounts()
    for text in texts:
        counts.update_utf8(text)
    return counts


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_where_there_is_a_compiler_the_loops_are_there() -> None:
    assert loops is not None


@needs_loops
@given(texts=any_texts)
@example(texts=["a" * 9 + "é" + "b" * 17, "", "\0", "😀\u3000\U0010ffff"])
@settings(max_examples=300, deadline=None)
def test_both_count_the_same(texts: list[str]) -> None:
    utf8 = [text.encode() for text in texts]
    ours, numpys = counted(utf8).pairs(), in_numpy(lambda: counted(utf8).pairs())
    assert ours.tolist() == numpys.tolist()


@needs_loops
@given(learnt=st.text(min_size=1), texts=any_texts, coverage=st.sampled_from([0.3, 0.9, 1.0]))
@example(learnt="z", texts=["\0", "", "é😀" * 1000], coverage=1.0)
@settings(max_examples=300, deadline=None)
def test_both_encode_the_same(learnt: str, texts: list[str], coverage: float) -> None:
    counts = CharacterCounts()
    counts.update(learnt)
    tokenizer, utf8 = CharTokenizer.from_counts(counts, coverage=coverage), [text.encode() for text in texts]
    ids, sizes = tokenizer.encode_documents(Texts.of(utf8))
    expected, expected_sizes = in_numpy(lambda: tokenizer.encode_documents(Texts.of(utf8)))
    assert ids.dtype == expected.dtype and ids.tolist() == expected.tolist()
    assert sizes.dtype == expected_sizes.dtype and sizes.tolist() == expected_sizes.tolist()


@needs_loops
def test_both_encode_the_same_with_ids_of_four_bytes() -> None:
    tokenizer = CharTokenizer([chr(code_point) for code_point in range(0x1000, 0xD800)] + list(map(chr, range(0x10000, 0x14000))))  # fmt: skip
    assert tokenizer.dtype == np.uint32
    texts = ["rare: é, known: \u1000\U00010001".encode(), b"", "\ud7ff\U00013fff\U00014000".encode()]
    ids, sizes = tokenizer.encode_documents(Texts.of(texts))
    expected, expected_sizes = in_numpy(lambda: tokenizer.encode_documents(Texts.of(texts)))
    assert (ids.tolist(), sizes.tolist()) == (expected.tolist(), expected_sizes.tolist())


BROKEN = [b"\x80", b"a\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xf8\x88\x80\x80\x80", b"\xc3\xc3", b"a\xff", b"\xf7\xbf\xbf\xbf"]  # fmt: skip


@needs_loops
@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("before", [b"", b"12345678", "éé".encode()])
def test_what_is_no_utf8_is_refused(before: bytes, broken: bytes) -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        counted([before + broken])


@needs_loops
@given(text=st.binary(max_size=64), cuts=st.lists(st.integers(0, 64), max_size=4), length=st.integers(1, 300))
@settings(max_examples=500, deadline=None)
def test_no_bytes_make_them_write_elsewhere(text: bytes, cuts: list[int], length: int) -> None:
    assert loops
    counts = np.full(length + 16, -1, np.int64)
    counts[:length] = 0
    counted_bytes = loops.count(text, counts[:length])
    assert 0 <= counted_bytes <= len(text)
    assert (counts[length:] == -1).all() and counts[:length].sum() <= counted_bytes
    known = np.arange(length, dtype=np.uint16)
    try:
        sizes = np.diff([0, *sorted(min(cut, len(text)) for cut in cuts), len(text)])
        ids, counts = loops.encode_characters(Texts(text, sizes), known, 1000, 2000)
    except ValueError:
        return
    assert counts.sum() == len(ids) <= len(text) + len(sizes)
    assert (counts >= 1).all() and (ids[np.cumsum(counts) - 1] == 2000).all()


def test_a_library_of_another_version_is_not_used(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    source = (ROOT / "model" / "characters.c").read_text(encoding="utf-8")
    (tmp_path / "other.c").write_text(source.replace("brickroad_interface = 3", "brickroad_interface = 99"))
    library = tmp_path / "other.so"
    headers = f"-I{ROOT / 'model'}"
    subprocess.run([compiler, headers, "-shared", "-fPIC", "-o", library, tmp_path / "other.c"], check=True)
    with pytest.raises(OSError, match="another version"):
        compiled.Loops(str(library))
