"""What Hugging Face's loader of OpenWebText does to a text, on bytes: the same as its own line does on `str`."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.blanks import BLANKS, as_hugging_face
from storage.errors import ShardError
from storage.forms import Reading, read_batches
from storage.shards import find_shards, write_shard

HUGGING_FACE = Reading(normalisation="hugging-face")


def reference(utf8: bytes, place: Path) -> bytes:
    """The loader's own lines, on a file."""
    place.write_bytes(utf8)
    with place.open(encoding="utf-8") as file:
        return re.sub("\n\n\n+", "\n\n", file.read()).strip().encode()


def test_the_blanks_are_those_of_python() -> None:
    assert set(BLANKS) == {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}


@given(text=st.text(st.sampled_from([*BLANKS, "a", "\0", "é", "東", "😀", "\u200b", "\ufeff"]), max_size=200))
def test_it_is_what_the_loader_makes_of_it(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.getbasetemp() / "one.txt"
    assert as_hugging_face(text.encode()) == reference(text.encode(), place)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"\n \t\r\n", b""),
        ("\u3000\xa0\u2003".encode(), b""),
        (b"a\n\nb\n\n\n\nc\n", b"a\n\nb\n\nc"),
        (b"a\r\n\r\n\r\nb", b"a\n\nb"),
        (b"a\r\rb", b"a\n\nb"),
        (b"a\n \n\nb", b"a\n \n\nb"),  # a blank between line ends parts them
        ("\u2029東京 。\u3000\n".encode(), "東京 。".encode()),
        (b"\0 a \0", b"\0 a \0"),
    ],
)
def test_known_texts(before: bytes, after: bytes) -> None:
    assert as_hugging_face(before) == after
    assert as_hugging_face(after) == after


@pytest.mark.parametrize("blank", [" ", "\n", "\xa0", "\u3000"])
def test_many_megabytes_of_blanks_end(blank: str) -> None:
    # If each blank looked at all those behind it, this would run into the time limit of every test.
    blanks = blank.encode() * 5_000_000
    assert as_hugging_face(blanks + "ä".encode() + blanks) == "ä".encode()


def test_a_shard_is_normalised_and_counted(tmp_path: Path) -> None:
    texts = [b"kept", b"\n\ncut \n", b" \n ", "\xa0né\xa0".encode(), b"a\n\n\n\nb"]
    write_shard(tmp_path / "a.xz", [(f"{number}.txt", text) for number, text in enumerate(texts)])
    (batch,) = read_batches(find_shards(str(tmp_path / "a.xz"))[0], HUGGING_FACE)
    assert batch.texts.utf8 == "keptcutnéa\n\nb".encode()
    assert batch.texts.sizes.tolist() == [4, 3, 0, 3, 4]  # an empty document stays a document
    assert batch.normalised_documents == 4
    (as_it_is,) = read_batches(find_shards(str(tmp_path / "a.xz"))[0], Reading())
    assert as_it_is.texts.utf8 == b"".join(texts)
    assert as_it_is.normalised_documents == 0


def test_bytes_that_are_no_text_are_refused_or_replaced_first(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.xz", [("1.txt", b" a\xff \n")])
    shard = find_shards(str(tmp_path / "a.xz"))[0]
    with pytest.raises(ShardError, match="not valid UTF-8"):
        list(read_batches(shard, HUGGING_FACE))
    (batch,) = read_batches(shard, Reading(normalisation="hugging-face", invalid_utf8="replace"))
    assert batch.texts.utf8 == "a\ufffd".encode()
    assert (batch.invalid_utf8_documents, batch.normalised_documents) == (1, 1)


def test_a_byte_order_mark_goes_first(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.xz", [("1.txt", b"\xef\xbb\xbf\n a")])
    (batch,) = read_batches(find_shards(str(tmp_path / "a.xz"))[0], HUGGING_FACE)
    assert batch.texts.utf8 == b"a"
