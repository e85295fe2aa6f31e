"""Documents equal what `tar -xf` extracts, in every form of tar; a tar that is not whole or not plain text is refused."""

import io
import lzma
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import Malformed, ShardError
from storage.forms import Reading, read_batches
from storage.shards import find_shards
from storage.tar_stream import ByteStream, tar_members

LONG = "long/" + "n" * 130 + ".txt"  # over the 100 bytes of a plain header
DEEP = "/".join(["folder-of-some-length"] * 6) + "/leaf.txt"  # fits ustar's prefix and name
FOREIGN = "ünïcode-東京-😀.txt"
TEXTS = {
    "0622069-19d9fdce6a31b953ee9cb8149e48af2d.txt": b"The road.\n\nIt is yellow.",
    "empty.txt": b"",
    "block.txt": b"x" * 512,
    "0000007.txt": "Über 東京 😀".encode(),
    DEEP: b"deep\n" * 300,
    "looks-like-a-header.txt": tarfile.TarInfo("inner.txt").tobuf(),
}
FORMATS = {"gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT}
END = bytes(1024)

needs_tar = pytest.mark.skipif(shutil.which("tar") is None, reason="no tar on this machine")


def texts_for(form: str) -> dict[str, bytes]:
    more = {LONG: b"long", FOREIGN: b"foreign"} if form != "ustar" else {}
    return TEXTS | more


def python_tar(texts: dict[str, bytes], form: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[form]) as tar:
        folder = tarfile.TarInfo("folder-of-some-length")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            if form == "pax":  # what makes tarfile write a PAX header that says little of use
                member.mtime = 1.5
                member.pax_headers = {"comment": "size=7 path=elsewhere"}
            tar.addfile(member, io.BytesIO(text))
    return buffer.getvalue()


def gnu_tar(texts: dict[str, bytes], form: str, folder: Path) -> bytes:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    command = ["tar", f"--format={form}", "--exclude-backups", "-C", str(folder), "-cf", "-", "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def read(tmp_path: Path, tar: bytes, name: str = "a.xz") -> list[tuple[str, bytes]]:
    """(member, text) of each document."""
    path = tmp_path / name
    path.write_bytes(lzma.compress(tar, preset=0) if name.endswith(".xz") else tar)
    documents: list[tuple[str, bytes]] = []
    for batch in read_batches(find_shards(str(path))[0], Reading()):
        rest = io.BytesIO(batch.texts.utf8)
        documents += [
            (member, rest.read(size))
            for member, size in zip(batch.texts.members, batch.texts.sizes.tolist(), strict=True)
        ]
        assert rest.read() == b""
    return documents


def refusal(tmp_path: Path, tar: bytes) -> str:
    with pytest.raises(ShardError) as refused:
        read(tmp_path, tar)
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith(f"{tmp_path / 'a.xz'}: ")
    return refused.value.reason


def extracted(tmp_path: Path, tar: bytes) -> list[tuple[str, bytes]]:
    """Members as GNU tar lists and extracts them, in the order of the archive."""
    archive, folder = tmp_path / "judge.tar", tmp_path / "judged"
    archive.write_bytes(tar)
    folder.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)
    listing = ["tar", "--quoting-style=literal", "-tf", str(archive)]
    names = subprocess.run(listing, check=True, capture_output=True).stdout.decode().splitlines()
    return [(name, (folder / name).read_bytes()) for name in names if (folder / name).is_file()]


def header(name: str, size: int = 0, kind: bytes = b"0", **fields: object) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def signed(block: bytes) -> bytes:
    """A header with its checksum made right again."""
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


@needs_tar
@pytest.mark.parametrize("form", FORMATS)
def test_documents_of_pythons_tars_equal_what_tar_extracts(form: str, tmp_path: Path) -> None:
    tar = python_tar(texts_for(form), form)
    documents = read(tmp_path, tar)
    assert documents == extracted(tmp_path, tar) == list(texts_for(form).items())


@needs_tar
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_documents_of_gnu_tars_equal_what_tar_extracts(form: str, tmp_path: Path) -> None:
    texts = {name: text for name, text in texts_for(form).items() if form != "v7" or len(name) < 90}
    (tmp_path / "made").mkdir()
    tar = gnu_tar(texts, form, tmp_path / "made")
    documents = read(tmp_path, tar)
    assert documents == extracted(tmp_path, tar)
    assert {name.removeprefix("./"): text for name, text in documents} == texts


def test_headers_never_reach_the_text(tmp_path: Path) -> None:
    for form in FORMATS:
        documents = read(tmp_path, python_tar({"a.txt": b"one", LONG[:90]: b"two"}, form))
        assert b"".join(text for _, text in documents) == b"onetwo"


def test_a_tar_without_xz_is_read_as_a_tar_and_never_as_text(tmp_path: Path) -> None:
    tar = python_tar(TEXTS, "gnu")
    assert read(tmp_path, tar, "a.tar") == list(TEXTS.items())


def test_a_pax_size_stands_above_that_of_the_header(tmp_path: Path) -> None:
    record = b"10 size=3\n"
    tar = (
        header("PaxHeaders/a", len(record), b"x") + padded(record) + header("a.txt", 0) + padded(b"abc") + END
    )
    assert read(tmp_path, tar) == [("a.txt", b"abc")]


def test_a_pax_size_speaks_of_the_file_and_not_of_the_long_name_before_it(tmp_path: Path) -> None:
    record, name = b"10 size=3\n", b"long.txt\0"
    tar = header("x", len(record), b"x") + padded(record) + header("L", len(name), b"L") + padded(name)
    tar += header("short", 0) + padded(b"abc") + END
    assert read(tmp_path, tar) == [("long.txt", b"abc")]


def test_global_pax_comments_are_passed_over_but_may_rename_nothing(tmp_path: Path) -> None:
    def with_global(record: bytes) -> bytes:
        return header("g", len(record), b"g") + padded(record) + header("a.txt", 3) + padded(b"abc") + END

    assert read(tmp_path, with_global(b"14 comment=ok\n"))[0][1] == b"abc"
    assert "global PAX header" in refusal(tmp_path, with_global(b"10 path=x\n"))


def test_a_name_that_is_not_utf8_is_spelt_out(tmp_path: Path) -> None:
    block = bytearray(header("aaa.txt", 1))
    block[1] = 0xFF
    assert read(tmp_path, signed(bytes(block)) + padded(b"x") + END)[0][0] == "a\\xffa.txt"


def test_what_gnu_keeps_where_ustar_has_its_prefix_is_no_part_of_the_name(tmp_path: Path) -> None:
    block = header("a.txt", 3)
    times = signed(block[:345] + b"14000000000\0" * 2 + block[369:512])  # of `tar --incremental`
    assert read(tmp_path, times + padded(b"abc") + END)[0][0] == "a.txt"


ONE = header("a.txt", 3) + padded(b"abc")


@pytest.mark.parametrize(
    ("tar", "reason"),
    [
        (ONE, "no end marker"),
        (ONE + bytes(512), "half an end marker"),
        (ONE + END + b"x", "data after the end marker"),
        (ONE + END + ONE + END, "data after the end marker"),
        (ONE + bytes(512) + ONE + END, "half an end marker"),
        (ONE + b"x" * 512 + END, "corrupt header"),
        (header("a.txt", 3) + b"abc", "cut off inside member 'a.txt'"),
        (header("a.txt", 3), "cut off inside member 'a.txt'"),
        (ONE + header("L", 5, b"L") + padded(b"name\0") + END, "long name without its member"),
        (END, "holds no documents"),
        (bytes(10_240), "holds no documents"),
        (header("folder/", kind=b"5") + END, "holds no documents"),
        (header("folder/", 3, kind=b"5") + padded(b"abc") + END, "'folder/' is a folder that claims"),
        (ONE[:300], "no end marker"),
        (ONE[:200], "NUL bytes at its start"),
        (b"y" + ONE[1:] + END, "corrupt header"),
    ],
    ids=range(16),
)  # fmt: skip
def test_a_tar_that_is_not_whole_is_refused(tar: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refusal(tmp_path, tar)


def test_a_tar_without_magic_and_with_a_wrong_checksum_is_not_taken_for_text(tmp_path: Path) -> None:
    block = signed(ONE[:257] + bytes(8) + ONE[265:512])
    assert read(tmp_path, block + ONE[512:] + END)[0][1] == b"abc"  # the form of Version 7
    assert "NUL bytes" in refusal(tmp_path, b"b" + block[1:] + ONE[512:] + END)


@pytest.mark.parametrize("name", ["../x.txt", "/etc/passwd", "a/../../b", "..", "a/..", "."])
def test_a_name_that_points_outside_is_refused(name: str, tmp_path: Path) -> None:
    assert f"{name!r} points outside" in refusal(tmp_path, header(name, 3) + padded(b"abc") + END)


def test_a_long_or_pax_name_that_points_outside_is_refused(tmp_path: Path) -> None:
    long = header("L", 12, b"L") + padded(b"/etc/passwd\0") + ONE + END
    assert "'/etc/passwd' points outside" in refusal(tmp_path, long)
    record = b"16 path=../../x\n"
    assert "'../../x' points outside" in refusal(
        tmp_path, header("x", len(record), b"x") + padded(record) + ONE + END
    )
    assert "points outside" in refusal(
        tmp_path, header("x", 12, b"x") + padded(b"12 path=a\0b\n") + ONE + END
    )


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"7", b"S", b"K", b"D", b"M", b"V", b"?"])
def test_a_member_that_is_not_a_regular_file_is_refused_by_name(kind: bytes, tmp_path: Path) -> None:
    tar = header("odd.txt", 0, kind, linkname="/etc/passwd") + END
    assert "'odd.txt' is not a regular file" in refusal(tmp_path, ONE + tar)


