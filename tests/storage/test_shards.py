"""Shards come out whole, in order, as what they are; whatever is cut, flipped, foreign or hostile is refused by name."""

import gzip
import io
import json
import lzma
import os
import pickle
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import forms, shards
from storage.documents.tables import parquet_texts
from storage.errors import CorpusError, ShardError, StorageError
from storage.forms import (
    BOOK_DOCUMENT_BYTES,
    WHOLE_TEXT_BYTES,
    ArchiveOfShards,
    DocumentBatch,
    InvalidUtf8,
    Reading,
    read_archive,
    read_batches,
)
from storage.shards import Shard, find_shards, write_shard

REAL_SHARDS = ["urlsf_subset00-1_data.xz", "urlsf_subset00-4_data.xz", "urlsf_subset00-7_data.xz"]
INVALID_UTF8: list[InvalidUtf8] = ["refuse", "replace"]


@dataclass
class Documents:
    """What batches hold, flattened."""

    pairs: list[tuple[str, bytes]] = field(default_factory=list)
    byte_order_marks: int = 0
    crlf_line_ends: int = 0
    invalid_utf8_documents: int = 0

    @property
    def texts(self) -> list[bytes]:
        return [text for _, text in self.pairs]

    @property
    def members(self) -> list[str]:
        return [member for member, _ in self.pairs]


def flattened(batches: Iterable[DocumentBatch]) -> Documents:
    found = Documents()
    for batch in batches:
        rest = io.BytesIO(batch.texts.utf8)
        texts = [rest.read(size) for size in batch.texts.sizes.tolist()]
        assert rest.read() == b""
        found.pairs += zip(batch.texts.members, texts, strict=True)
        found.byte_order_marks += batch.byte_order_marks
        found.crlf_line_ends += batch.crlf_line_ends
        found.invalid_utf8_documents += batch.invalid_utf8_documents
    return found


def read_file(path: Path, reading: Reading | None = None) -> Documents:
    return flattened(read_batches(find_shards(str(path))[0], reading or Reading()))


def read(
    path: Path, content: bytes, invalid_utf8: InvalidUtf8 = "refuse", text_column: str = "text"
) -> Documents:
    path.write_bytes(content)
    return read_file(path, Reading(invalid_utf8=invalid_utf8, text_column=text_column))


def refusal(
    path: Path, content: bytes, invalid_utf8: InvalidUtf8 = "refuse", text_column: str = "text"
) -> str:
    with pytest.raises(ShardError) as refused:
        read(path, content, invalid_utf8, text_column)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    assert refused.value.place == str(path)
    return refused.value.reason


# --- the forms of a shard ---------------------------------------------------------------------------------------------


