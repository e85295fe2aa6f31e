"""The forms of a corpus, read as whole documents: a tar of texts, JSON lines, Parquet, plain text; and archives of shards.

The content of a file tells its form; a name can only contradict it. Nothing of an archive ever becomes a path on this
disk: members are read from the stream, and their names are data. What proves that nothing is missing stands in `shards`
and `tar_stream`: believe no document before the end.
"""

import codecs
import itertools
import json
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from storage.blanks import as_hugging_face
from storage.documents.parts import TextBatch
from storage.documents.tables import is_parquet, parquet_texts
from storage.errors import Malformed
from storage.files import named_errors
from storage.shards import (
    COMPRESSED_SUFFIXES,
    SHARD_SUFFIXES,
    Shard,
    compression,
    compression_of,
    expanded,
    is_hidden,
    shard_content,
)
from storage.tar_stream import MAX_MEMBER_BYTES, TAR_BLOCK_BYTES, ByteStream, is_tar, tar_members

InvalidUtf8 = Literal["refuse", "replace"]
Normalisation = Literal["none", "hugging-face"]

# A text file up to this size is one document; a longer one is a book, cut into documents at blank lines.
WHOLE_TEXT_BYTES = 64 << 10
BOOK_DOCUMENT_BYTES = 4 << 10  # near OpenWebText's mean document of 4,963 bytes
_BATCH_TEXT_BYTES = 4 << 20  # small enough for the CPU's cache, and for what numpy makes of it
_BATCH_DOCUMENTS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How bytes become documents: everything that changes a shard's text but its bytes.

    `text_column` names the column of Parquet, and the field of JSON lines, that holds the text. `normalisation` is what
    is done to the blanks of each document: see `as_hugging_face`.
    """

    invalid_utf8: InvalidUtf8 = "refuse"
    text_column: str = "text"
    normalisation: Normalisation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentBatch:
    """Neighbouring documents of a shard, with `\\n` line ends and no byte order mark; and what was changed for that."""

    texts: TextBatch
    byte_order_marks: int = 0
    crlf_line_ends: int = 0
    invalid_utf8_documents: int = 0
    normalised_documents: int = 0


class ArchiveOfShards(Exception):
    """The file holds further compressed files: read it by `read_archive`."""


def read_batches(
    shard: Shard, reading: Reading, *, document_limit_bytes: int | None = None
) -> Iterator[DocumentBatch]:
    """The documents of a shard, in order. Believe none of them before the iterator has ended without an error.

    A document beyond `document_limit_bytes` refuses the shard: there is no memory for it.

    Raises ShardError if anything is not as it should be, naming the file and the member; ArchiveOfShards, before the
    first document, if it holds no texts but further compressed files.
    """
    with named_errors(Path(shard.place)), shard.open() as file:
        try:
            count = 0
            for documents in _batches(_raw_documents(file, shard, reading.text_column)):
                count += len(documents)
                if document_limit_bytes is not None:
                    _refuse_larger(documents, document_limit_bytes)
                yield _normalised(documents, reading)
        except Malformed as error:
            raise shard.refused(str(error)) from None
        if count == 0:
            raise shard.refused("holds no documents")


def read_archive(archive: Shard) -> Iterator[Shard]:
    """The shards inside a tar, one after another, each with its bytes in memory; the archive is never unpacked to disk.

    Raises ShardError if the archive is not whole; believe none of the shards before the iterator has ended.
    """
    with named_errors(Path(archive.place)), archive.open() as file:
        try:
            for member, content in tar_members(ByteStream(shard_content(file, archive))):
                if is_hidden(Path(member)) or Path(member).suffix not in SHARD_SUFFIXES:  # as in a folder
                    continue
                yield Shard(
                    location=archive.location,
                    name=f"{archive.name}/{member}",
                    compressed_bytes=len(content),
                    content=content,
                    member=member,
                )
        except Malformed as error:
            raise archive.refused(str(error)) from None


def holds_shards(shard: Shard) -> bool:
    """Whether a shard is an archive of shards: by its first member alone."""
    with named_errors(Path(shard.place)), shard.open() as file:
        try:
            stream = ByteStream(shard_content(file, shard))
            first = next(tar_members(stream), None) if is_tar(stream.peek(TAR_BLOCK_BYTES)) else None
            return first is not None and compression_of(first[1]) is not None
        except Malformed:  # whoever reads it will say so
            return False


def is_plain_text(shard: Shard) -> bool:
    """Whether a shard is one text, a book, and no collection of documents: by its beginning alone."""
    with named_errors(Path(shard.place)), shard.open() as file:
        if is_parquet(file):
            return False
        file.seek(0)
        try:
            stream = ByteStream(shard_content(file, shard))
            return not is_tar(stream.peek(TAR_BLOCK_BYTES)) and not _json_lines(stream, "text")
        except Malformed:  # whoever reads it will say so
            return True


# --- reading ----------------------------------------------------------------------------------------------------------


def _raw_documents(file: BinaryIO, shard: Shard, text_column: str) -> Iterator[tuple[str, bytes, int]]:
    """(member, bytes as they are, place of the first byte in the text it was cut from) of each document."""
    if not compression(file, shard) and is_parquet(file):
        for row, text in enumerate(parquet_texts(file, text_column), start=1):
            yield f"row-{row:09d}", text, 0
        return
    file.seek(0)
    stream = ByteStream(expanded(file, shard.compressed_bytes))
    head = stream.peek(TAR_BLOCK_BYTES)
    if is_tar(head):
        for number, (member, raw) in enumerate(tar_members(stream)):
            if compression_of(raw):
                if number == 0 and shard.member is None:
                    raise ArchiveOfShards
                raise Malformed(f"holds a compressed file, {member!r}, where texts are expected")
            yield member, raw, 0
    elif lines := _json_lines(stream, text_column):
        yield from lines
    elif claimed := _claims_another_form(shard.name):
        raise Malformed(f"is plain text, and its name says {claimed}; fetch it again, or name it .txt")
    else:
        for member, raw in _text_pieces(stream):
            yield member, raw, stream.taken - len(raw)


def _claims_another_form(name: str) -> str | None:
    """What the name of a text says that it is: an error's page, or a pointer to a large file, saved as data."""
    path = Path(name)
    suffix = path.with_suffix("").suffix if path.suffix in COMPRESSED_SUFFIXES else path.suffix
    return suffix if suffix in (".tar", ".jsonl", ".parquet") else None


