"""Shards come out whole, in order, as what they are; whatever is cut, flipped, foreign or hostile is refused by name."""

import gzip
import io
import lzma
import os
import random
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import shards
from storage.errors import CorpusError, ShardError, StorageError
from storage.shards import (
    BOOK_DOCUMENT_BYTES,
    WHOLE_TEXT_BYTES,
    Document,
    InvalidUtf8,
    find_shards,
    read_documents,
    unpack_shards,
    write_shard,
)

REAL_SHARDS = ["urlsf_subset00-1_data.xz", "urlsf_subset00-4_data.xz", "urlsf_subset00-7_data.xz"]
CHECKS = [lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256]


def tar_of(texts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return buffer.getvalue()


def some_texts() -> dict[str, bytes]:
    rng = random.Random(5)
    return {
        f"{n}.txt": " ".join(rng.choices(["brick", "road", "Öz", "home"], k=30)).encode() for n in range(4)
    }


SMALL = tar_of(some_texts())


def read(path: Path, content: bytes, invalid_utf8: InvalidUtf8 = "refuse") -> list[Document]:
    path.write_bytes(content)
    return list(read_documents(find_shards(str(path))[0], invalid_utf8=invalid_utf8))


def refusal(path: Path, content: bytes, invalid_utf8: InvalidUtf8 = "refuse") -> str:
    with pytest.raises(ShardError) as refused:
        read(path, content, invalid_utf8)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    return refused.value.reason


# --- real text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL_SHARDS)
def test_documents_of_a_real_shard_equal_what_tar_extracts(
    name: str, real_data: Path, tmp_path: Path
) -> None:
    path = real_data / "owt-small" / name
    subprocess.run(["tar", "-xf", str(path), "-C", str(tmp_path)], check=True)
    names = subprocess.run(
        ["tar", "-tf", str(path)], check=True, capture_output=True, text=True
    ).stdout.split()
    documents = list(read_documents(find_shards(str(path))[0]))
    assert [document.member for document in documents] == names
    raw = [(tmp_path / name).read_bytes() for name in names]
    assert [document.utf8 for document in documents] == [
        text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n") for text in raw
    ]
    assert sum(document.crlf_line_ends for document in documents) == sum(text.count(b"\r\n") for text in raw)


def test_the_course_s_book_has_its_mark_and_line_ends_counted_and_nothing_lost(real_data: Path) -> None:
    path = real_data / "wizard_of_oz.txt"
    documents = list(read_documents(find_shards(str(path))[0]))
    raw = path.read_bytes()
    assert b"".join(document.utf8 for document in documents) == raw[3:].replace(b"\r\n", b"\n")
    assert [document.had_byte_order_mark for document in documents].index(True) == 0
    assert sum(document.had_byte_order_mark for document in documents) == 1
    assert sum(document.crlf_line_ends for document in documents) == raw.count(b"\r\n") == 5_422
    assert [document.member for document in documents] == sorted(document.member for document in documents)
    assert len(documents) > 20


def test_text_in_xz_without_a_tar_is_the_text(real_data: Path) -> None:
    path = real_data / "formats" / "plain-text.xz"
    documents = list(read_documents(find_shards(str(path))[0]))
    assert b"".join(document.utf8 for document in documents) == lzma.decompress(path.read_bytes())


@pytest.mark.parametrize("name", ["openwebtext.tar.xz", "urlsf_subset00.tar"])
def test_an_archive_of_shards_unpacks_to_the_files_that_tar_extracts(
    name: str, real_data: Path, tmp_path: Path
) -> None:
    archive, judged, ours = real_data / "formats" / name, tmp_path / "judged", tmp_path / "ours"
    judged.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(judged)], check=True)
    expected = {path.name: path.read_bytes() for path in judged.rglob("*.xz")}
    assert {path.name: path.read_bytes() for path in unpack_shards(archive, ours)} == expected
    assert {path.name for path in ours.iterdir()} == set(expected)
    with pytest.raises(ShardError, match=r"holds further \.xz files .* unpack it first"):
        list(read_documents(find_shards(str(archive))[0]))