def tar_of(texts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return buffer.getvalue()


def unpadded(tar: bytes) -> bytes:
    """The tar without the zeros that follow its end marker, which anyone may cut off in peace."""
    content = tar.rstrip(b"\0")
    return content + bytes(-len(content) % 512) + bytes(1024)


def json_lines(texts: Iterable[str | bytes], name: str = "text") -> bytes:
    strings = [text if isinstance(text, str) else text.decode() for text in texts]
    return b"".join(
        json.dumps({"id": n, name: text}, ensure_ascii=n % 2 == 0).encode() + b"\n"
        for n, text in enumerate(strings)
    )


def parquet_of(columns: dict[str, pa.Array], **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def parquet_with(texts: Iterable[bytes]) -> bytes:
    return parquet_of({"id": pa.array(range(len(list(texts)))), "text": as_text(texts)})


def as_text(texts: Iterable[bytes]) -> pa.Array:
    """A column of text, which Parquet takes as it is: nothing there checks that it is UTF-8."""
    return pa.array(list(texts), pa.binary()).view(pa.string())


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def some_texts() -> dict[str, bytes]:
    rng = random.Random(5)
    return {
        f"{n}.txt": " ".join(rng.choices(["brick", "road", "Öz", "home"], k=30)).encode() for n in range(4)
    }


SMALL = tar_of(some_texts())
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.compress,
    ".zst": zstd,
    ".gz": lambda content: gzip.compress(content, mtime=0),
}
PLAIN = {
    ".tar": SMALL,
    ".jsonl": json_lines(some_texts().values()),
    ".parquet": parquet_with(some_texts().values()),
}
FORMS = PLAIN | {
    plain + suffix: compress(PLAIN[plain])
    for suffix, compress in COMPRESSIONS.items()
    for plain in (".tar", ".jsonl")
}
every_form = pytest.mark.parametrize("form", FORMS)


@every_form
@pytest.mark.parametrize("name", [None, "a.txt", "shard", "a.b", ".hidden"])
def test_the_same_documents_are_the_same_texts_in_every_form_under_any_name(
    form: str, name: str | None, tmp_path: Path
) -> None:
    documents = read(tmp_path / (name or f"a{form}"), FORMS[form])
    assert documents.texts == list(some_texts().values())
    assert len(set(documents.members)) == 4
    assert documents.members == sorted(documents.members)


@every_form
@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_name_that_claims_another_compression_is_refused(form: str, suffix: str, tmp_path: Path) -> None:
    if not form.endswith(suffix):
        claimed = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[suffix]
        assert f"is not {claimed} " in refusal(tmp_path / f"a{suffix}", FORMS[form])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.tar", "a.tar.zst"])
@pytest.mark.parametrize(
    "content",
    [
        b"<html>404 not found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
        b'{"text": "cut in its first li',
        b'"text": "the first byte was lost"}\n{"text": "b"}\n',
    ],
    ids=["page", "pointer", "cut", "lost"],
)
def test_a_text_whose_name_says_that_it_is_something_else_is_refused(
    name: str, content: bytes, tmp_path: Path
) -> None:
    """A page of an error, or the pointer of a file, saved as data: to read it as a document would be in silence."""
    compress = COMPRESSIONS.get(Path(name).suffix, bytes)
    assert "name" in refusal(tmp_path / name, compress(content))


@pytest.mark.parametrize(
    ("form", "claims"), [(".tar", "a.jsonl"), (".jsonl", "a.parquet"), (".parquet", "a.tar")]
)
def test_what_is_whole_is_read_whatever_its_name_says_of_its_form(
    form: str, claims: str, tmp_path: Path
) -> None:
    assert read(tmp_path / claims, FORMS[form]).texts == list(some_texts().values())


def test_batches_of_any_size_hold_the_same_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {f"{n:03d}": b"brick\r\n" * (n % 7) for n in range(100)} | {"big": b"x" * 3000}
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(texts))
    whole = read_file(path)
    assert (whole.members, whole.crlf_line_ends) == (list(texts), sum(n % 7 for n in range(100)))
    for text_bytes, documents in [(1, 10), (100, 4096), (4 << 20, 7), (4 << 20, 1), (900, 13)]:
        monkeypatch.setattr(forms, "_BATCH_TEXT_BYTES", text_bytes)
        monkeypatch.setattr(forms, "_BATCH_DOCUMENTS", documents)
        batches = list(read_batches(find_shards(str(path))[0], Reading()))
        assert flattened(batches) == whole
        assert len(batches) > 3
        assert all(len(batch.texts.members) <= documents for batch in batches)


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
    documents = read_file(path)
    assert documents.members == names
    raw = [(tmp_path / name).read_bytes() for name in names]
    assert documents.texts == [text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n") for text in raw]
    assert documents.crlf_line_ends == sum(text.count(b"\r\n") for text in raw)


@pytest.mark.parametrize("name", ["documents.jsonl.zst", "documents.parquet"])
def test_the_real_documents_are_the_same_texts_in_every_form(name: str, real_data: Path) -> None:
    expected = [
        text
        for shard in find_shards(str(real_data / "owt-small"))
        for text in flattened(read_batches(shard, Reading())).texts
    ]
    documents = read_file(real_data / "formats" / name)
    assert documents.texts == expected
    assert len(expected) == 420
    assert len(set(documents.members)) == 420
    assert documents.members == sorted(documents.members)


def test_the_course_s_book_has_its_mark_and_line_ends_counted_and_nothing_lost(real_data: Path) -> None:
    path = real_data / "wizard_of_oz.txt"
    documents = read_file(path)
    raw = path.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    assert b"".join(documents.texts) == raw[3:].replace(b"\r\n", b"\n")
    assert documents.byte_order_marks == 1
    assert documents.crlf_line_ends == raw.count(b"\r\n") == 5_422
    assert documents.members == sorted(documents.members)
    assert len(documents.pairs) > 20


def test_text_in_xz_without_a_tar_is_the_text(real_data: Path) -> None:
    path = real_data / "formats" / "plain-text.xz"
    assert b"".join(read_file(path).texts) == lzma.decompress(path.read_bytes())


# --- archives of shards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openwebtext.tar.xz", "urlsf_subset00.tar"])
def test_an_archive_gives_the_shards_that_tar_extracts(name: str, real_data: Path, tmp_path: Path) -> None:
    path = real_data / "formats" / name
    subprocess.run(["tar", "-xf", str(path), "-C", str(tmp_path)], check=True)
    (archive,) = find_shards(str(path))
    with pytest.raises(ArchiveOfShards):
        next(read_batches(archive, Reading()))
    inner = list(read_archive(archive))
    assert len(inner) == 3
    for shard in inner:
        assert shard.location == str(path)
        assert shard.name == f"{name}/{shard.member}"
        extracted = tmp_path / str(shard.member)
        assert shard.content == extracted.read_bytes()
        assert shard.compressed_bytes == extracted.stat().st_size
        assert flattened(read_batches(shard, Reading())) == read_file(extracted)
    assert {shard.member for shard in inner} == {
        found.relative_to(tmp_path).as_posix() for found in tmp_path.rglob("*.xz")
    }


@pytest.mark.parametrize("outer", ["", *COMPRESSIONS])
@pytest.mark.parametrize("form", [form for form in FORMS if form not in PLAIN])
def test_an_archive_may_be_of_any_compressed_form_and_of_any_form_inside(
    form: str, outer: str, tmp_path: Path
) -> None:
    tar = tar_of({f"in/{n}{form}": FORMS[form] for n in range(2)})
    path = tmp_path / f"a.tar{outer}"
    path.write_bytes(COMPRESSIONS.get(outer, bytes)(tar))
    (archive,) = find_shards(str(path))
    with pytest.raises(ArchiveOfShards):
        list(read_batches(archive, Reading()))
    for shard in read_archive(archive):
        assert flattened(read_batches(shard, Reading())).texts == list(some_texts().values())


def test_a_bad_shard_of_an_archive_is_named_with_the_archive(tmp_path: Path) -> None:
    good = lzma.compress(SMALL)
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of({"good.xz": good, "bad.xz": good[:-1], "other.zst": good}))
    shards_inside = list(read_archive(find_shards(str(path))[0]))
    assert len(flattened(read_batches(shards_inside[0], Reading())).pairs) == 4
    for shard, reason in zip(shards_inside[1:], ["cut off", "is not zstd"], strict=True):
        with pytest.raises(ShardError, match=reason) as refused:
            list(read_batches(shard, Reading()))
        assert refused.value.place == f"{path}: {shard.member}"
        assert "\n" not in str(refused.value)


