"""A shard of OpenWebText, a tar inside xz, read as whole documents and proved complete; and the writer of the same layout.

Nothing of an archive ever becomes a path on this disk: members are read from the stream, and their names are data.

The proof, before the last document is believed: the xz stream reaches its end, its block checks hold, nothing but
legal padding or further xz streams follow, and the tar ends with its end marker. `tarfile.open(…, "r|xz")` misses up
to 32 bytes cut off the end, and `lzma.open` ignores trailing garbage, so neither is used to read.
"""

import hashlib
import io
import lzma
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from storage.errors import CorpusError, ShardError
from storage.files import atomic_file
from storage.workspace import natural_order

InvalidUtf8 = Literal["refuse", "replace"]

XZ_MAGIC = b"\xfd7zXZ\x00"
MAX_DOCUMENT_BYTES = 1 << 30
# Text shrinks 3 to 4 times under xz, a book of one repeated line some hundred times; beyond this it is a bomb.
MAX_EXPANSION = 1000
_GRACE_BYTES = 64 << 20
_DECODER_MEMORY_BYTES = 256 << 20  # `xz -9` asks for 65 MiB
_READ_BYTES = 256 << 10
_TAR_BLOCK_BYTES = 512
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

    Raises CorpusError, saying what was looked for, if there are none.
    """
    path = Path(corpus).expanduser()
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.suffix in (".xz", ".txt") and _is_visible_file(p, path)]
        missing = f"{path}: no .xz or .txt file in this folder; name the folder that holds the shards"
        root = path
    elif path.is_file():
        files, root, missing = [path], path.parent, ""
    elif any(character in corpus for character in "*?["):
        root = Path(path.anchor or ".")
        pattern = path.relative_to(path.anchor) if path.anchor else path
        files = [p for p in root.glob(str(pattern)) if p.is_file()]
        missing = f"{corpus}: no file matches this pattern"
    else:
        raise CorpusError(f"{path}: no such file or folder, and no corpus of that name")
    shards = [
        Shard(path=file, name=file.relative_to(root).as_posix(), compressed_bytes=file.stat().st_size)
        for file in files
    ]
    if not shards:
        raise CorpusError(missing)
    return sorted(shards, key=lambda shard: natural_order(shard.name))


def read_documents(shard: Shard, *, invalid_utf8: InvalidUtf8 = "refuse") -> Iterator[Document]:
    """The documents of a shard, in order. Believe none of them before the iterator has ended without an error.

    A file that ends in `.xz` must be xz; inside may be a tar of texts or one text. Any other file is one text.
    Raises ShardError if anything is not as it should be, naming the file and the member.
    """
    with shard.path.open("rb") as file:
        if shard.compressed_bytes == 0:
            raise ShardError(shard.path, "the file is empty")
        is_xz = shard.path.suffix == ".xz"
        chunks = _decompress(file, shard) if is_xz else iter(lambda: file.read(_READ_BYTES), b"")
        stream = _ByteStream(chunks)
        try:
            is_tar = is_xz and _is_tar_header(stream.peek(_TAR_BLOCK_BYTES))
            members = _tar_members(stream) if is_tar else _text_pieces(stream)
            count = 0
            for member, raw in members:
                count += 1
                yield _document(member, raw, invalid_utf8)
        except _Malformed as error:
            raise ShardError(shard.path, str(error)) from None
        if count == 0:
            raise ShardError(shard.path, "holds no documents")


def uncompressed_bytes(shard: Shard) -> int:
    """Size of the shard's content from the index at the end of the xz file, without decompressing anything."""
    if shard.path.suffix != ".xz":
        return shard.compressed_bytes
    with shard.path.open("rb") as file:
        return sum(_xz_block_sizes(file, shard))


def unpack_shards(archive: Path, folder: Path) -> Iterator[Path]:
    """Unpacks a tar or tar.xz of shards into `folder`, by the last part of each member's name; yields each file.

    Raises ShardError if the archive is not whole; believe none of the files before the iterator has ended.
    """
    shard = Shard(path=archive, name=archive.name, compressed_bytes=archive.stat().st_size)
    with archive.open("rb") as file:
        is_xz = file.read(len(XZ_MAGIC)) == XZ_MAGIC
        file.seek(0)
        chunks = _decompress(file, shard) if is_xz else iter(lambda: file.read(_READ_BYTES), b"")
        try:
            for member, content in _tar_members(_ByteStream(chunks)):
                path = folder / PurePosixPath(member).name
                with atomic_file(path) as target:
                    target.write(content)
                yield path
        except _Malformed as error:
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


class _Malformed(Exception):
    """Why a stream cannot be a shard; the reader adds the path."""


def _is_visible_file(path: Path, root: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)


# --- xz ---------------------------------------------------------------------------------------------------------------