# --- cut, flipped, foreign --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS)
def test_a_shard_cut_anywhere_is_refused(check: int, tmp_path: Path) -> None:
    whole = lzma.compress(SMALL, check=check)
    assert len(read(tmp_path / "a.xz", whole)) == 4
    places = [*range(1, 65), *random.Random(check).sample(range(65, len(whole)), 40)]
    for missing in places:
        refusal(tmp_path / "a.xz", whole[:-missing])


@pytest.mark.parametrize("check", CHECKS)
def test_a_shard_with_any_byte_flipped_is_refused(check: int, tmp_path: Path) -> None:
    whole, rng = lzma.compress(SMALL, check=check), random.Random(check)
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.randrange(8)
        refusal(tmp_path / "a.xz", bytes(flipped))


def test_any_byte_lost_or_doubled_within_a_shard_is_noticed(tmp_path: Path) -> None:
    whole = lzma.compress(SMALL)
    for position in random.Random(0).sample(range(len(whole) - 1), 60):
        for broken in (
            whole[:position] + whole[position + 1 :],
            whole[:position] + whole[position : position + 1] + whole[position:],
        ):
            if broken != whole:
                refusal(tmp_path / "a.xz", broken)


def test_xz_without_an_integrity_check_is_refused_with_the_way_out(tmp_path: Path) -> None:
    assert "xz --check=crc64" in refusal(tmp_path / "a.xz", lzma.compress(SMALL, check=lzma.CHECK_NONE))


def test_an_integrity_check_that_liblzma_passes_over_is_refused(tmp_path: Path) -> None:
    """Check 2 is reserved, of 4 bytes as CRC32: liblzma decodes such a file and verifies nothing."""
    data = bytearray(lzma.compress(SMALL, check=lzma.CHECK_CRC32))
    data[7] = data[-3] = 2
    data[8:12] = zlib.crc32(data[6:8]).to_bytes(4, "little")
    data[-12:-8] = zlib.crc32(data[-8:-2]).to_bytes(4, "little")
    assert lzma.LZMADecompressor().decompress(data) == SMALL
    assert "no integrity check that is known" in refusal(tmp_path / "a.xz", bytes(data))


@pytest.mark.parametrize(
    "garbage", [b"x", b"\0", b"\0\0\0", b"\0" * 5, b"\0" * 8 + b"x", b"\xfd7zXZ", b"\xfd7zXZ\0", b"junk" * 99]
)
def test_garbage_after_the_end_is_refused(garbage: bytes, tmp_path: Path) -> None:
    refusal(tmp_path / "a.xz", lzma.compress(SMALL) + garbage)


@pytest.mark.parametrize("padding", [0, 4, 8, 4096, 300_000])
def test_streams_one_after_another_with_legal_padding_are_one_shard(padding: int, tmp_path: Path) -> None:
    middle = len(SMALL) // 2
    streams = (
        lzma.compress(SMALL[:middle])
        + bytes(padding)
        + lzma.compress(SMALL[middle:], check=lzma.CHECK_SHA256)
    )
    documents = read(tmp_path / "a.xz", streams + bytes(padding))
    assert {document.member: document.utf8 for document in documents} == some_texts()


@pytest.mark.parametrize("padding", [1, 2, 3, 5, 4097])
def test_padding_between_streams_that_is_not_of_fours_is_refused(padding: int, tmp_path: Path) -> None:
    content = lzma.compress(SMALL[:600]) + bytes(padding) + lzma.compress(SMALL[600:])
    assert "bytes after the end of its xz stream" in refusal(tmp_path / "a.xz", content)


