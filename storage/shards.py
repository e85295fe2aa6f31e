"""A shard of OpenWebText, a tar inside xz, read as whole documents and proved complete; and the writer of the same layout.

Nothing of an archive ever becomes a path on this disk: members are read from the stream, and their names are data.

The proof, before the last document is believed: the xz stream reaches its end, its block checks hold, nothing but
legal padding or further xz streams follow, and the tar ends with its end marker. `tarfile.open(…, "r|xz")` misses up
to 32 bytes cut off the end, and `lzma.open` ignores trailing garbage, so neither is used to read.
"""

import codecs
import hashlib
import io
import lzma
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from storage.errors import CorpusError, Malformed, ShardError
from storage.files import atomic_file, named_errors
from storage.tar_stream import TAR_BLOCK_BYTES, ByteStream, is_tar, tar_members
from storage.workspace import natural_order
from storage.xz_index import XZ_MAGIC, uncompressed_size

InvalidUtf8 = Literal["refuse", "replace"]

# Text shrinks 3 to 4 times under xz, a book of one repeated line some hundred times; beyond this it is a bomb.
MAX_EXPANSION = 1000
_GRACE_BYTES = 64 << 20
_DECODER_MEMORY_BYTES = 256 << 20  # `xz -9` asks for 65 MiB
_CHECKS = (lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256)
_READ_BYTES = 256 << 10
_SUFFIXES = (".xz", ".txt")
_WILDCARD = re.compile(r"[*?\[]")
# Lone surrogates stand for bytes of a name that are not UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# A text file up to this size is one document; a longer one is a book, cut into documents at blank lines.
WHOLE_TEXT_BYTES = 64 << 10
BOOK_DOCUMENT_BYTES = 4 << 10  # near OpenWebText's mean document of 4,963 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of a corpus. `name` is its path below the corpus, and decides its place in the corpus's order."""

    path: Path
    name: str
    compressed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text of a shard, as valid UTF-8 with `\\n` line ends and no byte order mark, and what was done to get there."""

    member: str
    utf8: bytes
    had_byte_order_mark: bool
    crlf_line_ends: int
    invalid_utf8_replaced: bool


def find_shards(corpus: str) -> list[Shard]:
    """The shards of a folder (its `.xz` and `.txt` files, at any depth), a file, or a glob, in natural order of names.

    Hidden files are passed over, and links to folders are not followed. Raises CorpusError, saying what was looked
    for, if there are none.
    """
    path = Path(corpus).expanduser()
    if path.is_dir():
        root, files = path, [file for file in _visible_files(path) if file.suffix in _SUFFIXES]
        missing = f"{path}: no .xz or .txt file in this folder; name the folder that holds the shards"
    elif path.is_file():
        root, files, missing = path.parent, [path], ""
    elif _WILDCARD.search(corpus):
        root, files = _matching_files(path)
        missing = f"{corpus}: no file matches this pattern"
    else:
        raise CorpusError(f"{path}: no such file or folder, and no corpus of that name")
    if not files:
        raise CorpusError(missing)
    return sorted((_shard(file, root) for file in files), key=lambda shard: natural_order(shard.name))


def read_documents(shard: Shard, *, invalid_utf8: InvalidUtf8 = "refuse") -> Iterator[Document]:
    """The documents of a shard, in order. Believe none of them before the iterator has ended without an error.

    A file that ends in `.xz` must be xz. What is inside, or any other file, is a tar of texts or one text.
    Raises ShardError if anything is not as it should be, naming the file and the member.
    """
    with named_errors(shard.path), shard.path.open("rb") as file:
        if shard.compressed_bytes == 0:
            raise ShardError(shard.path, "the file is empty")
        try:
            stream = ByteStream(_content(file, shard))
            in_tar = is_tar(stream.peek(TAR_BLOCK_BYTES))
            count = 0
            for member, raw in tar_members(stream) if in_tar else _text_pieces(stream):
                count += 1
                first_byte = 0 if in_tar else stream.taken - len(raw)
                yield _document(member, raw, first_byte, invalid_utf8)
        except Malformed as error:
            raise ShardError(shard.path, str(error)) from None
        if count == 0:
            raise ShardError(shard.path, "holds no documents")


def uncompressed_bytes(shard: Shard) -> int:
    """Size of the shard's content from the index at the end of the xz file, without decompressing anything.

    Raises ShardError if the file does not end as xz files do.
    """
    if shard.path.suffix != ".xz":
        return shard.compressed_bytes
    with named_errors(shard.path), shard.path.open("rb") as file:
        try:
            return uncompressed_size(file)
        except Malformed as error:
            raise ShardError(shard.path, str(error)) from None


def unpack_shards(archive: Path, folder: Path) -> Iterator[Path]:
    """Unpacks a tar or tar.xz of shards into `folder`, by the last part of each member's name; yields each file.

    Raises ShardError if the archive is not whole; believe none of the files before the iterator has ended.
    """
    shard = Shard(path=archive, name=archive.name, compressed_bytes=archive.stat().st_size)
    seen: set[str] = set()
    with named_errors(archive), archive.open("rb") as file:
        is_xz = file.read(len(XZ_MAGIC)) == XZ_MAGIC
        file.seek(0)
        try:
            chunks = _decompress(file, shard) if is_xz else _chunks(file)
            for member, content in tar_members(ByteStream(chunks)):
                path = folder / PurePosixPath(member).name
                if path.name in seen:
                    raise Malformed(f"has two members named {path.name!r}")
                seen.add(path.name)
                with atomic_file(path) as target:
                    target.write(content)
                yield path
        except Malformed as error:
            raise ShardError(archive, str(error)) from None


def write_shard(path: Path, documents: Iterable[tuple[str, bytes]]) -> None:
    """Writes (member name, UTF-8 text) pairs as a shard of OpenWebText's layout. Same input, same bytes.

    The layout, from real shards: GNU tar, mode 0644, no owner, modification time 0; xz with a CRC64 check.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in documents:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o644
            tar.addfile(member, io.BytesIO(text))
    with atomic_file(path) as file:
        file.write(lzma.compress(buffer.getvalue(), format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64))