def test_an_archive_in_an_archive_is_refused_and_not_read_as_texts(tmp_path: Path) -> None:
    inner = tar_of({"a.xz": lzma.compress(SMALL)})
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of({"inner.tar.xz": lzma.compress(inner)}))
    (shard,) = read_archive(find_shards(str(path))[0])
    with pytest.raises(ShardError, match=r"inner\.tar\.xz: holds a compressed file, 'a\.xz', where texts"):
        list(read_batches(shard, Reading()))


def test_a_compressed_file_among_texts_is_refused_and_not_read_as_one(tmp_path: Path) -> None:
    for compress in COMPRESSIONS.values():
        tar = tar_of({"a.txt": b"text", "b.xz": compress(SMALL)})
        assert "holds a compressed file, 'b.xz', where texts are expected" in refusal(tmp_path / "a.tar", tar)


def test_two_members_of_one_name_do_not_overwrite_each_other_in_silence(tmp_path: Path) -> None:
    first, second = (lzma.compress(tar_of({"a.txt": text})) for text in (b"first", b"second"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in [("x/a.xz", first), ("y/a.xz", second), ("x/a.xz", second)]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    found = list(read_archive(find_shards(str(tmp_path / "a.tar"))[0]))
    assert [shard.content for shard in found] == [first, second, second]
    assert [shard.name for shard in found] == ["a.tar/x/a.xz", "a.tar/y/a.xz", "a.tar/x/a.xz"]


@pytest.mark.parametrize("name", ["../a.xz", "/a.xz", "..", "b/.."])
def test_a_member_that_points_outside_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of({name: lzma.compress(b"1")}))
    with pytest.raises(ShardError, match="points outside"):
        list(read_archive(find_shards(str(archive))[0]))
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tar"]


@pytest.mark.parametrize("suffix", ["", *COMPRESSIONS])
def test_a_cut_archive_is_refused_in_one_line(suffix: str, tmp_path: Path) -> None:
    inner = {"a.xz": lzma.compress(SMALL), "b.xz": lzma.compress(SMALL)}
    whole = COMPRESSIONS.get(suffix, bytes)(unpadded(tar_of(inner)))
    archive = tmp_path / f"a.tar{suffix}"
    for missing in (1, 30, 100, len(whole) // 2):
        archive.write_bytes(whole[:-missing])
        with pytest.raises(ShardError, match=r"a\.tar.*: .*cut off") as refused:
            list(read_archive(find_shards(str(archive))[0]))
        assert "\n" not in str(refused.value)


# --- cut, flipped, foreign --------------------------------------------------------------------------------------------


@every_form
def test_a_shard_cut_anywhere_is_refused(form: str, tmp_path: Path) -> None:
    whole = unpadded(SMALL) if form == ".tar" else FORMS[form]
    assert len(read(tmp_path / f"a{form}", whole).pairs) == 4
    for kept in {0, *range(1, len(whole), 7), *range(max(0, len(whole) - 64), len(whole))}:
        if form == ".jsonl" and b"\n" in whole[max(0, kept - 1) : kept + 1]:
            continue  # cut between two lines, it is whole as far as anyone can tell
        refusal(tmp_path / f"a{form}", whole[:kept])


@every_form
def test_no_flipped_byte_is_more_than_another_text_or_a_refusal(form: str, tmp_path: Path) -> None:
    """Plain forms have no checksum of their text; but there is never another error than that of the shard, by name."""
    whole = FORMS[form]
    path, rng = tmp_path / f"a{form}", random.Random(form)
    places = range(len(whole)) if len(whole) < 3000 else rng.sample(range(len(whole)), 1500)
    for position in places:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.randrange(8)
        try:
            documents = read(path, bytes(flipped))
        except ShardError as error:
            assert error.place == str(path)
        else:
            assert form in PLAIN or documents.texts == list(some_texts().values())


@pytest.mark.parametrize("check", [lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256])
def test_an_xz_shard_with_any_byte_flipped_is_refused(check: int, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_second_tar_in_a_second_stream_is_refused_and_not_left_out(suffix: str, tmp_path: Path) -> None:
    content = COMPRESSIONS[suffix](SMALL) * 2
    assert "after the end marker" in refusal(tmp_path / f"a.tar{suffix}", content)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_streams_one_after_another_are_one_shard(suffix: str, tmp_path: Path) -> None:
    compress, middle = COMPRESSIONS[suffix], len(SMALL) // 2
    content = compress(b"") + compress(SMALL[:middle]) + compress(SMALL[middle:])
    assert dict(read(tmp_path / f"a{suffix}", content).pairs) == some_texts()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xz", b"", "is empty"),
        ("a.txt", b"", "is empty"),
        ("a.jsonl", b"", "is empty"),
        ("a.parquet", b"", "is empty"),
        ("a.xz", b"Dorothy lived in Kansas.", "is not xz"),
        ("a.xz", gzip.compress(b"Dorothy"), "is not xz"),
        ("a.xz", zstd(b"Dorothy"), "is not xz"),
        ("a.gz", lzma.compress(b"Dorothy"), "is not gzip"),
        ("a.zst", b"Dorothy", "is not zstd"),
        ("a.xz", lzma.compress(b"Dorothy", format=lzma.FORMAT_ALONE), "is not xz"),
        ("a.xz", b"\xfd7zX", "is not xz"),
        ("a.gz", b"\x1f", "is not gzip"),
        ("a.zst", b"\x28\xb5\x2f", "is not zstd"),
        ("a.xz", lzma.compress(b""), "holds no documents"),
        ("a.zst", zstd(b""), "holds no documents"),
        ("a.gz", gzip.compress(b""), "holds no documents"),
        ("a.xz", lzma.compress(lzma.compress(b"Dorothy")), "NUL bytes"),
        ("a.xz", lzma.compress(parquet_with([b"Dorothy"])), "NUL bytes"),
        ("a.txt", "Dorothy".encode("utf-16"), "iconv"),
        ("a.txt", "Dorothy".encode("utf-16-le"), "iconv"),
        ("a.txt", "東京都".encode("utf-16"), "iconv"),
        ("a.xz", lzma.compress(tar_of({"b.txt": "Dorothy".encode("utf-16")})), "member 'b.txt' is UTF-16"),
        ("a.tar", tar_of({"a.txt": b"good", "b.txt": "Oz".encode("utf-16")}), "member 'b.txt' is UTF-16"),
        ("a.xz", lzma.compress(b"\0" * 100), "NUL bytes"),
    ],
    ids=range(24),
)  # fmt: skip
@pytest.mark.parametrize("invalid_utf8", INVALID_UTF8)
def test_what_is_not_what_its_name_says_is_refused(
    name: str, content: bytes, reason: str, invalid_utf8: InvalidUtf8, tmp_path: Path
) -> None:
    assert reason in refusal(tmp_path / name, content, invalid_utf8)


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=list(COMPRESSIONS))
def test_a_compressed_text_is_the_text_under_any_name(
    compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    assert read(tmp_path / "a.txt", compress(b"Dorothy")).texts == [b"Dorothy"]


@pytest.mark.parametrize("content", [bytes(600_000), tar_of({"bomb.txt": b"a" * 600_000})])
@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_decompression_bomb_is_stopped(
    content: bytes, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_GRACE_BYTES", 1000)
    monkeypatch.setattr(shards, "MAX_EXPANSION", 100)
    assert "decompression bomb" in refusal(tmp_path / f"a{suffix}", COMPRESSIONS[suffix](content))


def test_an_error_of_the_disk_while_reading_names_the_shard() -> None:
    path = Path("/proc/self/mem")  # its first page cannot be read: EIO, which Python reports without a name
    if not path.exists():
        pytest.skip("no /proc on this machine")
    shard = Shard(location=str(path), name="mem", compressed_bytes=1)
    with pytest.raises(OSError, match=r"/proc/self/mem"):
        list(read_batches(shard, Reading()))
    with pytest.raises(OSError, match=r"/proc/self/mem"):
        list(read_archive(shard))


# --- JSON lines -------------------------------------------------------------------------------------------------------


def test_json_lines_are_their_texts_and_are_named_by_their_lines(tmp_path: Path) -> None:
    texts = ["plain", "", "東京 😀", 'quotes " and \\ and \n line ends \t\u2028', "{", '{"text": 1}', "\0"]
    content = json_lines(texts)
    documents = read(tmp_path / "a.jsonl", content)
    assert [text.decode() for text in documents.texts] == texts
    assert documents.members == [f"line-{n:09d}" for n in range(1, len(texts) + 1)]
    assert read(tmp_path / "a.jsonl", content.rstrip(b"\n")) == documents


def test_a_surrogate_pair_in_an_escape_is_one_character(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", rb'{"text": "\ud83d\ude00"}').texts == ["😀".encode()]


def test_blank_lines_are_no_documents_and_are_counted_as_lines(tmp_path: Path) -> None:
    content = b'{"text": "a"}\n\n  \r\n{"text": "b"}\r\n\t\n'
    assert read(tmp_path / "a.jsonl", content).pairs == [("line-000000001", b"a"), ("line-000000004", b"b")]
    assert read(tmp_path / "a.jsonl", b" \n\n" + content).texts == [b"a", b"b"]


def test_texts_of_json_are_normalised_as_all_others(tmp_path: Path) -> None:
    documents = read(tmp_path / "a.jsonl", json_lines(["\ufeffone\r\ntwo\r", "three"]))
    assert documents.texts == [b"one\ntwo\r", b"three"]
    assert (documents.byte_order_marks, documents.crlf_line_ends) == (1, 1)


def test_a_byte_order_mark_before_json_lines_does_not_make_a_text_of_them(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + json_lines(["one", "two"])
    for name in ("a.jsonl", "a.txt"):
        assert read(tmp_path / name, content).texts == [b"one", b"two"]


def test_the_field_is_the_one_that_was_chosen(tmp_path: Path) -> None:
    content = json_lines(["one", "two"], name="body")
    assert read(tmp_path / "a.jsonl", content, text_column="body").texts == [b"one", b"two"]
    reason = refusal(tmp_path / "a.jsonl", content)
    assert "line 1 has no field 'text' (there: 'id', 'body'); choose one with --text-column" in reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut in the mid', "line 2 is not JSON; it may be cut off"),
        (b'{"text": "a"} {"text": "b"}', "line 2 is not JSON"),
        (b"text", "line 2 is not JSON"),
        (b'{"text": ' * 100_000, "line 2 is not JSON"),
        (b'{"id": 1}', "line 2 has no field 'text' (there: 'id')"),
        (b"{}", "line 2 has no field 'text' (there: )"),
        (b"[1, 2]", "line 2 has no field 'text' (there: no object)"),
        (b'"text"', "line 2 has no field 'text' (there: no object)"),
        (b"null", "line 2 has no field 'text' (there: no object)"),
        (b'{"text": null}', "line 2: the field 'text' is not text"),
        (b'{"text": 7}', "line 2: the field 'text' is not text"),
        (b'{"text": ["a"]}', "line 2: the field 'text' is not text"),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("invalid_utf8", INVALID_UTF8)
def test_a_line_that_has_no_text_is_refused_by_its_number(
    line: bytes, reason: str, invalid_utf8: InvalidUtf8, tmp_path: Path
) -> None:
    content = b'{"text": "good"}\n' + line + b"\n"
    assert reason in refusal(tmp_path / "a.jsonl", content, invalid_utf8)


def test_many_fields_or_a_long_name_are_told_in_one_short_line(tmp_path: Path) -> None:
    content = json.dumps({f"field\n{n}": n for n in range(1000)}).encode()
    assert len(refusal(tmp_path / "a.jsonl", content)) < 400


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"{curly} braces begin this text,\nand it goes on.",
        b'{\n "text": "JSON, but no lines of it"\n}\n',
        b"  {\\rtf1 a text of another program}",
        b"{}} or {{",
        b'["text"]\n',
    ],
)
def test_a_text_that_merely_begins_with_a_brace_is_a_text(text: bytes, tmp_path: Path) -> None:
    for name in ("a.txt", "b"):
        assert read(tmp_path / name, text).pairs == [("text", text)]
    assert read(tmp_path / "a.xz", lzma.compress(text)).texts == [text]


def test_a_book_that_begins_with_a_brace_loses_nothing(tmp_path: Path) -> None:
    book = b"{ a line of a book }\r\n\r\n" * 20_000
    documents = read(tmp_path / "a.txt", book)
    assert len(documents.pairs) > 10
    assert b"".join(documents.texts) == book.replace(b"\r\n", b"\n")
    place = 234_567
    assert f"at byte {place:,};" in refusal(tmp_path / "a.txt", book[:place] + b"\xff" + book[place + 1 :])


@pytest.mark.parametrize("escape", [rb"\ud800", rb"\udfff", rb"\ude00\ud83d"])
def test_a_lone_surrogate_of_an_escape_is_invalid_as_other_bytes_are(escape: bytes, tmp_path: Path) -> None:
    content = b'{"text": "good"}\n{"text": "a' + escape + b'b"}\n{"text": "good"}\n'
    reason = refusal(tmp_path / "a.jsonl", content)
    assert "member 'line-000000002' is not valid UTF-8 at byte 1; --invalid-utf8 replace" in reason
    documents = read(tmp_path / "a.jsonl", content, "replace")
    assert documents.texts[::2] == [b"good", b"good"]
    assert set(documents.texts[1].decode()) == {"a", "\ufffd", "b"}
    assert documents.invalid_utf8_documents == 1


@pytest.mark.parametrize("line", [1, 2, 3])
def test_bytes_of_json_that_are_not_utf8_are_invalid_as_other_bytes_are(line: int, tmp_path: Path) -> None:
    lines = [b'{"text": "good"}'] * 3
    lines[line - 1] = b'{"text": "a\xff\xc3(b"}'
    content = b"\n".join(lines)
    assert "not valid UTF-8" in refusal(tmp_path / "a.jsonl", content)
    documents = read(tmp_path / "a.jsonl", content, "replace")
    assert documents.texts.count(b"good") == 2
    assert set(documents.texts[line - 1].decode()) == {"a", "\ufffd", "(", "b"}
    assert documents.invalid_utf8_documents == 1


def test_a_line_beyond_all_reason_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MAX_MEMBER_BYTES", 3_000_000)
    content = json_lines(["good", "x" * 9_000_000])
    assert "a line of more than 3,000,000 bytes" in refusal(tmp_path / "a.jsonl", content)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(max_size=20), min_size=1, max_size=6),
    ascii_only=st.booleans(),
    chunk_bytes=st.integers(6, 40),
)
def test_any_texts_come_out_of_json_lines(
    texts: list[str], ascii_only: bool, chunk_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [json.dumps({"text": text, "n": [1, {}]}, ensure_ascii=ascii_only) for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_READ_BYTES", chunk_bytes)
        documents = read(tmp_path_factory.mktemp("lines") / "a.jsonl", "\n".join(lines).encode())
    expected = [text.encode().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n") for text in texts]
    assert documents.texts == expected


# --- Parquet ----------------------------------------------------------------------------------------------------------

TEXTS = [b"one", b"", "東京 😀".encode(), b"two\r\nlines", b"\xef\xbb\xbfmarked"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "write_page_checksum": True},
        {"row_group_size": 2},
        {"use_dictionary": False, "compression": "none", "data_page_version": "2.0"},
    ],
    ids=range(4),
)
def test_the_column_of_a_parquet_is_its_texts_row_by_row(
    kind: pa.DataType, options: dict[str, object], tmp_path: Path
) -> None:
    content = parquet_of({"text": as_text(TEXTS).cast(kind), "id": pa.array(range(5))}, **options)
    documents = read(tmp_path / "a.parquet", content)
    assert documents.texts == [*TEXTS[:3], b"two\nlines", b"marked"]
    assert documents.members == [f"row-{n:09d}" for n in range(1, 6)]
    assert (documents.byte_order_marks, documents.crlf_line_ends) == (1, 1)


def test_many_rows_come_in_order_whatever_their_groups(tmp_path: Path) -> None:
    texts = [b"%d" % n for n in range(5000)]
    content = parquet_of({"text": as_text(texts)}, row_group_size=700)
    assert read(tmp_path / "a.parquet", content).texts == texts


def test_the_column_is_the_one_that_was_chosen(tmp_path: Path) -> None:
    content = parquet_of({"id": pa.array([1, 2]), "body": as_text([b"one", b"two"])})
    assert read(tmp_path / "a.parquet", content, text_column="body").texts == [b"one", b"two"]
    assert "has no column 'text' (there: 'id', 'body'); choose one with --text-column" in refusal(
        tmp_path / "a.parquet", content
    )
    assert "its column 'id' is of type int64, not text; choose one with --text-column" in refusal(
        tmp_path / "a.parquet", content, text_column="id"
    )


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([b"one"], pa.binary()), "of type binary, not text"),
        (pa.array([["one"]]), "of type list<"),
        (pa.array(["one", None]), "has empty cells (nulls)"),
        (pa.array([None, None], pa.string()), "has empty cells (nulls)"),
        (pa.array([], pa.string()), "holds no documents"),
    ],
    ids=range(5),
)
@pytest.mark.parametrize("invalid_utf8", INVALID_UTF8)
def test_a_column_that_is_not_all_text_is_refused(
    column: pa.Array, reason: str, invalid_utf8: InvalidUtf8, tmp_path: Path
) -> None:
    assert reason in refusal(tmp_path / "a.parquet", parquet_of({"text": column}), invalid_utf8)


