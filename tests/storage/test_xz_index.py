"""The index of an xz file tells what it expands to, in every legal form of the file, and never of a cut one."""

import gzip
import lzma
import random
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import ShardError
from storage.shards import Shard, find_shards, uncompressed_bytes

CONTENT = random.Random(3).randbytes(20_000) + b"brick " * 20_000
XZ = lzma.compress(CONTENT, preset=0)
EMPTY = lzma.compress(b"")


def size_of(path: Path, content: bytes) -> int:
    path.write_bytes(content)
    return uncompressed_bytes(find_shards(str(path))[0])


needs_xz = pytest.mark.skipif(shutil.which("xz") is None, reason="no xz on this machine")


@needs_xz
@pytest.mark.parametrize(
    ("content", "size"),
    [
        (XZ, len(CONTENT)),
        (EMPTY, 0),
        (XZ + XZ, 2 * len(CONTENT)),
        (XZ + bytes(8), len(CONTENT)),
        (EMPTY + bytes(4) + XZ + bytes(400) + EMPTY + bytes(12), len(CONTENT)),
        (lzma.compress(CONTENT, check=lzma.CHECK_SHA256), len(CONTENT)),
    ],
    ids=["one", "empty", "two", "padded", "mixed", "sha256"],
)
def test_the_size_is_that_of_the_content(content: bytes, size: int, tmp_path: Path) -> None:
    assert size_of(tmp_path / "a.xz", content) == size
    expanded = subprocess.run(["xz", "-dc", str(tmp_path / "a.xz")], check=True, capture_output=True).stdout
    assert len(expanded) == size


@needs_xz
def test_a_file_of_many_blocks_is_summed(tmp_path: Path) -> None:
    command = ["xz", "-0", "-c", "--block-size=1000"]
    content = subprocess.run(command, input=CONTENT, check=True, capture_output=True).stdout
    assert size_of(tmp_path / "a.xz", content + bytes(4) + content) == 2 * len(CONTENT)


def test_real_shards_have_the_size_that_their_index_says(real_data: Path) -> None:
    for shard in find_shards(str(real_data / "owt-small"))[-2:]:
        assert uncompressed_bytes(shard) == len(lzma.decompress(Path(shard.location).read_bytes()))


def test_what_is_not_xz_is_as_long_as_it_is(tmp_path: Path) -> None:
    assert size_of(tmp_path / "a.txt", b"Dorothy") == 7
    assert size_of(tmp_path / "a.jsonl.gz", gzip.compress(b"Dorothy")) == len(gzip.compress(b"Dorothy"))


def test_xz_under_any_name_and_in_memory_is_as_long_as_its_index_says(tmp_path: Path) -> None:
    assert size_of(tmp_path / "a.txt", XZ) == len(CONTENT)
    inner = Shard(
        location=str(tmp_path / "a.tar"),
        name="a.tar/b.xz",
        compressed_bytes=len(XZ),
        content=XZ,
        member="b.xz",
    )
    assert uncompressed_bytes(inner) == len(CONTENT)
    with pytest.raises(ShardError, match=r"a\.tar: b\.xz: is cut off"):
        uncompressed_bytes(replace(inner, content=XZ[:-1], compressed_bytes=len(XZ) - 1))


def refused(path: Path, content: bytes) -> str:
    with pytest.raises(ShardError) as error:
        size_of(path, content)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return error.value.reason


def test_a_cut_file_is_refused_whatever_is_missing(tmp_path: Path) -> None:
    for missing in [*range(1, 65), *range(65, len(XZ), 997)]:
        refused(tmp_path / "a.xz", XZ[:-missing])
    for begin, end in [(100, 101), (100, 104), (12, 2000), (12, len(XZ) - 40)]:  # out of the middle
        refused(tmp_path / "a.xz", XZ[:begin] + XZ[end:])


def test_any_byte_flipped_in_index_or_footer_is_noticed(tmp_path: Path) -> None:
    index_bytes = (int.from_bytes(XZ[-8:-4], "little") + 1) * 4
    for place in range(1, 12 + index_bytes + 1):
        flipped = bytearray(XZ)
        flipped[-place] ^= 1 << place % 8
        refused(tmp_path / "a.xz", bytes(flipped))


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\xfd7zXZ\0", b"\xfd7zXZ\0" + bytes(100), XZ + b"\0", XZ + b"\0" * 6, XZ + b"junk"],
)
def test_what_does_not_end_as_xz_does_is_refused(content: bytes, tmp_path: Path) -> None:
    refused(tmp_path / "a.xz", content)


@pytest.mark.parametrize(
    "records", [b"\xff" * 40, b"\x01" + b"\x80" * 30, b"\x05\x01", b"\xff" * 8 + b"\x7f"]
)
def test_an_index_of_absurd_numbers_is_refused(records: bytes, tmp_path: Path) -> None:
    index = b"\0" + records + bytes(-(1 + len(records)) % 4)
    index += zlib.crc32(index).to_bytes(4, "little")
    fields = (len(index) // 4 - 1).to_bytes(4, "little") + b"\0\x04"
    footer = zlib.crc32(fields).to_bytes(4, "little") + fields + b"YZ"
    assert "index" in refused(tmp_path / "a.xz", EMPTY[:12] + index + footer)