# --- finding ----------------------------------------------------------------------------------------------------------


def _visible_files(root: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; a folder that cannot be listed raises, it is not passed over."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(folder) / name for name in names if not name.startswith("."))


def _matching_files(pattern: Path) -> tuple[Path, list[Path]]:
    """The folder before the first wildcard, so that a name does not tell where the corpus lies, and what matches."""
    fixed = next(index for index, part in enumerate(pattern.parts) if _WILDCARD.search(part))
    root, rest = Path(*pattern.parts[:fixed]), str(Path(*pattern.parts[fixed:]))
    try:
        found = list(root.glob(rest))
    except ValueError as error:
        raise CorpusError(f"{pattern}: is not a pattern ({error})") from None
    return root, [path for path in found if not path.is_dir() and not _is_hidden(path.relative_to(root))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.parts)


def _shard(file: Path, root: Path) -> Shard:
    if _UNPRINTABLE.search(str(file)):
        raise CorpusError(f"{str(file)!a}: its name has control characters or is not UTF-8; rename it")
    if not file.is_file():
        raise CorpusError(f"{file}: is no file that can be read (a link to nothing?); mend or remove it")
    return Shard(path=file, name=file.relative_to(root).as_posix(), compressed_bytes=file.stat().st_size)


# --- xz ---------------------------------------------------------------------------------------------------------------


def _content(file: BinaryIO, shard: Shard) -> Iterator[bytes]:
    """The file's chunks, decompressed if its name says that it is xz."""
    if shard.path.suffix == ".xz":
        return _decompress(file, shard)
    if file.read(len(XZ_MAGIC)) == XZ_MAGIC:
        raise Malformed("is xz, but its name does not say so; rename it to end in .xz")
    file.seek(0)
    return _chunks(file)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_READ_BYTES):
        yield chunk


