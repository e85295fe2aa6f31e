"""The stored text of one shard: a Parquet file of its documents, and a record that is written last.

Decompressing xz costs more than all the rest of a build, so it is done once: tokenizers are trained on and applied to
what is stored here. A part is named by the sha256 of the shard's bytes and the settings that change its text.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from storage.errors import DatasetError, ShardError
from storage.files import atomic_file, fingerprint, sha256_file, write_json
from storage.shards import (
    BOOK_DOCUMENT_BYTES,
    WHOLE_TEXT_BYTES,
    InvalidUtf8,
    Shard,
    read_documents,
    sha256_text,
)

PART_FORMAT = 1
_BATCH_TEXT_BYTES = 4 << 20
_ROWS_A_GROUP = 65_536

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
    """The documents of one shard, stored. `text_bytes` counts UTF-8 after normalisation."""

    path: Path
    shard_sha256: str
    documents: int
    text_bytes: int
    byte_order_marks: int
    crlf_line_ends: int
    invalid_utf8_documents: int
    file_bytes: int
    file_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """One document as stored: its member name, the sha256 of its text, and the text."""

    member: str
    sha256: bytes
    text: str
    text_bytes: int


def ingest_shard(shard: Shard, folder: Path, *, invalid_utf8: InvalidUtf8) -> tuple[DocumentPart, bool]:
    """Stores a shard's documents below `folder`, unless they are there already; returns the part and whether it was.

    Raises ShardError if the shard is not whole; then nothing is left behind.
    """
    sha256 = sha256_file(shard.path)
    settings = {
        "format": PART_FORMAT,
        "invalid_utf8": invalid_utf8,
        "is_xz": shard.path.suffix == ".xz",
        "whole_text_bytes": WHOLE_TEXT_BYTES,
        "book_document_bytes": BOOK_DOCUMENT_BYTES,
    }
    path = folder / f"{sha256}-{fingerprint(settings)[:8]}.parquet"
    if part := read_part(path):
        return part, True
    counts = _write_documents(shard, path, invalid_utf8)
    if sha256_file(shard.path) != sha256:
        path.unlink()
        raise ShardError(shard.path, "changed while it was being read; run again when it is complete")
    part = DocumentPart(
        path=path,
        shard_sha256=sha256,
        file_bytes=path.stat().st_size,
        file_sha256=sha256_file(path),
        **counts,
    )
    write_json(_record(path), {"settings": settings} | _facts(part))
    return part, False


def read_part(path: Path) -> DocumentPart | None:
    """The finished part at `path`, or None if its record is missing or speaks of another file size."""
    try:
        facts = json.loads(_record(path).read_text(encoding="utf-8"))
        facts.pop("settings")
        part = DocumentPart(path=path, **facts)
        return part if part.file_bytes == path.stat().st_size else None
    except (
        FileNotFoundError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # not there, or no record of ours
        return None


def read_texts(part: DocumentPart) -> Iterator[StoredDocument]:
    """The documents of a part, in order, after its sha256 has been verified. Memory: one row group.

    Parquet's own checksums cover pages alone: a flipped bit in a header or footer can lose or change documents.
    """
    if not part.path.is_file() or sha256_file(part.path) != part.file_sha256:
        raise DatasetError(
            f"{part.path}: stored text is missing or damaged; delete this file and build again"
        )
    try:
        with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                columns = (rows.column(name).to_pylist() for name in ("member", "sha256", "text"))
                for member, sha256, text in zip(*columns, strict=True):
                    size = len(text) if text.isascii() else len(text.encode())
                    yield StoredDocument(member=member, sha256=sha256, text=text, text_bytes=size)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"{part.path}: stored text is damaged ({_first_line(error)}); delete this file and build again"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRow:
    """Where one document of a part went: its split, and its tokens there, counted with the end-of-text that follows."""

    split: Split
    member: str
    sha256: bytes
    text_bytes: int
    token_start: int
    token_count: int


def write_document_rows(path: Path, rows: list[DocumentRow]) -> None:
    """Writes the rows of one part; its shard's name and the parts before it are not known yet."""
    columns = {
        name: [getattr(row, name) for row in rows] for name in DOCUMENTS_SCHEMA.names if name != "shard"
    }
    columns["shard"] = [""] * len(rows)
    with atomic_file(path) as file, _parquet_writer(file, DOCUMENTS_SCHEMA) as writer:
        writer.write_table(pa.Table.from_pydict(columns, DOCUMENTS_SCHEMA))