def _decompress(file: BinaryIO, shard: Shard) -> Iterator[bytes]:
    """Decompressed chunks of one or more xz streams; ends only when all of the file is accounted for."""
    limit = shard.compressed_bytes * MAX_EXPANSION + _GRACE_BYTES
    data, produced = file.read(_READ_BYTES), 0
    if not data.startswith(XZ_MAGIC):
        raise _Malformed("is not xz (its first bytes are not xz's); rename it to .txt if it is plain text")
    while data:
        decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_DECODER_MEMORY_BYTES)
        while not decoder.eof:
            try:
                chunk = decoder.decompress(data, max_length=_READ_BYTES * 4)
            except lzma.LZMAError as error:
                raise _Malformed(f"xz data is corrupt ({str(error).lower()}); fetch the file again") from None
            produced += len(chunk)
            if produced > limit:
                raise _Malformed(f"expands to more than {MAX_EXPANSION} times its size: a decompression bomb")
            yield chunk
            data = file.read(_READ_BYTES) if decoder.needs_input and not decoder.eof else b""
            if decoder.needs_input and not decoder.eof and not data:
                raise _Malformed("is cut off: its xz stream has no end; fetch the file again")
        if decoder.check == lzma.CHECK_NONE:
            raise _Malformed("has no integrity check; compress it again with: xz --check=crc64")
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
                raise _Malformed("has bytes after the end of its xz stream; fetch the file again")
            return rest
        data = file.read(_READ_BYTES)
        if not data:
            if padding % 4:
                raise _Malformed("has bytes after the end of its xz stream; fetch the file again")
            return b""