@needs_tar
@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_sparse_file_of_gnu_tar_is_refused(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    with (folder / "sparse.txt").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    command = ["tar", "--sparse", f"--format={form}", "-C", str(folder), "-cf", "-", "sparse.txt"]
    tar = subprocess.run(command, check=True, capture_output=True).stdout
    assert "sparse" in refusal(tmp_path, tar)


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (b"99999999999\0", "no valid size"),
        (b"-0000000001\0", "no valid size"),
        (b"12 34\0\0\0\0\0\0\0", "no valid size"),
        (bytes(12), "no valid size"),
        (b"77777777777\0", "claims 8,589,934,591 bytes"),
        (b"\x80" + (2**60).to_bytes(11, "big"), "claims 1,152,921,504,606,846,976 bytes"),
        (b"\xff" * 12, "bytes; the limit is"),
        (b"%011o\0" % ((1 << 30) + 1), "claims 1,073,741,825 bytes; the limit is 1,073,741,824"),
        (b"%011o\0" % (1 << 30), "cut off inside member 'a.txt'"),
    ],
)
def test_an_absurd_size_is_refused_by_name(field: bytes, reason: str, tmp_path: Path) -> None:
    refused = refusal(tmp_path, signed(ONE[:124] + field[:12] + ONE[136:512]) + ONE[512:] + END)
    assert reason in refused
    assert "'a.txt'" in refused


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"x", "corrupt PAX"),
        (b"10 size=3", "corrupt PAX"),
        (b"99 size=3\n", "corrupt PAX"),
        (b"0 size=3\n", "corrupt PAX"),
        (b"5 size=3\n", "corrupt PAX"),
        (b"11 size=3\nx\n", "corrupt PAX"),
        (b"10 nothing\n", "corrupt PAX"),
        (b"5010 size=" + b"9" * 5000 + b"\n", "corrupt PAX"),
        (b"5011 size=" + b"9" * 5000 + b"\n", "no valid size"),
        (b"10 size=x\n", "no valid size"),
        (b"11 size=-1\n", "no valid size"),
        (b"20 size=99999999999\n", "claims 99,999,999,999"),
        (b"22 GNU.sparse.major=1\n", "sparse"),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_corrupt_pax_header_is_refused(record: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refusal(tmp_path, header("x", len(record), b"x") + padded(record) + ONE + END)


@pytest.mark.parametrize("kind", [b"L", b"x", b"g"])
def test_an_absurdly_long_header_is_refused_before_it_is_parsed(kind: bytes, tmp_path: Path) -> None:
    records = b"8 a=bcd\n" * 200_000
    assert "the limit is 1,048,576" in refusal(
        tmp_path, header("x", len(records), kind) + padded(records) + ONE + END
    )


def test_many_small_pax_records_take_no_quadratic_time(tmp_path: Path) -> None:
    records = b"8 a=bcd\n" * 131_072
    tar = header("x", len(records), b"x") + padded(records) + ONE + END
    assert read(tmp_path, tar)[0][1] == b"abc"


def test_a_folder_by_its_name_alone_is_passed_over(tmp_path: Path) -> None:
    for kind in (b"0", b"\0"):
        tar = header("a/", 0, kind) + ONE + END
        assert read(tmp_path, tar) == [("a.txt", b"abc")]


# --- exact reads from chunks ------------------------------------------------------------------------------------------


def chunked(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The data in chunks of these sizes over and over, empty ones among them."""
    start, number = 0, 0
    while start < len(data):
        size = sizes[number % len(sizes)]
        yield data[start : start + size]
        start, number = start + size, number + 1


CHUNKS = st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any)


@settings(deadline=None)  # other work on the machine must not fail it
@given(
    data=st.binary(max_size=60),
    sizes=CHUNKS,
    steps=st.lists(st.tuples(st.sampled_from(["peek", "take", "put back"]), st.integers(0, 20)), max_size=30),
)
def test_a_stream_is_read_as_if_it_were_one_piece(
    data: bytes, sizes: list[int], steps: list[tuple[str, int]]
) -> None:
    stream, judge, last = ByteStream(chunked(data, sizes)), io.BytesIO(data), b""
    for step, size in steps:
        before = judge.tell()
        if step == "put back":
            stream.put_back(last)
            judge.seek(before - len(last))
            last = b""
        elif step == "take":
            last = stream.take(size)
            assert last == judge.read(size)
        else:
            assert stream.peek(size) == judge.read(size)
            judge.seek(before)
        assert stream.taken == judge.tell()
    assert stream.take(100) == judge.read()


@settings(deadline=None)
@given(
    lines=st.lists(st.sampled_from([b"", b"a", b"\r", b"bcd", b"x" * 30]), max_size=12),
    sizes=CHUNKS,
    ends=st.booleans(),
    skipped=st.integers(0, 5),
)
def test_lines_of_a_stream_are_those_of_its_text(
    lines: list[bytes], sizes: list[int], ends: bool, skipped: int
) -> None:
    data = b"\n".join(lines) + b"\n" * ends
    stream, judge = ByteStream(chunked(data, sizes)), io.BytesIO(data)
    assert stream.take(skipped) == judge.read(skipped)
    expected = judge.readlines()
    assert list(stream.lines(limit=100)) == expected
    assert stream.taken == len(data)


def test_a_line_that_is_put_back_is_read_again_with_the_rest() -> None:
    stream = ByteStream(iter([b"on", b"e\ntw", b"o\nthree"]))
    lines = stream.lines(limit=100)
    first = next(lines)
    stream.put_back(first)
    assert stream.taken == 0
    assert stream.peek(5) == b"one\nt"
    assert list(stream.lines(limit=100)) == [b"one\n", b"two\n", b"three"]


def test_a_line_without_end_is_refused_before_all_of_it_is_in_memory() -> None:
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"x" * 1000

    with pytest.raises(Malformed, match=r"a line of more than 10,000 bytes"):
        next(ByteStream(endless()).lines(limit=10_000))
    assert asked < 15


def test_reading_many_small_members_takes_no_quadratic_time() -> None:
    """100,000 members out of one chunk: with a copy of the rest for each, it would be 10 TB to copy."""
    tar = (header("a.txt", 3) + padded(b"abc")) * 100_000 + END
    assert sum(1 for _ in tar_members(ByteStream(iter([tar])))) == 100_000


@pytest.mark.parametrize("form", FORMATS)
def test_members_do_not_depend_on_where_the_stream_is_cut_into_chunks(form: str) -> None:
    texts, rng = texts_for(form), random.Random(form)
    tar = python_tar(texts, form)
    for _ in range(30):
        sizes = [rng.choice([1, 7, 511, 512, 513, 4096, 100_000]) for _ in range(4)]
        assert list(tar_members(ByteStream(chunked(tar, sizes)))) == list(texts.items())