def _decompress(file: BinaryIO, shard: Shard) -> Iterator[bytes]:
    """Decompressed chunks of one or more xz streams; ends only when all of the file is accounted for."""
    limit = shard.compressed_bytes * MAX_EXPANSION + _GRACE_BYTES
    data, produced = file.read(_READ_BYTES), 0
    if not data.startswith(XZ_MAGIC):
        raise Malformed("is not xz (its first bytes are not xz's); rename it to .txt if it is plain text")
    while data:
        decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_DECODER_MEMORY_BYTES)
        while not decoder.eof:
            try:
                chunk = decoder.decompress(data, max_length=_READ_BYTES * 4)
            except lzma.LZMAError as error:
                raise Malformed(
                    f"cannot be decompressed ({str(error).lower()}); fetch the file again"
                ) from None
            produced += len(chunk)
            if produced > limit:
                raise Malformed(f"expands to more than {MAX_EXPANSION} times its size: a decompression bomb")
            yield chunk
            data = file.read(_READ_BYTES) if decoder.needs_input and not decoder.eof else b""
            if decoder.needs_input and not decoder.eof and not data:
                raise Malformed("is cut off: its xz stream has no end; fetch the file again")
        if decoder.check not in _CHECKS:  # a check of a kind unknown to liblzma would be passed over
            raise Malformed("has no integrity check that is known; compress it again with: xz --check=crc64")
        data = _after_stream(decoder.unused_data, file)


def _after_stream(data: bytes, file: BinaryIO) -> bytes:
    """What follows a finished xz stream: nothing, or the start of the next one after legal padding (zeros by fours)."""
    padding = 0
    while True:
        rest = data.lstrip(b"\0")
        padding += len(data) - len(rest)
        if rest:
            rest += file.read(_READ_BYTES)
            if padding % 4 or not rest.startswith(XZ_MAGIC):
                raise Malformed("has bytes after the end of its xz stream; fetch the file again")
            return rest
        data = file.read(_READ_BYTES)
        if not data:
            if padding % 4:
                raise Malformed("has bytes after the end of its xz stream; fetch the file again")
            return b""


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


def _document(member: str, raw: bytes, first_byte: int, invalid_utf8: InvalidUtf8) -> Document:
    """The document that `raw` is; `first_byte` is its place in the text it was cut from, 0 in a tar."""
    if first_byte == 0:
        _refuse_other_formats(member, raw)
    had_mark = first_byte == 0 and raw.startswith(codecs.BOM_UTF8)
    utf8 = raw[len(codecs.BOM_UTF8) :] if had_mark else raw
    crlf = utf8.count(b"\r\n")
    if crlf:
        utf8 = utf8.replace(b"\r\n", b"\n")
    replaced = False
    if (wrong := _first_invalid_byte(raw)) is not None:
        if invalid_utf8 == "refuse":
            raise Malformed(
                f"member {member!r} is not valid UTF-8 at byte {first_byte + wrong:,}; "
                "--invalid-utf8 replace reads such bytes as U+FFFD"
            )
        utf8, replaced = utf8.decode(errors="replace").encode(), True
    return Document(
        member=member,
        utf8=utf8,
        had_byte_order_mark=had_mark,
        crlf_line_ends=crlf,
        invalid_utf8_replaced=replaced,
    )


def _refuse_other_formats(member: str, raw: bytes) -> None:
    if raw.startswith(XZ_MAGIC):
        raise Malformed(
            f"holds further .xz files ({member!r}); unpack it first: tar -xf, then name the folder"
        )
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Malformed(f"member {member!r} is UTF-16; make it UTF-8 first: iconv -f UTF-16 -t UTF-8")


def _first_invalid_byte(raw: bytes) -> int | None:
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            return error.start
    return None


def sha256_text(utf8: bytes) -> bytes:
    """The identity of a document: sha256 of its text, 32 bytes."""
    return hashlib.sha256(utf8).digest()