def test_a_null_far_down_is_not_passed_over(tmp_path: Path) -> None:
    column = pa.array(["text"] * 4000 + [None])
    assert "nulls" in refusal(tmp_path / "a.parquet", parquet_of({"text": column}, row_group_size=300))


def test_a_parquet_cut_anywhere_is_refused_whatever_its_name(tmp_path: Path) -> None:
    whole = parquet_with(some_texts().values())
    for name in ("a.parquet", "a.txt"):
        for kept in range(4, len(whole)):
            assert "damaged or cut off" in refusal(tmp_path / name, whole[:kept])


def test_a_flipped_byte_of_a_page_with_a_checksum_is_refused(tmp_path: Path) -> None:
    text = random.Random(1).randbytes(4000).hex().encode()
    whole = parquet_of(
        {"text": as_text([text])}, compression="none", use_dictionary=False, write_page_checksum=True
    )
    start = whole.index(text)
    for position in random.Random(2).sample(range(start, start + len(text)), 100):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        assert "damaged or cut off" in refusal(tmp_path / "a.parquet", bytes(flipped))


def test_invalid_utf8_of_a_parquet_is_refused_with_its_place_or_replaced(tmp_path: Path) -> None:
    content = parquet_of({"text": as_text([b"good", b"bad \xc3(", b"good"])})
    assert "member 'row-000000002' is not valid UTF-8 at byte 4;" in refusal(tmp_path / "a.parquet", content)
    documents = read(tmp_path / "a.parquet", content, "replace")
    assert documents.texts == [b"good", "bad \ufffd(".encode(), b"good"]
    assert documents.invalid_utf8_documents == 1


