"""Token files: raw little-endian unsigned integers, no header, each document followed by the end-of-text id.

They are written part by part, so that parts can be encoded side by side, and joined in corpus order by `blocks`; a document's
split is decided by a hash of its content, so that no other document and no order can move it.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from storage.blocks import BlockSink, FileRange
from storage.documents.parts import StoredBatch
from storage.documents.rows import RowRange, RowsWriter, Split, write_rows
from storage.errors import DatasetError
from storage.files import named_errors, replaced_file, write_pieces

TokenArray = npt.NDArray[np.unsignedinteger]
TokenDtype = Literal["uint16", "uint32"]

SPLITS: tuple[Split, ...] = ("train", "val")
SPLIT_RULE = (
    "val if the first 8 bytes of sha256(text), big-endian, divided by 2^64 < val_fraction, else train"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFacts:
    """Sizes of one split. `text_bytes` counts the UTF-8 of its documents, `tokens` counts end-of-text ids too."""

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0

    def __add__(self, other: "SplitFacts") -> "SplitFacts":
        return SplitFacts(
            documents=self.documents + other.documents,
            tokens=self.tokens + other.tokens,
            text_bytes=self.text_bytes + other.text_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPart:
    """The tokens of one stored shard and the rows of its documents, waiting to be joined.

    The tokens lie in files for some parts, or where they belong, or are ranges of an earlier data set. Files that are
    `is_transient` are removed when all parts in them have been joined, of which one `is_last`.
    """

    train: SplitFacts
    val: SplitFacts
    train_tokens: FileRange
    val_tokens: FileRange
    rows: RowRange
    is_transient: bool
    is_last: bool = True

    def facts(self, split: Split) -> SplitFacts:
        """Sizes of a split."""
        return self.train if split == "train" else self.val

    def tokens(self, split: Split) -> FileRange:
        """Where the tokens of a split lie."""
        return self.train_tokens if split == "train" else self.val_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBatch:
    """Documents of a shard as token ids: `ids`, in their order, with an end-of-text after each document.

    `is_val` and `token_counts` (end-of-text counted) have one value a document, in the order of `stored`.
    """

    stored: StoredBatch
    is_val: npt.NDArray[np.bool_]
    token_counts: npt.NDArray[np.int64]
    ids: TokenArray

    def runs(self) -> Iterator[tuple[Split, TokenArray]]:
        """The ids of neighbouring documents of one split, and which split that is."""
        if not len(self.is_val):
            return
        first_of_run = np.flatnonzero(np.diff(self.is_val)) + 1
        starts = (np.cumsum(self.token_counts) - self.token_counts)[first_of_run]
        for ids, is_val in zip(np.split(self.ids, starts), self.is_val[[0, *first_of_run]], strict=True):
            yield "val" if is_val else "train", ids


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """A file of token ids, to be read without loading it."""

    path: Path
    dtype: TokenDtype | Literal["uint8"]  # of a mask
    tokens: int

    @property
    def itemsize(self) -> int:
        """Bytes an id."""
        return np.dtype(self.dtype).itemsize

    def open(self) -> TokenArray:
        """The ids as a read-only memory map, shape (tokens,). Raises DatasetError if the size is not as recorded."""
        dtype = np.dtype(self.dtype).newbyteorder("<")
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            raise DatasetError(f"{self.path}: the token file is missing; build the data set again") from None
        if size != self.tokens * dtype.itemsize:
            raise DatasetError(
                f"{self.path}: has {size:,} bytes where {self.tokens * dtype.itemsize:,} are recorded; build again"
            )
        return np.memmap(self.path, dtype=dtype, mode="r", shape=(self.tokens,))


def token_dtype(vocabulary_size: int) -> TokenDtype:
    """uint16 while the vocabulary fits 65,536, else uint32."""
    return "uint16" if vocabulary_size <= 65_536 else "uint32"


def split_of(sha256: bytes, val_fraction: float) -> Split:
    """The split of a document with this content hash (SPLIT_RULE). Adding documents never moves another."""
    return "val" if are_val([sha256], val_fraction)[0] else "train"


def are_val(sha256: Sequence[bytes] | npt.NDArray[np.uint8], val_fraction: float) -> npt.NDArray[np.bool_]:
    """Which of the documents with these content hashes, [documents, 32], are in the val split (SPLIT_RULE)."""
    joined = sha256 if isinstance(sha256, np.ndarray) else b"".join(sha256)
    hashes = np.frombuffer(joined, ">u8")[::4]  # of 32 bytes the first 8
    limit = math.ceil(val_fraction * 2.0**64)
    return hashes < np.uint64(limit) if limit < 1 << 64 else np.ones(len(sha256), np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlaces:
    """Where the tokens of a part belong in the token files of a data set, if their number is known before they are."""

    train: FileRange
    val: FileRange


def write_token_parts(
    path: Path, parts: Iterable[Iterable[EncodedBatch]], dtype: TokenDtype
) -> list[TokenPart]:
    """Writes the encoded documents of some parts, in their order: tokens to <path>.train and <path>.val, and <path>.rows.

    They are not flushed to the disk and have no record: they are to be joined in a moment, and a later build makes its own.
    """
    files = {split: path.with_name(f"{path.name}.{split}") for split in SPLITS}
    size, written = np.dtype(dtype).itemsize, list[TokenPart]()
    ends: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_errors(path), write_rows(_rows_path(path)) as rows, contextlib.ExitStack() as stack:
        replaced = {split: stack.enter_context(replaced_file(files[split])) for split in SPLITS}
        targets = {split: stack.enter_context(replaced[split].open("wb")) for split in SPLITS}

        def write(split: Split, ids: memoryview, place: int) -> None:
            write_pieces(targets[split], ids)

        for batches in parts:
            facts, own_rows = _write_part(rows, batches, dtype, write)
            ranges: dict[Split, FileRange] = {}
            for split in SPLITS:
                length = facts[split].tokens * size
                ranges[split] = FileRange(path=files[split], start=ends[split], bytes=length)
                ends[split] += length
            written.append(_transient(facts, ranges, own_rows))
    return _with_a_last(written)


def write_placed_parts(
    path: Path,
    parts: Iterable[tuple[Iterable[EncodedBatch], TokenPlaces]],
    dtype: TokenDtype,
    block: BlockSink,
) -> list[TokenPart]:
    """Writes the encoded documents of some parts to their places: of the train split what lies in the block, and all of val;
    and <path>.rows.

    Raises DatasetError if the tokens do not fill their places.
    """
    size, written = np.dtype(dtype).itemsize, list[TokenPart]()
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_errors(path), write_rows(_rows_path(path)) as rows:
        for batches, places in parts:
            with places.val.path.open("r+b") as val:
                val.seek(places.val.start)

                def write(split: Split, ids: memoryview, place: int, start: int = places.train.start) -> None:
                    if split == "train":
                        block.write(ids, start + place)
                    else:
                        write_pieces(val, ids)

                facts, own_rows = _write_part(rows, batches, dtype, write)
            ranges: dict[Split, FileRange] = {"train": places.train, "val": places.val}
            if any(facts[split].tokens * size != ranges[split].bytes for split in SPLITS):
                raise DatasetError(
                    f"{path}: has other tokens than its characters were counted to be; delete the folder documents and build again"
                )
            written.append(_transient(facts, ranges, own_rows))
    return _with_a_last(written)


def _rows_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.rows")


def _transient(facts: dict[Split, SplitFacts], ranges: dict[Split, FileRange], rows: RowRange) -> TokenPart:
    """A part of which others may follow in the same files."""
    return TokenPart(
        **facts,
        train_tokens=ranges["train"],
        val_tokens=ranges["val"],
        rows=rows,
        is_transient=True,
        is_last=False,
    )


def _with_a_last(parts: list[TokenPart]) -> list[TokenPart]:
    return [*parts[:-1], *(replace(part, is_last=True) for part in parts[-1:])]


def write_end_of_placed_part(
    batches: Iterable[EncodedBatch], dtype: TokenDtype, places: TokenPlaces, block: BlockSink
) -> None:
    """Writes what lies in the block of a part that begins before it, and is written there by whom its beginning belongs to."""
    place = places.train.start
    for batch in batches:
        for split, ids in batch.runs():
            if split == "train":
                stored = _stored(ids, dtype)
                block.write(stored, place)
                place += len(stored)


def _write_part(
    rows: RowsWriter,
    batches: Iterable[EncodedBatch],
    dtype: TokenDtype,
    write: Callable[[Split, memoryview, int], None],
) -> tuple[dict[Split, SplitFacts], RowRange]:
    """Gives the ids of a part to `write(split, bytes, place)`, each place counted from the part's beginning; and its rows."""
    facts: dict[Split, SplitFacts] = {split: SplitFacts() for split in SPLITS}
    size, first_row = np.dtype(dtype).itemsize, rows.count
    for batch in batches:
        text_bytes = batch.stored.joined()[1]
        rows.write(batch.stored, batch.is_val, text_bytes, batch.token_counts)
        for split, ids in batch.runs():
            write(split, _stored(ids, dtype), facts[split].tokens * size)
            facts[split] += SplitFacts(tokens=len(ids))
        for split in SPLITS:
            mask = batch.is_val == (split == "val")
            facts[split] += SplitFacts(documents=int(mask.sum()), text_bytes=int(text_bytes[mask].sum()))
    return facts, RowRange(path=rows.path, start=first_row, count=rows.count - first_row)


def _stored(ids: TokenArray, dtype: TokenDtype) -> memoryview:
    """The ids in the bytes that a token file has."""
    stored = np.dtype(dtype).newbyteorder("<")
    assert ids.dtype.itemsize <= stored.itemsize or not len(ids) or int(ids.max()) <= np.iinfo(stored).max, (
        "an id above the vocabulary"
    )
    return np.ascontiguousarray(ids, stored).view(np.uint8).data
