"""Stored text to tokens: written part by part or block by block, in any order of work, it is the same bytes."""

import hashlib
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import blocks
from storage.blocks import FileRange
from storage.datasets import Dataset
from storage.documents.parts import DocumentPart, read_part
from storage.tokens import SPLITS, TokenPart, TokenPlaces
from storage.workspace import Workspace
from tasks import encode
from tasks.characters import SplitCounts
from tasks.dataset import count_parts, groups_of
from tasks.encode import (
    BlocksToEncode,
    Encoding,
    PlacedPart,
    blocks_to_encode,
    can_be_placed,
    count_blocks,
    encode_blocks,
    encode_parts,
    parts_to_encode,
)
from tasks.tokenizers import TokenizerFile, gpt2_json
from tasks.workers import Workers

FRACTION = 0.1
RESIDENT_BYTES = 1 << 30


@pytest.fixture
def parts(dataset: Dataset, workspace: Workspace) -> list[DocumentPart]:
    """The stored text of a small corpus, a part a shard."""
    found = [
        read_part(workspace.documents / f"{source.stored_as}.parquet") for source in dataset.manifest.sources
    ]
    assert all(found)
    return [part for part in found if part]


@pytest.fixture
def counts(parts: list[DocumentPart]) -> SplitCounts:
    with Workers(1) as workers:
        return count_parts(parts, FRACTION, workers)


@pytest.fixture
def encoding(dataset: Dataset, tmp_path: Path) -> Encoding:
    tokenizer = TokenizerFile.write(dataset.tokenizer_json(), tmp_path / "tokenizer")
    return Encoding(tokenizer=tokenizer, folder=tmp_path / "tokens", val_fraction=FRACTION)


def set_block_bytes(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    monkeypatch.setattr(encode, "BLOCK_BYTES", size)


def content_of(place: FileRange) -> bytes:
    return place.path.read_bytes()[place.start : place.end]


def facts_of(part: TokenPart) -> tuple[Any, ...]:
    return part.train, part.val, part.rows.read().to_pylist()


@pytest.mark.parametrize("block_bytes", [1_000, 9_999, 14_001, 40_000, 64_000, 1 << 20])
def test_block_by_block_in_any_order_is_part_by_part(
    block_bytes: int,
    parts: list[DocumentPart],
    counts: SplitCounts,
    encoding: Encoding,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_part = encode_parts(parts_to_encode(parts, []), encoding, RESIDENT_BYTES)
    expected = {split: b"".join(content_of(part.tokens(split)) for part in by_part) for split in SPLITS}
    facts = [facts_of(part) for part in by_part]

    set_block_bytes(monkeypatch, block_bytes)
    assert can_be_placed(counts, encoding.tokenizer)
    files = {split: tmp_path / f"{split}.bin" for split in SPLITS}
    for path in files.values():
        path.touch()
    count = count_blocks(counts, encoding.tokenizer)
    assert count == -(-len(expected["train"]) // block_bytes)
    planned = list(blocks_to_encode(parts, count, encoding, files))
    shuffled = random.Random(block_bytes).sample(planned, len(planned))
    found = [
        block
        for piece in [*shuffled, shuffled[0]]
        for block in encode_blocks(piece, encoding, RESIDENT_BYTES)
    ]
    encoded = {block.number: block for block in found}
    for split in SPLITS:
        assert files[split].read_bytes() == expected[split]
    for number in range(count):
        own = expected["train"][number * block_bytes :][:block_bytes]
        assert encoded[number].sha256 == hashlib.sha256(own).hexdigest()
    assert [facts_of(part) for number in range(count) for part in encoded[number].parts] == facts


@given(
    st.lists(st.one_of(st.just(0), st.just(100), st.integers(0, 30), st.integers(0, 400)), min_size=1).filter(
        any
    )
)
def test_every_part_belongs_to_one_piece_and_every_piece_has_all_that_reaches_into_it(
    sizes: list[int],
) -> None:
    ends = list(itertools.accumulate(sizes))
    places = [
        FileRange(path=Path("train"), start=end - size, bytes=size)
        for end, size in zip(ends, sizes, strict=True)
    ]
    placed = [
        PlacedPart(number=number, part=None, places=TokenPlaces(train=place, val=place))  # type: ignore[arg-type]
        for number, place in enumerate(places)
    ]
    blocks_in_all = -(-ends[-1] // 100)
    with pytest.MonkeyPatch.context() as patch:
        set_block_bytes(patch, 100)
        patch.setattr(encode, "_placed", lambda *_: iter(placed))
        files = {split: Path(split) for split in SPLITS}
        planned: list[BlocksToEncode] = list(blocks_to_encode([], blocks_in_all, None, files))  # type: ignore[arg-type]
    assert [part for piece in planned for part in piece.parts] == placed
    assert [number for piece in planned for number in piece.numbers] == list(range(blocks_in_all))
    for piece in planned:
        here = [piece.before, *piece.parts] if piece.before else piece.parts
        start, end = piece.numbers.start * 100, piece.numbers.stop * 100
        reaching = [
            part
            for part in placed
            if part.places.train.bytes and part.places.train.start < end and part.places.train.end > start
        ]
        assert [part for part in here if part.places.train.bytes] == reaching
        assert not piece.before or piece.before.places.train.bytes <= 25, "no long part is encoded twice"
    for workers in (1, 3):
        groups = list(groups_of(planned, blocks_in_all, workers, lambda piece: len(piece.numbers)))
        assert [piece for group in groups for piece in group] == planned
        assert all(groups)


def test_tokens_have_no_places_where_their_number_is_not_known(
    parts: list[DocumentPart], counts: SplitCounts, encoding: Encoding, tmp_path: Path
) -> None:
    assert can_be_placed(counts, encoding.tokenizer)
    assert not can_be_placed(counts, TokenizerFile.write(gpt2_json(), tmp_path))
    with Workers(1) as workers:
        counted_again = count_parts(parts, 0.2, workers)
    assert not can_be_placed(counted_again, encoding.tokenizer), "their split was another one"
