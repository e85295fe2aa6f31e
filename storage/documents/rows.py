"""What is known of each document of a data set but its text: rows of parts while they are encoded, then `documents.parquet`."""

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage.documents.arrays import (
    abandon,
    flag_array,
    flags_of,
    name_array,
    number_array,
    numbers_of,
    numbers_of_one,
)
from storage.documents.parts import StoredBatch
from storage.files import replaced_file

Split = Literal["train", "val"]

# Of documents.parquet, by which its rows are found; so many are in memory several times.
_ROWS_A_GROUP = 16_384
_READ_ROWS = 1024  # at a time, where few are wanted

#: One row a document of a finished data set, in corpus order: where it came from and which tokens are its own.
DOCUMENTS_SCHEMA = pa.schema(
    [
        pa.field("split", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("shard", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("text_bytes", pa.int64(), nullable=False),
        pa.field("token_start", pa.int64(), nullable=False),
        pa.field("token_count", pa.int64(), nullable=False),
    ]
)


class RowsWriter:
    """The rows of the documents of some parts: what `documents.parquet` will say of them, but for their place in the data set.

    `count` were written so far, and will be at `path`.
    """

    SCHEMA = pa.schema(
        [
            pa.field("member", pa.string(), nullable=False),
            pa.field("sha256", pa.binary(32), nullable=False),
            pa.field("is_val", pa.bool_(), nullable=False),
            pa.field("text_bytes", pa.int64(), nullable=False),
            pa.field("token_count", pa.int64(), nullable=False),
        ]
    )

    def __init__(self, writer: pa.RecordBatchFileWriter, path: Path) -> None:
        self._writer = writer
        self.path = path
        self.count = 0

    def write(
        self,
        stored: StoredBatch,
        is_val: npt.NDArray[np.bool_],
        text_bytes: npt.NDArray[np.int64],
        token_counts: npt.NDArray[np.int64],
    ) -> None:
        """Appends rows: arrays with one value a document."""
        columns = [stored.rows.column("member"), stored.rows.column("sha256"), flag_array(is_val)]
        columns += [number_array(text_bytes), number_array(token_counts)]
        self._writer.write_batch(pa.record_batch(columns, schema=self.SCHEMA))
        self.count += len(stored)


@contextlib.contextmanager
def write_rows(path: Path) -> Iterator[RowsWriter]:
    """Writes the rows of some parts to a file, which is there afterwards."""
    with (
        replaced_file(path) as replaced,
        pa.OSFile(str(replaced), "wb") as file,
        pa.ipc.new_file(file, RowsWriter.SCHEMA) as writer,
    ):
        yield RowsWriter(writer, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRange:
    """Neighbouring rows of documents: of a file of some parts, or of the `documents.parquet` of an earlier data set."""

    path: Path
    start: int
    count: int

    def read(self) -> pa.Table:
        """The rows, with the columns of RowsWriter.SCHEMA."""
        if self.path.suffix != ".parquet":
            with pa.memory_map(str(self.path)) as file:
                return pa.ipc.open_file(file).read_all().slice(self.start, self.count)
        if not self.count:
            return RowsWriter.SCHEMA.empty_table()
        with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            first, last = self.start // _ROWS_A_GROUP, (self.start + self.count - 1) // _ROWS_A_GROUP
            names = ["member", "sha256", "split", "text_bytes", "token_count"]
            rows = file.read_row_groups(list(range(first, last + 1)), columns=names, use_threads=False)
        rows = rows.slice(self.start - first * _ROWS_A_GROUP, self.count)
        columns = [rows.column(name) for name in names]
        columns[names.index("split")] = flag_array(_is_val(rows.column("split")))
        return pa.table(columns, schema=RowsWriter.SCHEMA)


class DocumentsWriter:
    """Writes `documents.parquet` of a data set, part by part in corpus order.

    Row groups are of a fixed number of rows, so the bytes do not depend on how the work was divided.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._writer = pq.ParquetWriter(
            file, DOCUMENTS_SCHEMA, compression="zstd", compression_level=1,
            use_dictionary=["split", "shard"], write_statistics=False, write_page_checksum=True,
        )  # fmt: skip
        self._waiting: list[tuple[str, pa.Table]] = []
        self._rows = 0
        self._tokens = {False: 0, True: 0}  # written so far, of train and val

    def append(self, shard: str, rows: RowRange) -> None:
        """Appends the rows of one part, which came from that shard."""
        table = rows.read()
        while table.num_rows:
            piece = table.slice(0, _ROWS_A_GROUP - self._rows)
            table = table.slice(piece.num_rows)
            self._waiting.append((shard, piece))
            self._rows += piece.num_rows
            if self._rows == _ROWS_A_GROUP:
                self._write_group()

    def close(self) -> None:
        """Writes the last rows and the end of the file."""
        self._write_group()
        self._writer.close()

    def abandon(self) -> None:
        """Ends the writing of a file that is to be thrown away, if it has not ended."""
        abandon(self._writer)

    def _write_group(self) -> None:
        if not self._rows:
            return
        rows = pa.concat_tables([table for _, table in self._waiting]).combine_chunks()
        shards, shard_of_row = np.unique([shard for shard, _ in self._waiting], return_inverse=True)
        sizes = [table.num_rows for _, table in self._waiting]
        is_val = flags_of(rows.column("is_val"))
        columns = {
            "split": pa.DictionaryArray.from_arrays(
                number_array(is_val.view(np.int8)), name_array(["train", "val"])
            ),
            "shard": pa.DictionaryArray.from_arrays(
                number_array(np.repeat(shard_of_row, sizes).astype(np.int32)),
                name_array(shards.tolist()),
            ),
            "token_start": self._token_starts(
                is_val, numbers_of(rows.column("token_count"), np.dtype(np.int64))
            ),
        }
        for name in ("member", "sha256", "text_bytes", "token_count"):
            columns[name] = rows.column(name)
        arrays = [columns[name] for name in DOCUMENTS_SCHEMA.names]
        self._writer.write_table(pa.table(arrays, schema=DOCUMENTS_SCHEMA), row_group_size=_ROWS_A_GROUP)
        self._waiting, self._rows = [], 0

    def _token_starts(self, is_val: Any, counts: Any) -> pa.Array:
        """Where each document begins in the token file of its split."""
        starts = np.empty(len(counts), np.int64)
        for split in (False, True):
            ends = self._tokens[split] + np.cumsum(counts[is_val == split])
            starts[is_val == split] = ends - counts[is_val == split]
            self._tokens[split] = int(ends[-1]) if len(ends) else self._tokens[split]
        return number_array(starts)


def read_document_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a `documents.parquet` (DOCUMENTS_SCHEMA), in corpus order, a row group at a time."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group).to_pylist()


def pick_document_rows(path: Path, numbers: list[int]) -> Iterator[dict[str, Any]]:
    """The rows of a `documents.parquet` with these numbers, which ascend."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group, wanted in itertools.groupby(numbers, lambda number: number // _ROWS_A_GROUP):
            start = group * _ROWS_A_GROUP
            waiting = deque(wanted)
            for batch in file.iter_batches(_READ_ROWS, row_groups=[group], use_threads=False):
                while waiting and waiting[0] < start + len(batch):
                    yield from batch.slice(waiting.popleft() - start, 1).to_pylist()
                start += len(batch)
                if not waiting:
                    break


def find_document_row(
    path: Path, *, token: tuple[Split, int] | None = None, sha256_prefix: bytes = b""
) -> dict[str, Any] | None:
    """The first row of a `documents.parquet` whose tokens hold `token` (split, offset), or whose hash begins so."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            if token:
                rows = file.read_row_group(group, columns=["split", "token_start", "token_count"])
                start, count = (
                    numbers_of(rows.column(name), np.dtype(np.int64))
                    for name in ("token_start", "token_count")
                )
                is_split = _is_val(rows.column("split")) == (token[0] == "val")
                found = np.flatnonzero(is_split & (start <= token[1]) & (token[1] < start + count))
            else:
                hashes = file.read_row_group(group, columns=["sha256"]).column("sha256").to_pylist()
                found = np.flatnonzero([one.startswith(sha256_prefix) for one in hashes])
            if len(found):
                row: dict[str, Any] = file.read_row_group(group).slice(int(found[0]), 1).to_pylist()[0]
                return row
    return None


def document_columns(path: Path, names: list[str]) -> dict[str, Any]:
    """Whole columns of a `documents.parquet` as numpy arrays, of at most 8 bytes a document: OpenWebText has 8 million.

    `hash` is the beginning of each document's sha256, which tells documents apart; `split` is whether it is val.
    """
    sources = {name: "sha256" if name == "hash" else name for name in names}
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        types = {"hash": np.uint64, "split": np.bool_}
        columns = {name: np.empty(file.metadata.num_rows, types.get(name, np.int64)) for name in names}
        start = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=list(sources.values()), use_threads=False)
            for name, column in columns.items():
                column[start : start + rows.num_rows] = _as_numpy(name, rows.column(sources[name]))
            start += rows.num_rows
    return columns


def _as_numpy(name: str, column: pa.ChunkedArray) -> npt.NDArray[Any]:
    if name == "split":
        return _is_val(column)
    if name == "hash":
        return numbers_of(column, np.dtype((np.uint64, 4)))[:, 0]  # 8 of 32 bytes
    return numbers_of(column, np.dtype(np.int64))


def _is_val(split: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    chunks = [
        np.array(chunk.dictionary.to_pylist())[numbers_of_one(chunk.indices, np.dtype(np.int8))] == "val"
        for chunk in split.chunks
    ]
    is_val: npt.NDArray[np.bool_] = np.concatenate([np.empty(0, np.bool_), *chunks])
    return is_val