def test_an_error_of_the_disk_is_not_taken_for_a_damaged_parquet() -> None:
    """The shard is good: to call it damaged would leave it out where bad shards are tolerated."""

    class FailingDisk(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        list(parquet_texts(FailingDisk(parquet_with([b"text"])), "text"))


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_tar", [True, False])
def test_invalid_utf8_is_refused_with_its_place_or_replaced_and_told(in_tar: bool, tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfone\r\ntwo\r\n\xc3("
    content = lzma.compress(tar_of({"b.txt": text}) if in_tar else text)
    assert "not valid UTF-8 at byte 13;" in refusal(tmp_path / "a.xz", content)
    documents = read(tmp_path / "a.xz", content, "replace")
    assert [text.decode() for text in documents.texts] == ["one\ntwo\n\ufffd("]
    assert documents.invalid_utf8_documents == 1
    assert documents.byte_order_marks == 1
    assert documents.crlf_line_ends == 2


def test_only_the_documents_that_are_invalid_are_changed_and_counted(tmp_path: Path) -> None:
    texts = {
        "a": b"good \xc3\xa9",
        "b": b"\xff",
        "c": b"",
        "d": "東京".encode(),
        "e": b"\xe6\x9d",
        "f": b"\xb1",
    }
    documents = read(tmp_path / "a.tar", tar_of(texts), "replace")
    expected = texts | {
        name: "\ufffd".encode() for name in ("b", "e", "f")
    }  # e and f are one character, cut in two
    assert documents.pairs == list(expected.items())
    assert documents.invalid_utf8_documents == 3
    assert "member 'b' is not valid UTF-8 at byte 0;" in refusal(tmp_path / "a.tar", tar_of(texts))
    del texts["b"]
    assert "member 'e' is not valid UTF-8 at byte 0;" in refusal(tmp_path / "a.tar", tar_of(texts))


def test_invalid_utf8_in_a_book_is_placed_by_the_byte_of_the_file(tmp_path: Path) -> None:
    book = b"A line of text.\r\n\r\n" * 20_000
    place = 234_567
    assert f"at byte {place:,};" in refusal(tmp_path / "a.txt", book[:place] + b"\xff" + book[place + 1 :])


@pytest.mark.parametrize("bad", [b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x80", b"a\xe2\x82"])
def test_surrogates_overlong_and_cut_sequences_are_invalid(bad: bytes, tmp_path: Path) -> None:
    assert "not valid UTF-8" in refusal(tmp_path / "a.txt", bad)


def test_lone_carriage_returns_nul_and_odd_spaces_of_a_member_are_text(tmp_path: Path) -> None:
    text = "a\rb\0c\u2028d\x85e\ufeff\x1a\r\r\n".encode()
    documents = read(tmp_path / "a.xz", lzma.compress(tar_of({"b.txt": text})))
    assert documents.texts == [text.replace(b"\r\n", b"\n")]
    assert documents.crlf_line_ends == 1


def test_a_lone_byte_order_mark_is_an_empty_document_and_two_are_one_and_a_character(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", b"\xef\xbb\xbf").texts == [b""]
    assert read(tmp_path / "a.txt", b"\xef\xbb\xbf" * 2).texts == [b"\xef\xbb\xbf"]


def test_a_text_is_whole_up_to_its_limit_and_a_book_one_byte_later(tmp_path: Path) -> None:
    paragraphs = (b"word " * 20 + b"\n\n") * 1000
    assert read(tmp_path / "a.txt", paragraphs[:WHOLE_TEXT_BYTES]).texts == [paragraphs[:WHOLE_TEXT_BYTES]]
    book = read(tmp_path / "a.txt", paragraphs[: WHOLE_TEXT_BYTES + 1]).texts
    assert len(book) > 10
    assert all(text.endswith(b"\n\n") for text in book[:-1])
    assert b"".join(book) == paragraphs[: WHOLE_TEXT_BYTES + 1]


@pytest.mark.parametrize("character", ["é", "東", "😀", "x"])
@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_a_book_without_any_line_end_is_cut_between_characters(
    character: str, shift: int, tmp_path: Path
) -> None:
    text = ("x" * shift + character * (3 * WHOLE_TEXT_BYTES // len(character.encode()))).encode()
    documents = read(tmp_path / "a.txt", text)
    assert len(documents.pairs) > 2
    assert b"".join(documents.texts) == text


def test_a_line_end_of_two_bytes_at_the_cut_stays_whole(tmp_path: Path) -> None:
    for before in range(WHOLE_TEXT_BYTES - 4, WHOLE_TEXT_BYTES + 4):
        text = b"x" * before + b"\r\n" + b"y" * WHOLE_TEXT_BYTES
        documents = read(tmp_path / "a.txt", text)
        assert b"".join(documents.texts) == text.replace(b"\r\n", b"\n")
        assert documents.crlf_line_ends == 1


def test_a_byte_order_mark_is_a_character_where_a_book_is_cut(tmp_path: Path) -> None:
    text = (b"x" * BOOK_DOCUMENT_BYTES + b"\n\n" + b"\xef\xbb\xbf") * 40
    documents = read(tmp_path / "a.txt", text)
    assert b"".join(documents.texts) == text
    assert documents.byte_order_marks == 0


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
    text = "x" * forms.TAR_BLOCK_BYTES + "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:  # small limits: many cuts in a short text
        patch.setattr(forms, "WHOLE_TEXT_BYTES", 128)
        patch.setattr(forms, "BOOK_DOCUMENT_BYTES", 32)
        documents = read(path, text.encode())
    assert b"".join(documents.texts).decode() == text.replace("\r\n", "\n")
    assert documents.crlf_line_ends == text.count("\r\n")


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
        "record.json",
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


def test_a_folder_gives_its_files_of_every_form(tmp_path: Path) -> None:
    names = [f"a{form}" for form in FORMS] + ["a.txt", "a.xz", "a.zst", "a.gz"]
    for name in (*names, "a.json", "a.csv", "README.md", "SHA256SUMS", "a.xz.unfinished"):
        (tmp_path / name).write_bytes(b"x")
    assert sorted(names_of(tmp_path)) == sorted(names)


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
        (".", r"no \.xz, \.zst, \.gz, \.txt, \.tar, \.jsonl, \.parquet file"),
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


# --- writing, errors, memory ------------------------------------------------------------------------------------------


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
    assert read_file(tmp_path / "a.xz").pairs == documents
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.xz", "b.xz"]


def test_errors_survive_the_way_between_processes(tmp_path: Path) -> None:
    error: StorageError = pickle.loads(pickle.dumps(ShardError(str(tmp_path), "is cut off")))
    assert str(error) == f"{tmp_path}: is cut off"
    assert isinstance(error, ShardError)
    assert (error.place, error.reason) == (str(tmp_path), "is cut off")


@pytest.mark.parametrize("form", ["tar", "jsonl"])
def test_memory_does_not_grow_with_the_size_of_a_shard(form: str, tmp_path: Path) -> None:
    """130 MB of text in documents of 1 MB, read in a fresh process whose peak is measured."""
    program = """
import io, json, lzma, resource, sys, tarfile
from storage.forms import Reading, read_batches
from storage.shards import find_shards
path, form, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
text = b"".join(b"line %d of many\\n" % i for i in range(60_000))
with lzma.open(path, "wb", preset=0) as file:
    if form == "jsonl":
        for number in range(count):
            file.write(json.dumps({"text": text.decode()}).encode() + b"\\n")
    else:
        with tarfile.open(fileobj=file, mode="w|") as tar:
            for number in range(count):
                member = tarfile.TarInfo(f"{number}.txt")
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
batches = read_batches(find_shards(path)[0], Reading())
found = sum(len(batch.texts.members) for batch in batches)
print(found, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "a.xz"), form, "120"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    count, grown_mib = map(int, ran.stdout.split())
    assert count == 120
    assert grown_mib < 60  # some batches of 4 MiB