def test_a_second_tar_in_a_second_stream_is_refused_and_not_left_out(tmp_path: Path) -> None:
    assert "after the end marker" in refusal(tmp_path / "a.xz", lzma.compress(SMALL) + lzma.compress(SMALL))


def test_an_empty_stream_before_the_next_is_legal(tmp_path: Path) -> None:
    assert len(read(tmp_path / "a.xz", lzma.compress(b"") + lzma.compress(SMALL))) == 4


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xz", b"", "is empty"),
        ("a.txt", b"", "is empty"),
        ("a.xz", b"Dorothy lived in Kansas.", "is not xz"),
        ("a.xz", gzip.compress(b"Dorothy"), "is not xz"),
        ("a.xz", lzma.compress(b"Dorothy", format=lzma.FORMAT_ALONE), "is not xz"),
        ("a.xz", b"\xfd7zX", "is not xz"),
        ("a.xz", lzma.compress(b""), "holds no documents"),
        ("a.xz", lzma.compress(lzma.compress(b"Dorothy")), "NUL bytes"),
        ("a.txt", lzma.compress(b"Dorothy"), "rename it to end in .xz"),
        ("a.txt", gzip.compress(b"Dorothy"), "NUL bytes"),
        ("a.txt", "Dorothy".encode("utf-16"), "iconv"),
        ("a.txt", "Dorothy".encode("utf-16-le"), "iconv"),
        ("a.txt", "東京都".encode("utf-16"), "iconv"),
        ("a.xz", lzma.compress(tar_of({"b.txt": "Dorothy".encode("utf-16")})), "member 'b.txt' is UTF-16"),
        ("a.xz", lzma.compress(b"\0" * 100), "NUL bytes"),
    ],
    ids=range(15),
)  # fmt: skip
@pytest.mark.parametrize("invalid_utf8", ["refuse", "replace"])
def test_what_is_not_what_its_name_says_is_refused(
    name: str, content: bytes, reason: str, invalid_utf8: InvalidUtf8, tmp_path: Path
) -> None:
    assert reason in refusal(tmp_path / name, content, invalid_utf8)


