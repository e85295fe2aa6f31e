"""Files are put together from ranges, block by block in any order; and what they are called by depends on bytes alone."""

import hashlib
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import blocks
from storage.blocks import Block, BlockwiseFile, FileFacts, FileRange, file_facts, range_sha256, write_block

BLOCK = 64


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(blocks, "_COPY_BYTES", 24)


def expected_facts(data: bytes) -> FileFacts:
    """By the definition: of one block its own sha256, of more the sha256 of theirs."""
    own = [hashlib.sha256(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    whole = hashlib.sha256(data if len(own) < 2 else b"".join(each.digest() for each in own))
    return FileFacts(
        bytes=len(data), sha256=whole.hexdigest(), block_sha256=[each.hexdigest() for each in own]
    )


def cut(target: Path, pieces: Sequence[FileRange]) -> list[Block]:
    file = BlockwiseFile(target)
    found = [block for piece in pieces for block in file.append(piece)]
    assert file.bytes == sum(piece.bytes for piece in pieces)
    return [*found, *file.finish()]


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 129, 1000])
def test_facts_are_those_of_each_block_and_of_all(size: int, tmp_path: Path) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "a").write_bytes(data)
    assert file_facts(tmp_path / "a") == expected_facts(data)
    if size <= BLOCK:
        assert file_facts(tmp_path / "a").sha256 == hashlib.sha256(data).hexdigest()


@settings(deadline=None)  # other work on the machine must not fail it
@given(st.lists(st.integers(0, 150), max_size=8), st.integers())
def test_a_file_is_its_pieces_whatever_their_sizes_and_the_order_of_writing(
    sizes: list[int], seed: int
) -> None:
    order = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(blocks, "BLOCK_BYTES", BLOCK)
        patch.setattr(blocks, "_COPY_BYTES", 24)
        source, target = Path(folder, "source"), Path(folder, "target")
        data = order.randbytes(1000)
        source.write_bytes(data)
        starts = [order.randrange(1000 - size) for size in sizes]
        pairs = list(zip(starts, sizes, strict=True))
        expected = b"".join(data[start : start + size] for start, size in pairs)
        found = cut(target, [FileRange(path=source, start=start, bytes=size) for start, size in pairs])
        again = order.sample(found, len(found)) + found[:1]  # one more time does no harm
        sha256 = {block.number: write_block(block) for block in again}
        assert target.read_bytes() == expected
        facts = FileFacts.of(len(expected), [sha256[number] for number in sorted(sha256)])
        assert facts == expected_facts(expected) == file_facts(target)


def test_bytes_that_are_in_their_place_are_hashed_and_left_alone(tmp_path: Path) -> None:
    data, target = random.Random(1).randbytes(300), tmp_path / "target"
    (tmp_path / "beside").write_bytes(data[100:170])
    pieces = [
        FileRange(path=target, start=0, bytes=100),
        FileRange(path=tmp_path / "beside", start=0, bytes=70),
        FileRange(path=target, start=170, bytes=130),
    ]
    found = cut(target, pieces)
    target.write_bytes(data[:100] + bytes(70) + data[170:])
    assert FileFacts.of(300, [write_block(block) for block in found]) == expected_facts(data)
    assert target.read_bytes() == data


def test_a_piece_that_is_gone_or_shorter_than_it_was_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(100))
    (block,) = cut(tmp_path / "target", [FileRange(path=source, start=90, bytes=20)])
    with pytest.raises(OSError, match=r"is shorter than it was; 10 bytes are missing: .*source"):
        write_block(block)
    source.unlink()
    with pytest.raises(FileNotFoundError, match="source"):
        write_block(block)


def test_the_sha256_of_a_range_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(200)
    (tmp_path / "a").write_bytes(data)
    for start, size in ((0, 0), (0, 200), (7, 100), (199, 1)):
        expected = hashlib.sha256(data[start : start + size]).hexdigest()
        assert range_sha256(FileRange(path=tmp_path / "a", start=start, bytes=size)) == expected


def test_a_read_error_names_the_file() -> None:
    path = Path("/proc/self/mem")
    if not path.exists():
        pytest.skip("no /proc on this machine")
    with pytest.raises(OSError, match=r"/proc/self/mem"):
        range_sha256(FileRange(path=path, start=0, bytes=10))