def _batches(documents: Iterator[tuple[str, bytes, int]]) -> Iterator[list[tuple[str, bytes, int]]]:
    batch: list[tuple[str, bytes, int]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document[1])
        if size >= _BATCH_TEXT_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _refuse_larger(documents: list[tuple[str, bytes, int]], limit: int) -> None:
    for member, raw, _ in documents:
        if len(raw) > limit:
            raise Malformed(
                f"member {member!r} has {len(raw):,} bytes, and the memory budget has room for documents of {limit:,}; "
                "allow more with --memory-budget"
            )


def _json_lines(stream: ByteStream, field: str) -> Iterator[tuple[str, bytes, int]] | None:
    """The documents of JSON lines; None, with nothing taken, if the first line with something in it is no JSON object."""
    if not stream.peek(TAR_BLOCK_BYTES).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        return None
    lines, taken = stream.lines(MAX_MEMBER_BYTES), list[bytes]()
    for line in lines:
        taken.append(line)
        if line.removeprefix(codecs.BOM_UTF8).strip():
            break
    try:
        is_object = isinstance(_parsed(taken[-1].removeprefix(codecs.BOM_UTF8)), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        stream.put_back(b"".join(taken))
        return None
    taken[0] = taken[0].removeprefix(codecs.BOM_UTF8)
    return _json_texts(itertools.chain(taken, lines), field)


def _json_texts(lines: Iterator[bytes], field: str) -> Iterator[tuple[str, bytes, int]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = _parsed(line)
            text = fields[field]
        except (ValueError, RecursionError):
            raise Malformed(f"line {number:,} is not JSON; it may be cut off") from None
        except (KeyError, TypeError):
            known = ", ".join(map(repr, fields)) if isinstance(fields, dict) else "no object"
            raise Malformed(
                f"line {number:,} has no field {field!r} (there: {known[:200]}); choose one with --text-column"
            ) from None
        if not isinstance(text, str):
            raise Malformed(f"line {number:,}: the field {field!r} is not text")
        # A lone surrogate has no UTF-8: it is met where other invalid bytes are.
        yield f"line-{number:09d}", text.encode("utf-8", "surrogatepass"), 0


def _parsed(line: bytes) -> Any:
    """A line of JSON; bytes that are no UTF-8 become lone surrogates in its strings."""
    return json.loads(line.decode("utf-8", "surrogateescape"))


# --- text -------------------------------------------------------------------------------------------------------------


def _text_pieces(stream: ByteStream) -> Iterator[tuple[str, bytes]]:
    """One text as documents, whose concatenation is the text: whole if short, else cut after blank lines."""
    head = stream.peek(WHOLE_TEXT_BYTES + 1)
    if b"\0" in head[:TAR_BLOCK_BYTES]:
        raise Malformed(
            "is not UTF-8 text (NUL bytes at its start); if it is UTF-16: iconv -f UTF-16 -t UTF-8"
        )
    if len(head) <= WHOLE_TEXT_BYTES:
        if text := stream.take(WHOLE_TEXT_BYTES):
            yield "text", text
        return
    number = 0
    while window := stream.peek(WHOLE_TEXT_BYTES):
        number += 1
        yield f"text-{number:06d}", stream.take(_cut(window))


def _cut(window: bytes) -> int:
    """Where the next document of a book ends: after a blank line, else a line, else any whole character."""
    if blank := re.compile(rb"\n(?:\r?\n)+").search(window, BOOK_DOCUMENT_BYTES):
        return blank.end()
    if len(window) < WHOLE_TEXT_BYTES:
        return len(window)
    if line := window.rfind(b"\n") + 1:
        return line
    position = len(window) - 1
    while position > len(window) - 4 and (window[position] & 0xC0) == 0x80:  # a continuation byte of UTF-8
        position -= 1
    return position


def _normalised(documents: list[tuple[str, bytes, int]], reading: Reading) -> DocumentBatch:
    """Documents as they are to be stored. Most need nothing done, and cost next to nothing here."""
    members, texts = [member for member, _, _ in documents], [raw for _, raw, _ in documents]
    marks = line_ends = 0
    for index, text in enumerate(texts):
        if text.startswith(codecs.BOM_UTF8) and documents[index][2] == 0:
            texts[index] = text = text[len(codecs.BOM_UTF8) :]
            marks += 1
        if b"\r" in text and (count := text.count(b"\r\n")):
            texts[index] = text.replace(b"\r\n", b"\n")
            line_ends += count
    batch, replaced = TextBatch.of(members, texts), 0
    if not batch.is_utf8():
        replaced = _replace_invalid(texts, documents, reading.invalid_utf8)
        batch = TextBatch.of(members, texts)
    changed = 0
    if reading.normalisation == "hugging-face":
        blanks_done = [as_hugging_face(text) for text in texts]
        changed = sum(map(operator.ne, texts, blanks_done))
        batch = TextBatch.of(members, blanks_done) if changed else batch
    return DocumentBatch(
        texts=batch,
        byte_order_marks=marks,
        crlf_line_ends=line_ends,
        invalid_utf8_documents=replaced,
        normalised_documents=changed,
    )


def _replace_invalid(
    texts: list[bytes], documents: list[tuple[str, bytes, int]], invalid_utf8: InvalidUtf8
) -> int:
    """Puts U+FFFD where bytes are not UTF-8, and counts the documents that had some; raises Malformed if that is refused."""
    replaced = 0
    for index, (member, raw, first_byte) in enumerate(documents):
        _refuse_other_formats(member, raw, first_byte)
        if (wrong := _first_invalid_byte(raw)) is not None:
            if invalid_utf8 == "refuse":
                raise Malformed(
                    f"member {member!r} is not valid UTF-8 at byte {first_byte + wrong:,}; "
                    "--invalid-utf8 replace reads such bytes as U+FFFD"
                )
            texts[index] = texts[index].decode(errors="replace").encode()
            replaced += 1
    return replaced


def _refuse_other_formats(member: str, raw: bytes, first_byte: int) -> None:
    if first_byte == 0 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Malformed(f"member {member!r} is UTF-16; make it UTF-8 first: iconv -f UTF-16 -t UTF-8")


def _first_invalid_byte(raw: bytes) -> int | None:
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            return error.start
    return None