def _xz_block_sizes(file: BinaryIO, shard: Shard) -> Iterator[int]:
    """Uncompressed size of each block, last stream first (the .xz file format, sections 2.1.2 and 4)."""
    if file.read(6) != XZ_MAGIC:
        raise ShardError(shard.path, "is not xz (its first bytes are not xz's)")
    end = file.seek(0, io.SEEK_END)
    while end > 0:
        file.seek(max(0, end - 12))
        footer = file.read(12)
        if footer[8:] == bytes(4):  # stream padding
            end -= 4
            continue
        index_bytes = (int.from_bytes(footer[4:8], "little") + 1) * 4
        if footer[10:] != b"YZ" or index_bytes > end - 24:
            raise ShardError(shard.path, "is cut off: it does not end as xz files do")
        file.seek(end - 12 - index_bytes)
        try:
            sizes = _xz_index(file.read(index_bytes))
        except IndexError:
            raise ShardError(shard.path, "its xz index is corrupt; fetch the file again") from None
        yield from (uncompressed for _, uncompressed in sizes)
        end -= 24 + index_bytes + sum(-(-unpadded // 4) * 4 for unpadded, _ in sizes)


def _xz_index(index: bytes) -> list[tuple[int, int]]:
    """(unpadded, uncompressed) size of each block; IndexError if the index is cut off."""
    position = 1  # after the index indicator

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = index[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    return [(number(), number()) for _ in range(number())]


# --- tar --------------------------------------------------------------------------------------------------------------


class _ByteStream:
    """Exact reads from an iterator of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""
        self._position = 0

    def peek(self, size: int) -> bytes:
        """Up to `size` next bytes, less only at the end of the stream; they stay in the stream."""
        available = len(self._buffer) - self._position
        if available < size:
            pieces = [self._buffer[self._position :]]
            while available < size and (chunk := next(self._chunks, None)) is not None:
                pieces.append(chunk)
                available += len(chunk)
            self._buffer, self._position = b"".join(pieces), 0
        return self._buffer[self._position : self._position + size]

    def take(self, size: int) -> bytes:
        """Up to `size` next bytes, less only at the end of the stream."""
        data = self.peek(size)
        self._position += len(data)
        return data


def _is_tar_header(block: bytes) -> bool:
    """Whether a block of 512 bytes carries the checksum of a tar header: the sum of its bytes, its own field as blanks."""
    if len(block) < _TAR_BLOCK_BYTES:
        return False
    stored = block[148:156].strip(b" \0")
    return (
        bool(re.fullmatch(rb"[0-7]{1,7}", stored))
        and int(stored, 8) == sum(block) - sum(block[148:156]) + 256
    )


def _tar_members(stream: _ByteStream) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each regular file, for the GNU, ustar and PAX forms; ends only at a proved end of the tar."""
    extended: dict[str, bytes] = {}
    while True:
        header = stream.take(_TAR_BLOCK_BYTES)
        if header == bytes(_TAR_BLOCK_BYTES):
            break
        if not _is_tar_header(header):
            cut = len(header) < _TAR_BLOCK_BYTES
            raise _Malformed("its tar is cut off: no end marker" if cut else "its tar has a corrupt header")
        kind = header[156:157]
        name = _member_name(header, extended)
        size = _member_size(header, extended, name)
        content = stream.take(size + -size % _TAR_BLOCK_BYTES)
        if len(content) < size + -size % _TAR_BLOCK_BYTES:
            raise _Malformed(f"its tar is cut off inside member {name!r}")
        content = content[:size]
        if kind == b"L":
            extended["path"] = content.rstrip(b"\0")
        elif kind == b"x":
            extended |= _pax_records(content)
        elif kind == b"5" or (kind == b"\0" and name.endswith("/")):
            extended = {}
        elif kind in b"0\0":
            _refuse_unsafe(name)
            extended = {}
            yield name, content
        elif kind != b"g" or _pax_records(content):  # global PAX records may speak of times and comments only
            raise _Malformed(f"tar member {name!r} is not a regular file (type {kind.decode('latin-1')!r})")
    if extended:
        raise _Malformed("its tar is cut off: a long name without its member")
    if stream.take(_TAR_BLOCK_BYTES) != bytes(_TAR_BLOCK_BYTES):
        raise _Malformed("its tar is cut off: only half an end marker")
    while rest := stream.take(_READ_BYTES):
        if rest.count(0) != len(rest):
            raise _Malformed("its tar has data after the end marker")


def _member_name(header: bytes, extended: dict[str, bytes]) -> str:
    raw = extended.get("path")
    if raw is None:
        raw = header[:100].split(b"\0", 1)[0]
        prefix = header[345:500].split(b"\0", 1)[0]
        if (
            header[257:263] == b"ustar\0" and prefix
        ):  # GNU's magic is "ustar  ", and its prefix field is other things
            raw = prefix + b"/" + raw
    return raw.decode("utf-8", "backslashreplace")


def _member_size(header: bytes, extended: dict[str, bytes], name: str) -> int:
    field, base = (extended["size"], 10) if "size" in extended else (header[124:136].strip(b" \0"), 8)
    if header[124] & 0x80 and base == 8:
        size = int.from_bytes(header[125:136], "big")  # GNU's base 256, for sizes from 8 GiB
    elif re.fullmatch(rb"[0-9]{1,20}" if base == 10 else rb"[0-7]{1,12}", field):
        size = int(field, base)
    else:
        raise _Malformed(f"tar member {name!r} has no valid size")
    if size > MAX_DOCUMENT_BYTES:
        raise _Malformed(f"tar member {name!r} claims {size:,} bytes; the limit is {MAX_DOCUMENT_BYTES:,}")
    return size


def _pax_records(content: bytes) -> dict[str, bytes]:
    """Path and size from PAX records, each `LENGTH KEY=VALUE\\n` where LENGTH counts the whole record."""
    records: dict[str, bytes] = {}
    while content:
        match = re.match(rb"([0-9]{1,10}) ([^=]+)=", content)
        length = int(match[1]) if match else 0
        if match is None or not match.end() < length <= len(content) or content[length - 1 : length] != b"\n":
            raise _Malformed("its tar has a corrupt PAX header")
        key = match[2].decode("utf-8", "backslashreplace")
        if key.startswith("GNU.sparse"):
            raise _Malformed("its tar has a sparse file, which is not text")
        if key in ("path", "size"):
            records[key] = content[match.end() : length - 1]
        content = content[length:]
    return records


def _refuse_unsafe(name: str) -> None:
    """Our reader writes no member to disk, but other tools would: a shard with such a name is not what it says."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise _Malformed(f"tar member {name!r} points outside its archive; do not extract this file")


# --- text -------------------------------------------------------------------------------------------------------------


def _text_pieces(stream: _ByteStream) -> Iterator[tuple[str, bytes]]:
    """One text as documents, whose concatenation is the text: whole if short, else cut after blank lines."""
    if len(stream.peek(WHOLE_TEXT_BYTES + 1)) <= WHOLE_TEXT_BYTES:
        if text := stream.take(WHOLE_TEXT_BYTES):
            yield "text", text
        return
    number = 0
    while window := stream.peek(WHOLE_TEXT_BYTES):
        number += 1
        yield f"text-{number:06d}", stream.take(_cut(window))


def _cut(window: bytes) -> int:
    """Where the next document of a book ends: after a blank line, else a line, else any whole character."""
    if len(window) <= BOOK_DOCUMENT_BYTES:
        return len(window)
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


def _document(member: str, raw: bytes, invalid_utf8: InvalidUtf8) -> Document:
    if raw.startswith(XZ_MAGIC):
        raise _Malformed(
            f"holds further .xz files ({member!r}); unpack it first: tar -xf, then name the folder"
        )
    had_mark = raw.startswith(b"\xef\xbb\xbf")
    utf8 = raw[3:] if had_mark else raw
    crlf = utf8.count(b"\r\n")
    if crlf:
        utf8 = utf8.replace(b"\r\n", b"\n")
    replaced = False
    if not utf8.isascii():
        try:
            utf8.decode()
        except UnicodeDecodeError as error:
            if invalid_utf8 == "refuse":
                raise _Malformed(
                    f"member {member!r} is not valid UTF-8 at byte {error.start:,}; "
                    "--invalid-utf8 replace reads such bytes as U+FFFD"
                ) from None
            utf8, replaced = utf8.decode(errors="replace").encode(), True
    return Document(
        member=member,
        utf8=utf8,
        had_byte_order_mark=had_mark,
        crlf_line_ends=crlf,
        invalid_utf8_replaced=replaced,
    )


def sha256_text(utf8: bytes) -> bytes:
    """The identity of a document: sha256 of its text, 32 bytes."""
    return hashlib.sha256(utf8).digest()
