"""Parquet beside the data set's own: a corpus that comes in it, lists of tokens for others, documents that were left out."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from storage.documents.arrays import bytes_of, first_line, name_array
from storage.errors import Malformed
from storage.files import named_errors

_DROPPED_ROWS_A_GROUP = 65_536
_PARQUET_MAGIC = b"PAR1"
_CORPUS_ROWS = 1024  # of a Parquet corpus, read at a time


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
                yield from bytes_of(texts)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # a column's name need not be UTF-8
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the file
            raise
        raise Malformed(f"is damaged or cut off ({first_line(error)}); fetch the file again") from None


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
        while batch := list(itertools.islice(remaining, _DROPPED_ROWS_A_GROUP)):
            columns = [name_array(column) for column in zip(*batch, strict=True)]
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
