"""The stored text of one shard: a Parquet file of its documents, and a record that is written last.

Decompressing xz costs more than all the rest of a build, so it is done once: tokenizers are trained on and applied to
what is stored here. A part is named by the sha256 of the shard's bytes and the settings that change its text. This is
also the door to Parquet as such: for a corpus that comes in it, and for the rows of a finished data set.
"""

import contextlib
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import DatasetError, Malformed
from storage.files import Together, crc32, crc32_file, named_errors, sha256_text, write_pieces

# Arrow's own pool keeps much of what it once had, beside the memory that Python and numpy keep.
pa.set_memory_pool(pa.system_memory_pool())

PART_FORMAT = 2
_ROWS_A_GROUP = 65_536
# LZ4 would take a quarter of the bytes away, and a fifth of the time that all of ingest takes: docs/decisions.md.
_TEXT_COMPRESSION = "none"
_PARQUET_MAGIC = b"PAR1"
_READ_AT_ONCE_BYTES = 16 << 20
_CORPUS_ROWS = 1024  # of a Parquet corpus, read at a time

Split = Literal["train", "val"]

_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPart:
    """The documents of one shard, stored. `text_bytes` counts UTF-8 after normalisation, `longest_bytes` that of one.

    `kept` is a file with a byte for each stored document, 1 if it stays, where quality steps leave some out; then
    `documents` and `text_bytes` are those that stay.
    """

    path: Path
    shard_sha256: str
    documents: int
    text_bytes: int
    longest_bytes: int
    byte_order_marks: int
    crlf_line_ends: int
    invalid_utf8_documents: int
    file_bytes: int
    file_crc32: int
    normalised_documents: int = 0  # a record made before there was such a thing says nothing of it
    kept: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatch:
    """Neighbouring documents: their member names, and their texts one after another in `utf8`, each of so many bytes."""

    members: list[str]
    utf8: bytes
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, members: list[str], texts: list[bytes]) -> Self:
        """The batch of these texts."""
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        return cls(members=members, utf8=b"".join(texts), sizes=sizes)

    def is_utf8(self) -> bool:
        """Whether each of the texts is valid UTF-8: no surrogates, nothing overlong, nothing cut."""
        try:
            self.as_arrow().validate(full=True)
        except pa.ArrowInvalid:
            return False
        return True

    def as_arrow(self) -> pa.Array:
        """The texts as Arrow has them, without copying: these same bytes, and where each text begins."""
        return _strings(self.utf8, self.sizes)

    def sha256(self) -> list[bytes]:
        """The content hash of each document."""
        view, ends = memoryview(self.utf8), np.cumsum(self.sizes).tolist()
        return [sha256_text(view[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """Neighbouring documents as stored: their member names, the sha256 of each text, and the texts in UTF-8."""

    members: list[str]
    sha256: list[bytes]
    texts: list[bytes]


class PartWriter:
    """Stores one shard's documents: `with PartWriter(path) as writer: writer.write(…); part = writer.finish(…)`.

    Nothing is at `path` before `finish`, and nothing is left if the body raises.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = Together()
        self._counts = dict.fromkeys(
            (
                "documents",
                "text_bytes",
                "longest_bytes",
                "byte_order_marks",
                "crlf_line_ends",
                "invalid_utf8_documents",
                "normalised_documents",
            ),
            0,
        )

    def __enter__(self) -> Self:
        self._file = _CountedFile(self._files.open(self.path))
        self._writer = pq.ParquetWriter(
            self._file, _SCHEMA, compression=_TEXT_COMPRESSION, use_dictionary=False, write_statistics=False
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _abandon(self._writer)
        self._files.discard()

    def write(self, batch: TextBatch, **normalised: int) -> list[bytes]:
        """Appends documents, proved to be UTF-8; `normalised` counts what was changed. Returns their content hashes."""
        digests = batch.sha256()
        columns = [_names(batch.members), _hashes(digests), batch.as_arrow()]
        with named_errors(self.path):
            self._writer.write_table(pa.table(columns, schema=_SCHEMA))
        self._counts["documents"] += len(digests)
        self._counts["text_bytes"] += len(batch.utf8)
        self._counts["longest_bytes"] = max(self._counts["longest_bytes"], int(batch.sizes.max(initial=0)))
        for what, count in normalised.items():
            self._counts[what] += count
        return digests

    def finish(
        self, shard_sha256: str, notes: dict[str, Any], together: Together | None = None
    ) -> DocumentPart:
        """Publishes the part, and its record with `notes` beside the facts: returns when both are on the disk.

        Or it hands them over to be published `together` with others, which saves most of the waiting.
        """
        with named_errors(self.path):
            self._writer.close()
        part = DocumentPart(
            path=self.path,
            shard_sha256=shard_sha256,
            file_bytes=self._file.bytes,
            file_crc32=self._file.crc32,
            **self._counts,  # type: ignore[arg-type]  # counts alone: `kept` is none of them
        )
        record = json.dumps({"notes": notes, **_facts(part)}, ensure_ascii=False)
        self._files.open(_record(self.path)).write(record.encode())
        if together:
            together.adopt(self._files)
        else:
            self._files.publish()
        return part


def _abandon(writer: pq.ParquetWriter) -> None:
    """Closes a writer before its file is, or it would complain later."""
    if writer.is_open:
        with contextlib.suppress(OSError):  # of a full disk: what is being thrown away need not be whole
            writer.close()


class _CountedFile:
    """A file to write to that knows its size and CRC-32 so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = self.crc32 = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        self.crc32 = crc32(data, self.crc32)
        write_pieces(self._file, data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Parquet asks for it; the bytes go to the disk when the part is finished."""

    def close(self) -> None:
        self.closed = True


def read_part(path: Path) -> DocumentPart | None:
    """The finished part at `path`, or None if its record is missing or speaks of another file size."""
    try:
        facts = json.loads(_record(path).read_bytes())
        facts.pop("notes")
        part = DocumentPart(path=path, **facts)
        return part if part.file_bytes == path.stat().st_size else None
    # Not there, or no record of ours.
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_notes(part: DocumentPart) -> dict[str, Any]:
    """What was noted beside the facts when the part was made."""
    notes = json.loads(_record(part.path).read_bytes())["notes"]
    assert isinstance(notes, dict)
    return notes


def read_texts(part: DocumentPart) -> Iterator[StoredBatch]:
    """The documents of a part, in order, after its checksum has been verified. Memory: one row group.

    Parquet's own checksums cover pages alone: a flipped bit in a header or footer can lose or change documents.
    """
    source = _verified(part)
    try:
        kept, start = _kept(part), 0
        with pq.ParquetFile(source) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                for rows in table.combine_chunks().to_batches():
                    if kept is not None:
                        start, own = start + rows.num_rows, kept[start : start + rows.num_rows]
                        rows = rows.filter(_flags(own))
                    yield StoredBatch(
                        members=rows.column("member").to_pylist(),
                        sha256=rows.column("sha256").to_pylist(),
                        texts=_as_bytes(rows.column("text")),
                    )
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"{part.path}: stored text is damaged ({_first_line(error)}); delete this file and build again"
        ) from error


def _verified(part: DocumentPart) -> Path | pa.BufferReader:
    """What to read a part from, after its checksum has been verified: the file, or its bytes if they are not many."""
    if part.path.is_file():
        if part.file_bytes > _READ_AT_ONCE_BYTES:
            if crc32_file(part.path) == part.file_crc32:
                return part.path
        else:
            with named_errors(part.path):
                content = part.path.read_bytes()
            if crc32(content) == part.file_crc32:
                return pa.BufferReader(content)
    raise DatasetError(f"{part.path}: stored text is missing or damaged; delete this file and build again")


def keep_documents(
    part: DocumentPart, path: Path, kept: npt.NDArray[np.bool_], text_bytes: npt.NDArray[np.int64]
) -> DocumentPart:
    """The part with those documents only that are `kept`, of which `text_bytes` are the sizes; which is noted at `path`."""
    if kept.all():
        return part
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(kept.tobytes())
    return replace(part, kept=path, documents=int(kept.sum()), text_bytes=int(text_bytes[kept].sum()))


def _kept(part: DocumentPart) -> npt.NDArray[np.bool_] | None:
    return np.frombuffer(part.kept.read_bytes(), np.bool_) if part.kept else None


def is_parquet(file: BinaryIO) -> bool:
    """Whether a file is Parquet, by its first bytes."""
    return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


def parquet_texts(file: BinaryIO, column: str) -> Iterator[bytes]:
    """The texts of a column of a Parquet corpus, row by row, as the bytes they are. Raises Malformed, naming the way out."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            if column not in parquet.schema_arrow.names:
                known = ", ".join(map(repr, parquet.schema_arrow.names))
                raise Malformed(
                    f"has no column {column!r} (there: {known[:200]}); choose one with --text-column"
                )
            for batch in parquet.iter_batches(_CORPUS_ROWS, columns=[column], use_threads=False):
                texts = batch.column(0)
                if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
                    raise Malformed(
                        f"its column {column!r} is of type {texts.type}, not text; choose one with --text-column"
                    )
                if texts.null_count:
                    raise Malformed(f"its column {column!r} has empty cells (nulls), which are no documents")
                yield from _as_bytes(texts)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # a column's name need not be UTF-8
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the file
            raise
        raise Malformed(f"is damaged or cut off ({_first_line(error)}); fetch the file again") from None


def _as_bytes(texts: pa.Array) -> list[bytes]:
    kind = pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
    values: list[bytes] = texts.view(kind).to_pylist()
    return values


class RowsWriter:
    """The rows of one part's documents: what `documents.parquet` will say of them, but for their place in the data set."""

    SCHEMA = pa.schema(
        [
            pa.field("member", pa.string(), nullable=False),
            pa.field("sha256", pa.binary(32), nullable=False),
            pa.field("is_val", pa.bool_(), nullable=False),
            pa.field("text_bytes", pa.int64(), nullable=False),
            pa.field("token_count", pa.int64(), nullable=False),
        ]
    )

    def __init__(self, writer: pa.RecordBatchFileWriter) -> None:
        self._writer = writer

    def write(
        self,
        stored: StoredBatch,
        is_val: npt.NDArray[np.bool_],
        text_bytes: npt.NDArray[np.int64],
        token_counts: npt.NDArray[np.int64],
    ) -> None:
        """Appends rows: arrays with one value a document."""
        columns = [_names(stored.members), _hashes(stored.sha256), _flags(is_val)]
        columns += [_numbers(text_bytes), _numbers(token_counts)]
        self._writer.write_batch(pa.record_batch(columns, schema=self.SCHEMA))


@contextlib.contextmanager
def write_rows(path: Path) -> Iterator[RowsWriter]:
    """Writes the rows of one part to a file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, RowsWriter.SCHEMA) as writer:
        yield RowsWriter(writer)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRange:
    """Neighbouring rows of documents: of a part's own file, or of the `documents.parquet` of an earlier data set."""

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
        columns[names.index("split")] = _flags(_is_val(rows.column("split")))
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
        _abandon(self._writer)

    def _write_group(self) -> None:
        if not self._rows:
            return
        rows = pa.concat_tables([table for _, table in self._waiting]).combine_chunks()
        shards, shard_of_row = np.unique([shard for shard, _ in self._waiting], return_inverse=True)
        sizes = [table.num_rows for _, table in self._waiting]
        is_val = _as_flags(rows.column("is_val"))
        columns = {
            "split": pa.DictionaryArray.from_arrays(_numbers(is_val.view(np.int8)), _names(["train", "val"])),
            "shard": pa.DictionaryArray.from_arrays(
                _numbers(np.repeat(shard_of_row, sizes).astype(np.int32)),
                _names(shards.tolist()),
            ),
            "token_start": self._token_starts(
                is_val, _as_numbers(rows.column("token_count"), np.dtype(np.int64))
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
        return _numbers(starts)


def write_token_lists(file: BinaryIO, documents: Iterable[tuple[str, str, Any]], dtype: str) -> None:
    """Writes (shard, member, ids) of documents as Parquet: `shard`, `member`, `input_ids`."""
    schema = pa.schema(
        [("shard", pa.string()), ("member", pa.string()), ("input_ids", pa.list_(pa.type_for_alias(dtype)))]
    )
    with pq.ParquetWriter(file, schema, compression="zstd", compression_level=1) as writer:
        remaining = iter(documents)
        while batch := list(itertools.islice(remaining, _CORPUS_ROWS)):
            columns = zip(*batch, strict=True)
            writer.write_table(
                pa.table(
                    [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)],
                    schema=schema,
                )
            )


#: One row a document that quality steps left out, in corpus order: where it came from, and why it went.
DROPPED_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)


def write_dropped(path: Path, documents: Iterable[tuple[str, str, str, str, str]]) -> None:
    """Writes documents that were left out, as the columns of DROPPED_SCHEMA."""
    remaining = iter(documents)
    with (
        named_errors(path),
        path.open("wb") as file,
        pq.ParquetWriter(file, DROPPED_SCHEMA, compression="zstd", write_page_checksum=True) as writer,
    ):
        while batch := list(itertools.islice(remaining, _ROWS_A_GROUP)):
            columns = [_names(column) for column in zip(*batch, strict=True)]
            writer.write_table(pa.table(columns, schema=DROPPED_SCHEMA))


def read_dropped(path: Path, step: str | None = None) -> Iterator[dict[str, str]]:
    """The rows that `write_dropped` wrote, of all steps or of one, in corpus order; a row group at a time."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, use_threads=False)
            if step is not None:
                rows = rows.filter(pa.array([found == step for found in rows.column("step").to_pylist()]))
            for batch in rows.to_batches(max_chunksize=_CORPUS_ROWS):
                yield from batch.to_pylist()


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
            for batch in file.iter_batches(_CORPUS_ROWS, row_groups=[group], use_threads=False):
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
                    _as_numbers(rows.column(name), np.dtype(np.int64))
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


_NUMPY_TYPES = {
    "split": "bool",
    "shard": "object",
    "member": "object",
    "sha256": "S32",
}  # of columns; others are int64


def document_columns(path: Path, names: list[str]) -> dict[str, Any]:
    """Whole columns of a `documents.parquet` as numpy arrays: hashes as S32, `split` as whether it is val, names as objects."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        columns = {name: np.empty(file.metadata.num_rows, _NUMPY_TYPES.get(name, "int64")) for name in names}
        start = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=names, use_threads=False)
            for name, column in columns.items():
                column[start : start + rows.num_rows] = _as_numpy(rows.column(name), column.dtype)
            start += rows.num_rows
    return columns


def _as_numpy(column: pa.ChunkedArray, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if dtype.kind == "b":
        return _is_val(column)
    return np.array(column.to_pylist(), object) if dtype.kind == "O" else _as_numbers(column, dtype)


def _is_val(split: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    chunks = [
        np.array(chunk.dictionary.to_pylist())[_values(chunk.indices, np.dtype(np.int8))] == "val"
        for chunk in split.chunks
    ]
    is_val: npt.NDArray[np.bool_] = np.concatenate([np.empty(0, np.bool_), *chunks])
    return is_val


# Arrow's arrays from the bytes that they consist of, and back: `pa.array`, `cast` and `to_numpy` would import pandas, if it is
# there, to ask whether they were given one of its series. That takes half a second, and 40 MB of each process.


def _strings(utf8: bytes, sizes: npt.NDArray[np.int64]) -> pa.Array:
    """Texts that stand one after another, each of so many bytes."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    assert offsets[-1] < 1 << 31, "a batch is a few MiB, or one document"
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(utf8)]
    return pa.Array.from_buffers(pa.string(), len(sizes), buffers)


def _names(names: Sequence[str]) -> pa.Array:
    encoded = [name.encode() for name in names]
    return _strings(b"".join(encoded), np.fromiter(map(len, encoded), np.int64, len(encoded)))


def _hashes(hashes: Sequence[bytes]) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(32), len(hashes), [None, pa.py_buffer(b"".join(hashes))])


def _numbers(values: npt.NDArray[np.integer[Any]]) -> pa.Array:
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _as_numbers(column: pa.ChunkedArray, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.concatenate(
        [np.empty(0, dtype), *(_values(chunk, dtype) for chunk in filter(len, column.chunks))]
    )


def _values(numbers: pa.Array, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.frombuffer(numbers.buffers()[1], dtype)[numbers.offset : numbers.offset + len(numbers)]


def _as_flags(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    pieces = [np.empty(0, np.bool_)]
    for chunk in filter(len, column.chunks):
        bits = np.unpackbits(np.frombuffer(chunk.buffers()[1], np.uint8), bitorder="little")
        pieces.append(bits[chunk.offset : chunk.offset + len(chunk)].view(np.bool_))
    return np.concatenate(pieces)


def _flags(values: npt.NDArray[np.bool_]) -> pa.Array:
    bits = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def _record(path: Path) -> Path:
    return path.with_suffix(".json")


def _facts(part: DocumentPart) -> dict[str, Any]:
    facts = asdict(part)
    del facts["path"], facts["kept"]
    return facts


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
