"""Compressed files come out whole or are refused: cut, damaged, followed by something else, unchecked, or a bomb."""

import gzip
import io
import lzma
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import shards
from storage.errors import Malformed
from storage.shards import compression_of, expanded

CONTENT = " ".join(random.Random(5).choices(["brick", "road", "Öz", "home"], k=400)).encode()


def xz(content: bytes) -> bytes:
    return lzma.compress(content)


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "xz": xz,
    "xz with CRC32": lambda content: lzma.compress(content, check=lzma.CHECK_CRC32),
    "xz with SHA256": lambda content: lzma.compress(content, check=lzma.CHECK_SHA256),
    "zstd": zstd,
    "gzip": gz,
}
NAMES = {"xz": xz, "zstd": zstd, "gzip": gz}

every_kind = pytest.mark.parametrize("compress", KINDS.values(), ids=list(KINDS))
every_name = pytest.mark.parametrize(("name", "compress"), NAMES.items(), ids=list(NAMES))


@pytest.fixture(params=["lzma_mt", "lzma"], autouse=True)
def decoder_of_xz(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test with the fast decoder, and with Python's own, which stands in for it where there is no wheel."""
    if request.param == "lzma":
        monkeypatch.setattr(shards, "LZMADecompressor", lzma.LZMADecompressor)
    else:
        pytest.importorskip("lzma_mt")


def expand(data: bytes) -> bytes:
    return b"".join(expanded(io.BytesIO(data), len(data)))


def refusal(data: bytes) -> str:
    with pytest.raises(Malformed) as refused:
        expand(data)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def refused_or_the_same(data: bytes) -> bool:
    """Whether it is refused; if not, then nothing of the content has changed."""
    try:
        content = expand(data)
    except Malformed:
        return True
    assert content == CONTENT
    return False


# --- whole ------------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("size", [0, 1, 5000, 9_000_000])
def test_what_was_compressed_comes_out(compress: Callable[[bytes], bytes], size: int) -> None:
    content = (CONTENT * (size // len(CONTENT) + 1))[:size]
    assert expand(compress(content)) == content


@pytest.mark.parametrize("content", [b"", b"D", b"Dorothy lived in Kansas.", bytes(3_000_000)])
def test_what_is_not_compressed_comes_out_as_it_is(content: bytes) -> None:
    assert expand(content) == content


def test_a_compression_is_told_by_the_first_bytes() -> None:
    assert {name: compression_of(compress(b"")) for name, compress in NAMES.items()} == {
        name: name for name in NAMES
    }
    assert [compression_of(head) for head in (b"", b"\xfd7zX", b"\x1f", b"text", bytes(512))] == [None] * 5
    assert compression_of(lzma.compress(b"", format=lzma.FORMAT_ALONE)) is None


@every_kind
def test_streams_one_after_another_are_one_content_wherever_a_read_ends(
    compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read may end anywhere in the first bytes of the next stream; a real file has them at any place."""
    pieces = [CONTENT[:7], b"", CONTENT[7:30], CONTENT[30:]]
    whole = b"".join(map(compress, pieces))
    assert expand(whole) == CONTENT
    for piece_bytes in (1, 5, 4096):
        monkeypatch.setattr(shards, "_ZSTD_PIECE_BYTES", piece_bytes)
        for read_bytes in range(6, 90):
            monkeypatch.setattr(shards, "_READ_BYTES", read_bytes)
            assert expand(whole) == CONTENT, (piece_bytes, read_bytes)


@settings(deadline=None, max_examples=40)  # other work on the machine must not fail it
@given(
    name=st.sampled_from(list(NAMES)),
    pieces=st.lists(st.binary(max_size=200), min_size=1, max_size=4),
    piece_bytes=st.integers(1, 64),
)
def test_any_content_comes_out_of_any_streams(name: str, pieces: list[bytes], piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_ZSTD_PIECE_BYTES", piece_bytes)
        patch.setattr(shards, "_XZ_CHUNK_BYTES", piece_bytes)
        assert expand(b"".join(map(NAMES[name], pieces))) == b"".join(pieces)


@pytest.mark.parametrize("padding", [0, 4, 8, 4096, 3_000_000])
def test_xz_streams_with_legal_padding_are_one_content(padding: int) -> None:
    streams = lzma.compress(CONTENT[:500]) + bytes(padding)
    streams += lzma.compress(CONTENT[500:], check=lzma.CHECK_SHA256) + bytes(padding)
    assert expand(streams) == CONTENT


# --- cut, damaged, followed by something ------------------------------------------------------------------------------


@every_kind
def test_a_file_cut_anywhere_is_refused(compress: Callable[[bytes], bytes]) -> None:
    whole = compress(CONTENT)
    assert expand(whole) == CONTENT
    for kept in range(6, len(whole)):  # of fewer bytes, the name alone can say what they were to be
        assert "cut off" in refusal(whole[:kept]), kept


@every_kind
def test_a_file_cut_in_its_last_stream_is_refused(compress: Callable[[bytes], bytes]) -> None:
    first, last = compress(CONTENT), compress(CONTENT[:100])
    for missing in range(1, len(last)):
        refusal((first + last)[:-missing])


@pytest.mark.parametrize("check", [lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256])
def test_an_xz_file_with_any_byte_flipped_is_refused(check: int) -> None:
    whole, rng = lzma.compress(CONTENT, check=check), random.Random(check)
    for position in range(6, len(whole)):  # without its magic it is no xz, which is for the name to say
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.randrange(8)
        refusal(bytes(flipped))


@pytest.mark.parametrize(("compress", "magic_bytes"), [(zstd, 4), (gz, 2)], ids=["zstd", "gzip"])
def test_a_zstd_or_gzip_file_with_any_bit_flipped_is_refused_or_has_the_same_content(
    compress: Callable[[bytes], bytes], magic_bytes: int
) -> None:
    """Both have bits that mean nothing, as a date, a window's size, or a code that does not occur."""
    whole = compress(CONTENT)
    places = range(8 * magic_bytes, 8 * len(whole))
    refused = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        refused += refused_or_the_same(bytes(flipped))
    assert refused > 0.9 * len(places)


@every_kind
def test_any_byte_lost_or_doubled_is_noticed(compress: Callable[[bytes], bytes]) -> None:
    whole = compress(CONTENT)
    for position in range(6, len(whole) - 1):
        lost = whole[:position] + whole[position + 1 :]
        doubled = whole[:position] + whole[position : position + 1] + whole[position:]
        for broken in (lost, doubled):
            assert broken == whole or refused_or_the_same(broken), position


@every_name
@pytest.mark.parametrize(
    "garbage",
    [b"x", b"\0", b"\0\0\0", b"\0" * 5, b"\0" * 8 + b"x", b"\xfd7zXZ", b"\xfd7zXZ\0", b"\x28\xb5\x2f",
     b"\x28\xb5\x2f\xfd", b"\x1f", b"\x1f\x8b", b"junk" * 99, b"x" * 2_000_000],
    ids=range(13),
)  # fmt: skip
def test_garbage_after_the_end_is_refused(
    garbage: bytes, name: str, compress: Callable[[bytes], bytes]
) -> None:
    refusal(compress(CONTENT) + garbage)


@pytest.mark.parametrize("name", ["zstd", "gzip"])
@pytest.mark.parametrize("zeros", [1, 4, 512, 2_000_000])
def test_zeros_after_the_end_are_no_padding_but_of_xz(name: str, zeros: int) -> None:
    assert f"bytes after the end of its {name} stream" in refusal(NAMES[name](CONTENT) + bytes(zeros))


@pytest.mark.parametrize("padding", [1, 2, 3, 5, 4097])
def test_xz_padding_that_is_not_of_fours_is_refused(padding: int) -> None:
    reason = "bytes after the end of its xz stream"
    assert reason in refusal(lzma.compress(CONTENT[:600]) + bytes(padding) + lzma.compress(CONTENT[600:]))
    assert reason in refusal(lzma.compress(CONTENT) + bytes(padding))


def test_a_stream_of_another_kind_after_the_end_is_refused() -> None:
    for name, compress in NAMES.items():
        for other in set(NAMES) - {name}:
            assert f"after the end of its {name} stream" in refusal(compress(CONTENT) + NAMES[other](CONTENT))


def test_xz_without_an_integrity_check_is_refused_with_the_way_out() -> None:
    assert "xz --check=crc64" in refusal(lzma.compress(CONTENT, check=lzma.CHECK_NONE))


def test_an_integrity_check_that_liblzma_passes_over_is_refused() -> None:
    """Check 2 is reserved, of 4 bytes as CRC32: liblzma decodes such a file and verifies nothing."""
    data = bytearray(lzma.compress(CONTENT, check=lzma.CHECK_CRC32))
    data[7] = data[-3] = 2
    data[8:12] = zlib.crc32(data[6:8]).to_bytes(4, "little")
    data[-12:-8] = zlib.crc32(data[-8:-2]).to_bytes(4, "little")
    assert lzma.LZMADecompressor().decompress(data) == CONTENT
    assert "no integrity check that is known" in refusal(bytes(data))


# --- bombs ------------------------------------------------------------------------------------------------------------


@every_name
def test_a_decompression_bomb_is_stopped(
    name: str, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_GRACE_BYTES", 1000)
    monkeypatch.setattr(shards, "MAX_EXPANSION", 100)
    assert "more than 100 times its size: a decompression bomb" in refusal(compress(bytes(600_000)))
    assert "decompression bomb" in refusal(compress(bytes(60_000)) * 10)  # no stream alone would be one


@every_name
def test_what_expands_within_reason_is_no_bomb(name: str, compress: Callable[[bytes], bytes]) -> None:
    line = b"All work and no play makes Jack a dull boy.\n" * 400_000
    assert expand(compress(line)) == line


def test_an_absurd_dictionary_of_xz_is_not_allocated() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    data = bytearray(lzma.compress(CONTENT, filters=filters))
    data[16] = 40  # a dictionary of 4 GiB, as the block's header says it
    size = (data[12] + 1) * 4
    data[12 + size - 4 : 12 + size] = zlib.crc32(data[12 : 12 + size - 4]).to_bytes(4, "little")
    assert "memory" in refusal(bytes(data))


@pytest.mark.parametrize(("window_log", "is_refused"), [(20, False), (27, False), (28, True), (41, True)])
def test_an_absurd_window_of_zstd_is_not_allocated(window_log: int, is_refused: bool) -> None:
    """`zstd --ultra -22` has one of 128 MiB, 2^27; `--long=31` would want 2 GiB of whoever reads it."""
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    data = bytearray(compressor.compress(CONTENT) + compressor.flush())
    assert not data[4] & 0x20  # no single segment: a window descriptor follows
    data[5] = (window_log - 10) << 3
    if is_refused:
        assert "memory" in refusal(bytes(data))
    else:
        assert expand(bytes(data)) == CONTENT


@pytest.mark.parametrize("bomb", ["zstd", "gzip"])
def test_a_bomb_takes_little_memory(bomb: str, tmp_path: Path) -> None:
    """Of 4 GiB, and of 1 GiB that is just within reason: what comes out at a time stays small."""
    program = """
import resource, sys
from storage.shards import expanded
from storage.errors import Malformed
path = sys.argv[1]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(path, "rb") as file:
    size = file.seek(0, 2)
    file.seek(0)
    try:
        for chunk in expanded(file, size):
            pass
    except Malformed as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    if bomb == "zstd":
        compressor = zstandard.ZstdCompressor().compressobj()
        data = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(256)) + compressor.flush()
    else:
        data = gzip.compress(bytes(1 << 26), 1) * 16
    (tmp_path / "bomb").write_bytes(data)
    command = [sys.executable, "-c", program, str(tmp_path / "bomb")]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    *said, grown_mib = ran.stdout.splitlines()
    assert ["decompression bomb" in line for line in said] == ([True] if bomb == "zstd" else [])
    assert int(grown_mib) < 300
