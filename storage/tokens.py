"""Token files: raw little-endian unsigned integers, no header, each document followed by the end-of-text id.

They are written part by part, so that parts can be encoded side by side, and joined in corpus order; a document's
split is decided by a hash of its content, so that no other document and no order can move it.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from storage.documents import DocumentRow, Split, StoredDocument, write_document_rows
from storage.errors import DatasetError
from storage.files import Checksums, publish_folder, staged_folder, write_json

TokenArray = npt.NDArray[np.unsignedinteger]
TokenDtype = Literal["uint16", "uint32"]

SPLITS: tuple[Split, ...] = ("train", "val")
SPLIT_RULE = (
    "val if the first 8 bytes of sha256(text), big-endian, divided by 2^64 < val_fraction, else train"
)
_COPY_BYTES = 4 << 20


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
    """The tokens of one stored shard: a folder with train.bin, val.bin, documents.parquet and part.json."""

    path: Path
    train: SplitFacts
    val: SplitFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """A file of token ids, to be read without loading it."""

    path: Path
    dtype: TokenDtype
    tokens: int

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
    return "val" if int.from_bytes(sha256[:8], "big") < val_fraction * 2.0**64 else "train"


def write_token_part(
    path: Path,
    documents: Iterable[tuple[StoredDocument, TokenArray]],
    *,
    val_fraction: float,
    dtype: TokenDtype,
    end_of_text: int,
) -> TokenPart:
    """Writes encoded documents, in their order, as the part at `path`; the folder appears only whole."""
    stored_dtype = np.dtype(dtype).newbyteorder("<")
    separator = np.array([end_of_text], stored_dtype).tobytes()
    facts: dict[Split, SplitFacts] = {split: SplitFacts() for split in SPLITS}
    rows: list[DocumentRow] = []
    with staged_folder(path.parent) as stage:
        with contextlib.ExitStack() as stack:
            files = {split: stack.enter_context((stage / f"{split}.bin").open("wb")) for split in SPLITS}
            for document, ids in documents:
                split = split_of(document.sha256, val_fraction)
                assert not len(ids) or int(ids.max()) <= np.iinfo(stored_dtype).max, (
                    "an id above the vocabulary"
                )
                files[split].write(ids.astype(stored_dtype, copy=False).tobytes())
                files[split].write(separator)
                rows.append(
                    DocumentRow(
                        split=split,
                        member=document.member,
                        sha256=document.sha256,
                        text_bytes=document.text_bytes,
                        token_start=facts[split].tokens,
                        token_count=len(ids) + 1,
                    )
                )
                facts[split] += SplitFacts(documents=1, tokens=len(ids) + 1, text_bytes=document.text_bytes)
        write_document_rows(stage / "documents.parquet", rows)
        write_json(stage / "part.json", {split: asdict(facts[split]) for split in SPLITS})
        publish_folder(stage, path, is_done=lambda folder: read_token_part(folder) is not None)
    return TokenPart(path=path, train=facts["train"], val=facts["val"])


def read_token_part(path: Path) -> TokenPart | None:
    """The finished part at `path`, or None. The folder is renamed into place, so if it is there it is whole."""
    try:
        facts = json.loads((path / "part.json").read_text(encoding="utf-8"))
        return TokenPart(path=path, train=SplitFacts(**facts["train"]), val=SplitFacts(**facts["val"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # not there, or no record of ours
        return None


def join_files(target: BinaryIO, sources: Iterable[Path]) -> tuple[int, str, list[str]]:
    """Appends files one after another in streaming chunks; returns bytes, sha256, and sha256 by block of 64 MiB."""
    sums = Checksums()
    for chunk in _chunks(sources):
        target.write(chunk)
        sums.update(chunk)
    return sums.bytes, sums.whole(), sums.blocks()


def _chunks(sources: Iterable[Path]) -> Iterator[bytes]:
    for source in sources:
        with source.open("rb") as file:
            while chunk := file.read(_COPY_BYTES):
                yield chunk