def join_document_rows(path: Path, parts: Iterable[tuple[str, Path, dict[Split, int]]]) -> None:
    """Writes `documents.parquet` of a data set from (shard name, rows of its part, tokens before it by split).

    Row groups are of a fixed number of rows, so the bytes do not depend on how the work was divided.
    """
    with atomic_file(path) as file, _parquet_writer(file, DOCUMENTS_SCHEMA) as writer:
        waiting: list[pa.Table] = []
        rows = 0
        for shard, part, tokens_before in parts:
            waiting.append(
                _placed(pq.read_table(part, page_checksum_verification=True), shard, tokens_before)
            )
            rows += waiting[-1].num_rows
            while rows >= _ROWS_A_GROUP:
                joined = pa.concat_tables(waiting)
                _write_group(writer, joined.slice(0, _ROWS_A_GROUP))
                waiting, rows = [joined.slice(_ROWS_A_GROUP)], rows - _ROWS_A_GROUP
        if rows:
            _write_group(writer, pa.concat_tables(waiting))


def _write_group(writer: pq.ParquetWriter, table: pa.Table) -> None:
    writer.write_table(table.unify_dictionaries().combine_chunks(), row_group_size=_ROWS_A_GROUP)


def read_document_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a `documents.parquet` (DOCUMENTS_SCHEMA), in corpus order, a row group at a time."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group).to_pylist()


def _placed(rows: pa.Table, shard: str, tokens_before: dict[Split, int]) -> pa.Table:
    """The rows of a part at their place in the data set."""
    before = pa.array([tokens_before[split] for split in rows.column("split").to_pylist()], pa.int64())
    start = pa.compute.add(rows.column("token_start"), before)
    names = pa.DictionaryArray.from_arrays(pa.array([0] * rows.num_rows, pa.int32()), pa.array([shard]))
    table = rows.set_column(DOCUMENTS_SCHEMA.get_field_index("token_start"), "token_start", start)
    return table.set_column(DOCUMENTS_SCHEMA.get_field_index("shard"), "shard", names).cast(DOCUMENTS_SCHEMA)


def _write_documents(shard: Shard, path: Path, invalid_utf8: InvalidUtf8) -> dict[str, int]:
    counts = dict.fromkeys(
        ("documents", "text_bytes", "byte_order_marks", "crlf_line_ends", "invalid_utf8_documents"), 0
    )
    with atomic_file(path) as file, _parquet_writer(file, _SCHEMA) as writer:
        batch: list[tuple[str, bytes, bytes]] = []
        batch_bytes = 0
        for document in read_documents(shard, invalid_utf8=invalid_utf8):
            batch.append((document.member, sha256_text(document.utf8), document.utf8))
            batch_bytes += len(document.utf8)
            counts["documents"] += 1
            counts["text_bytes"] += len(document.utf8)
            counts["byte_order_marks"] += document.had_byte_order_mark
            counts["crlf_line_ends"] += document.crlf_line_ends
            counts["invalid_utf8_documents"] += document.invalid_utf8_replaced
            if batch_bytes >= _BATCH_TEXT_BYTES:
                _write_batch(writer, batch)
                batch, batch_bytes = [], 0
        if batch:
            _write_batch(writer, batch)
    return counts


def _write_batch(writer: pq.ParquetWriter, batch: list[tuple[str, bytes, bytes]]) -> None:
    members, digests, texts = zip(*batch, strict=True)
    # The bytes were proved to be UTF-8 when they were read: `view` takes them as strings without checking again.
    columns = [
        pa.array(members, pa.string()),
        pa.array(digests, pa.binary(32)),
        pa.array(texts, pa.binary()).view(pa.string()),
    ]
    writer.write_table(pa.table(columns, schema=_SCHEMA))


def _parquet_writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file, schema, compression="zstd", compression_level=1, use_dictionary=["split", "shard"],
        write_statistics=False, write_page_checksum=True,
    )  # fmt: skip


def _record(path: Path) -> Path:
    return path.with_suffix(".json")


def _facts(part: DocumentPart) -> dict[str, Any]:
    facts = asdict(part)
    del facts["path"]
    return facts


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