@pytest.mark.parametrize("content", [bytes(600_000), tar_of({"bomb.txt": b"a" * 600_000})])
def test_a_decompression_bomb_is_stopped(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_GRACE_BYTES", 1000)
    monkeypatch.setattr(shards, "MAX_EXPANSION", 100)
    assert "decompression bomb" in refusal(tmp_path / "a.xz", lzma.compress(content))


def test_an_absurd_dictionary_is_not_allocated(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    data = bytearray(lzma.compress(SMALL, filters=filters))
    data[16] = 40  # a dictionary of 4 GiB, as the block's header says it
    size = (data[12] + 1) * 4
    data[12 + size - 4 : 12 + size] = zlib.crc32(data[12 : 12 + size - 4]).to_bytes(4, "little")
    assert "memory" in refusal(tmp_path / "a.xz", bytes(data))


def test_an_error_of_the_disk_while_reading_names_the_shard() -> None:
    path = Path("/proc/self/mem")  # its first page cannot be read: EIO, which Python reports without a name
    if not path.exists():
        pytest.skip("no /proc on this machine")
    shard = shards.Shard(path=path, name="mem", compressed_bytes=1)
    with pytest.raises(OSError, match=r"/proc/self/mem"):
        list(read_documents(shard))


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_tar", [True, False])
def test_invalid_utf8_is_refused_with_its_place_or_replaced_and_told(in_tar: bool, tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfone\r\ntwo\r\n\xc3("
    content = lzma.compress(tar_of({"b.txt": text}) if in_tar else text)
    assert "not valid UTF-8 at byte 13;" in refusal(tmp_path / "a.xz", content)
    (document,) = read(tmp_path / "a.xz", content, "replace")
    assert document.utf8.decode() == "one\ntwo\n\ufffd("
    assert document.invalid_utf8_replaced
    assert document.had_byte_order_mark
    assert document.crlf_line_ends == 2


def test_invalid_utf8_in_a_book_is_placed_by_the_byte_of_the_file(tmp_path: Path) -> None:
    book = b"A line of text.\r\n\r\n" * 20_000
    place = 234_567
    assert f"at byte {place:,};" in refusal(tmp_path / "a.txt", book[:place] + b"\xff" + book[place + 1 :])


@pytest.mark.parametrize("bad", [b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x80", b"a\xe2\x82"])
def test_surrogates_overlong_and_cut_sequences_are_invalid(bad: bytes, tmp_path: Path) -> None:
    assert "not valid UTF-8" in refusal(tmp_path / "a.txt", bad)


def test_lone_carriage_returns_nul_and_odd_spaces_of_a_member_are_text(tmp_path: Path) -> None:
    text = "a\rb\0c\u2028d\x85e\ufeff\x1a\r\r\n".encode()
    (document,) = read(tmp_path / "a.xz", lzma.compress(tar_of({"b.txt": text})))
    assert document.utf8 == text.replace(b"\r\n", b"\n")
    assert document.crlf_line_ends == 1


def test_a_lone_byte_order_mark_is_an_empty_document_and_two_are_one_and_a_character(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", b"\xef\xbb\xbf")[0].utf8 == b""
    assert read(tmp_path / "a.txt", b"\xef\xbb\xbf" * 2)[0].utf8 == b"\xef\xbb\xbf"


def test_a_text_is_whole_up_to_its_limit_and_a_book_one_byte_later(tmp_path: Path) -> None:
    paragraphs = (b"word " * 20 + b"\n\n") * 1000
    assert [len(d.utf8) for d in read(tmp_path / "a.txt", paragraphs[:WHOLE_TEXT_BYTES])] == [
        WHOLE_TEXT_BYTES
    ]
    book = read(tmp_path / "a.txt", paragraphs[: WHOLE_TEXT_BYTES + 1])
    assert len(book) > 10
    assert all(document.utf8.endswith(b"\n\n") for document in book[:-1])
    assert b"".join(document.utf8 for document in book) == paragraphs[: WHOLE_TEXT_BYTES + 1]


@pytest.mark.parametrize("character", ["é", "東", "😀", "x"])
@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_a_book_without_any_line_end_is_cut_between_characters(
    character: str, shift: int, tmp_path: Path
) -> None:
    text = ("x" * shift + character * (3 * WHOLE_TEXT_BYTES // len(character.encode()))).encode()
    documents = read(tmp_path / "a.txt", text)
    assert len(documents) > 2
    assert b"".join(document.utf8 for document in documents) == text


def test_a_line_end_of_two_bytes_at_the_cut_stays_whole(tmp_path: Path) -> None:
    for before in range(WHOLE_TEXT_BYTES - 4, WHOLE_TEXT_BYTES + 4):
        text = b"x" * before + b"\r\n" + b"y" * WHOLE_TEXT_BYTES
        documents = read(tmp_path / "a.txt", text)
        assert b"".join(document.utf8 for document in documents) == text.replace(b"\r\n", b"\n")
        assert sum(document.crlf_line_ends for document in documents) == 1


def test_a_byte_order_mark_is_a_character_where_a_book_is_cut(tmp_path: Path) -> None:
    text = (b"x" * BOOK_DOCUMENT_BYTES + b"\n\n" + b"\xef\xbb\xbf") * 40
    documents = read(tmp_path / "a.txt", text)
    assert b"".join(document.utf8 for document in documents) == text
    assert not any(document.had_byte_order_mark for document in documents)


PIECES = st.lists(
    st.sampled_from(
        ["\n", "\r\n", "\n\n", "\r", " ", "x" * 50, "word", "東京", "😀", "\ufeff", "\x00", "é" * 30]
    ),
    min_size=1,
    max_size=400,
)


@settings(max_examples=60, deadline=None)
@given(pieces=PIECES)
def test_the_documents_of_a_book_are_the_book(
    pieces: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("book") / "a.txt"
    text = "x" * shards.TAR_BLOCK_BYTES + "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:  # small limits: many cuts in a short text
        patch.setattr(shards, "WHOLE_TEXT_BYTES", 128)
        patch.setattr(shards, "BOOK_DOCUMENT_BYTES", 32)
        documents = read(path, text.encode())
    assert b"".join(document.utf8 for document in documents).decode() == text.replace("\r\n", "\n")
    assert sum(document.crlf_line_ends for document in documents) == text.count("\r\n")


# --- finding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    names = [
        "s-10.xz",
        "s-2.xz",
        "s-1.xz",
        "sub/s-3.xz",
        "notes.txt",
        "read.me",
        ".hidden.xz",
        ".git/s-4.xz",
        "sub/._s-3.xz",
    ]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "folder.xz").mkdir()
    return root


def names_of(corpus: str | Path) -> list[str]:
    return [shard.name for shard in find_shards(str(corpus))]


def test_a_folder_gives_its_visible_shards_in_natural_order(folder: Path) -> None:
    assert names_of(folder) == ["notes.txt", "s-1.xz", "s-2.xz", "s-10.xz", "sub/s-3.xz"]
    assert all(shard.compressed_bytes == 1 for shard in find_shards(str(folder)))


def test_the_order_does_not_depend_on_the_listing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, walk = names_of(folder), os.walk

    def shuffled(*arguments: object, **options: object) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, files in walk(*arguments, **options):  # type: ignore[arg-type]
            random.shuffle(folders)
            random.shuffle(files)
            yield place, folders, files

    monkeypatch.setattr(os, "walk", shuffled)
    assert all(names_of(folder) == expected for _ in range(5))


def test_a_glob_gives_the_names_that_its_folder_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names_of(f"{folder}/*.xz") == ["s-1.xz", "s-2.xz", "s-10.xz"]
    assert names_of(f"{folder}/**/*.xz") == ["s-1.xz", "s-2.xz", "s-10.xz", "sub/s-3.xz"]
    assert names_of(f"{folder}/s-[12].xz") == ["s-1.xz", "s-2.xz"]
    assert names_of(f"{folder}/*/s-?.xz") == ["sub/s-3.xz"]
    monkeypatch.chdir(folder.parent)
    assert names_of("corpus/*.xz") == ["s-1.xz", "s-2.xz", "s-10.xz"]
    assert names_of("corp*/s-1.xz") == ["corpus/s-1.xz"]
    monkeypatch.chdir(folder / "sub")
    assert names_of("../s-1*.xz") == ["s-1.xz", "s-10.xz"]
    assert names_of("../*/../s-2.xz") == ["folder.xz/../s-2.xz", "sub/../s-2.xz"]


def test_a_file_and_a_name_with_brackets_are_taken_as_they_are(folder: Path) -> None:
    assert names_of(folder / "read.me") == ["read.me"]
    (folder / "a[1].txt").write_text("x")
    (folder / "b[1]").mkdir()
    (folder / "b[1]" / "c.txt").write_text("x")
    assert names_of(folder / "a[1].txt") == ["a[1].txt"]
    assert names_of(folder / "b[1]") == ["c.txt"]


@pytest.mark.parametrize(
    ("corpus", "reason"),
    [
        ("nowhere", "no such file or folder"),
        ("*.xz", "no file matches"),
        ("**.xz", "pattern"),
        (".", "no .xz or .txt file"),
    ],
)
def test_nothing_to_read_is_one_line_that_says_what_was_looked_for(
    corpus: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match=reason) as refused:
        find_shards(f"{tmp_path}/{corpus}")
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [b"bro\xffken.xz", b"two\nlines.xz", b"bell\x07.txt"])
@pytest.mark.parametrize("how", ["folder", "glob"])
def test_a_name_that_cannot_be_written_down_is_refused_in_one_printable_line(
    name: bytes, how: str, tmp_path: Path
) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"x")
    with pytest.raises(CorpusError, match="rename it") as refused:
        find_shards(str(tmp_path) if how == "folder" else f"{tmp_path}/*.*")
    assert str(refused.value).isascii()
    assert "\n" not in str(refused.value)


def test_a_link_to_nothing_is_not_passed_over(folder: Path) -> None:
    (folder / "s-5.xz").symlink_to(folder / "gone.xz")
    with pytest.raises(CorpusError, match=r"s-5\.xz: .*link to nothing"):
        find_shards(str(folder))


def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="sub"):
        find_shards(str(folder))


# --- writing and unpacking --------------------------------------------------------------------------------------------


def test_a_written_shard_has_the_layout_of_openwebtext_and_always_the_same_bytes(tmp_path: Path) -> None:
    documents = list(some_texts().items())
    for name in ("a.xz", "b.xz"):
        write_shard(tmp_path / name, documents)
    content = (tmp_path / "a.xz").read_bytes()
    assert content == (tmp_path / "b.xz").read_bytes()
    assert content[7] == lzma.CHECK_CRC64
    tar = lzma.decompress(content)
    assert tar[257:265] == b"ustar  \0"  # GNU
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive.getmembers():
            facts = (
                member.mode,
                member.mtime,
                member.uid,
                member.gid,
                member.uname,
                member.gname,
                member.type,
            )
            assert facts == (0o644, 0, 0, 0, "", "", tarfile.REGTYPE)
    assert [(d.member, d.utf8) for d in read_documents(find_shards(str(tmp_path / "a.xz"))[0])] == documents
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.xz", "b.xz"]


def test_two_members_of_one_name_do_not_overwrite_each_other_in_silence(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of({"x/a.xz": b"1", "y/a.xz": b"2"}))
    with pytest.raises(ShardError, match=r"two members named 'a\.xz'"):
        list(unpack_shards(archive, tmp_path / "out"))


@pytest.mark.parametrize("name", ["../a.xz", "/a.xz", "..", "b/.."])
def test_unpacking_writes_nothing_outside_its_folder(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of({name: b"1"}))
    with pytest.raises(ShardError, match="points outside"):
        list(unpack_shards(archive, tmp_path / "out"))
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tar"]


def test_a_cut_archive_is_refused_in_one_line(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.xz"
    archive.write_bytes(lzma.compress(tar_of({"a.xz": b"1", "b.xz": b"2"}))[:-1])
    with pytest.raises(ShardError, match=r"a\.tar\.xz: is cut off"):
        list(unpack_shards(archive, tmp_path / "out"))


def test_errors_survive_the_way_between_processes(tmp_path: Path) -> None:
    import pickle

    error: StorageError = pickle.loads(pickle.dumps(ShardError(tmp_path, "is cut off")))
    assert str(error) == f"{tmp_path}: is cut off"
    assert isinstance(error, ShardError)
    assert (error.path, error.reason) == (tmp_path, "is cut off")


def test_memory_does_not_grow_with_the_size_of_a_shard(tmp_path: Path) -> None:
    """150 MB of text in members of 1 MB, read in a fresh process whose peak is measured."""
    program = """
import hashlib, io, lzma, resource, sys, tarfile
from pathlib import Path
from storage.shards import find_shards, read_documents
path = Path(sys.argv[1])
text = b"".join(b"line %d of many\\n" % i for i in range(60_000))
with lzma.open(path, "wb", preset=0) as file, tarfile.open(fileobj=file, mode="w|") as tar:
    for number in range(int(sys.argv[2])):
        member = tarfile.TarInfo(f"{number}.txt")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for _ in read_documents(find_shards(str(path))[0]))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "a.xz"), "120"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    count, grown_mib = map(int, ran.stdout.split())
    assert count == 120
    assert grown_mib < 40
