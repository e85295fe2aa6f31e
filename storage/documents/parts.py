"""The stored text of one shard: a Parquet file of its documents, and a record that is written last.

Decompressing xz costs more than all the rest of a build, so it is done once: tokenizers are trained on and applied to
what is stored here. A part is named by the sha256 of the shard's bytes and the settings that change its text.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage.documents.arrays import (
    abandon,
    bytes_of,
    first_line,
    flag_array,
    hash_array,
    name_array,
    numbers_of_one,
    string_array,
    texts_of,
)
from storage.errors import DatasetError
from storage.files import Together, crc32, crc32_file, named_errors, sha256_text, write_pieces

PART_FORMAT = 2

# LZ4 would take a quarter of the bytes away, and a fifth of the time that all of ingest takes: docs/decisions.md.
_TEXT_COMPRESSION = "none"
_READ_AT_ONCE_BYTES = 16 << 20
_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("text", pa.string(), nullable=False),
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
        return string_array(self.utf8, self.sizes)

    def sha256(self) -> list[bytes]:
        """The content hash of each document."""
        view, ends = memoryview(self.utf8), np.cumsum(self.sizes).tolist()
        return [sha256_text(view[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Neighbouring documents as stored: rows of `member`, the `sha256` of each text, and `text`, in UTF-8.

    `members`, `sha256` and `texts` are lists made anew each time they are asked for; the rest copies nothing.
    """

    rows: pa.RecordBatch

    def __len__(self) -> int:
        """How many documents."""
        return int(self.rows.num_rows)

    @classmethod
    def of(cls, members: list[str], sha256: list[bytes], texts: list[bytes]) -> Self:
        """The batch of these documents."""
        batch = TextBatch.of(members, texts)
        columns = [name_array(members), hash_array(sha256), batch.as_arrow()]
        return cls(pa.record_batch(columns, schema=_SCHEMA))

    @property
    def members(self) -> list[str]:
        """The name of each document."""
        names: list[str] = self.rows.column("member").to_pylist()
        return names

    @property
    def sha256(self) -> list[bytes]:
        """The content hash of each document."""
        hashes: list[bytes] = self.rows.column("sha256").to_pylist()
        return hashes

    @property
    def hashes(self) -> npt.NDArray[np.uint8]:
        """The same, [documents, 32]."""
        return numbers_of_one(self.rows.column("sha256"), np.dtype((np.uint8, 32)))

    @property
    def texts(self) -> list[bytes]:
        """The text of each document."""
        return bytes_of(self.rows.column("text"))

    def joined(self) -> tuple[memoryview, npt.NDArray[np.int64]]:
        """The texts one after another, and the size of each in bytes."""
        return texts_of(self.rows.column("text"))


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
        abandon(self._writer)
        self._files.discard()

    def write(self, batch: TextBatch, **normalised: int) -> list[bytes]:
        """Appends documents, proved to be UTF-8; `normalised` counts what was changed. Returns their content hashes."""
        digests = batch.sha256()
        columns = [name_array(batch.members), hash_array(digests), batch.as_arrow()]
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
        self._files.open(record_path(self.path)).write(record.encode())
        if together:
            together.adopt(self._files)
        else:
            self._files.publish()
        return part


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
        part = part_of_record(path, record_path(path).read_bytes())
        return part if part and part.file_bytes == path.stat().st_size else None
    except FileNotFoundError:
        return None


def part_of_record(path: Path, record: bytes) -> DocumentPart | None:
    """The part at `path` as its record has it, or None if that is no record of ours."""
    try:
        facts = json.loads(record)
        facts.pop("notes")
        return DocumentPart(path=path, **facts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def record_path(path: Path) -> Path:
    """Where the record of the part at `path` is, or will be."""
    return path.with_suffix(".json")


def read_notes(part: DocumentPart) -> dict[str, Any]:
    """What was noted beside the facts when the part was made."""
    notes = json.loads(record_path(part.path).read_bytes())["notes"]
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
                        rows = rows.filter(flag_array(own))
                    yield StoredBatch(rows)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"{part.path}: stored text is damaged ({first_line(error)}); delete this file and build again"
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


def _facts(part: DocumentPart) -> dict[str, Any]:
    facts = asdict(part)
    del facts["path"], facts["kept"]
    return facts
