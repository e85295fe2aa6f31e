"""Data sets in the layouts of other programs, which read them as they are: nanoGPT, Megatron, Parquet, JSON lines.

nanoGPT    train.bin, val.bin as they are, meta.pkl            (karpathy/nanoGPT, data/shakespeare_char/prepare.py)
Megatron   train.bin + train.idx, val.bin + val.idx            (NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py)
Parquet    train.parquet, val.parquet: a list of ids a row
JSON lines train.jsonl.zst, val.jsonl.zst: a text a line
"""

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from storage.datasets import Dataset
from storage.documents.rows import Split, read_document_rows
from storage.documents.tables import write_token_lists
from storage.errors import DatasetError
from storage.files import atomic_file, link_or_copy
from storage.shards import write_zstd
from storage.tokens import SPLITS, TokenArray

ExportFormat = Literal["nanogpt", "megatron", "parquet", "jsonl"]

_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_VERSION = 1
_MEGATRON_INT32, _MEGATRON_UINT16 = 4, 8  # its DType codes
_COPIED_TOKENS = 1 << 22


def export_nanogpt(dataset: Dataset, folder: Path, characters: dict[int, str] | None) -> list[Path]:
    """The token files, and `meta.pkl` if the ids stand for `characters`; without it nanoGPT takes GPT-2's tokenizer.

    Raises DatasetError for a vocabulary beyond 65,536, since nanoGPT reads 16 bits.
    """
    if dataset.manifest.dtype != "uint16":
        raise DatasetError(
            f"{dataset.reference}: has a vocabulary of {dataset.manifest.vocabulary_size:,}, and nanoGPT reads ids of "
            "16 bits; choose --format megatron, or build with a smaller tokenizer"
        )
    files = [_linked(dataset, split, folder / f"{split}.bin") for split in SPLITS]
    if characters is not None:
        files.append(folder / "meta.pkl")
        with atomic_file(files[-1]) as file:
            file.write(_nanogpt_meta(dataset.manifest.vocabulary_size, characters))
    return files


def _nanogpt_meta(vocabulary_size: int, characters: dict[int, str]) -> bytes:
    """{"vocab_size", "itos", "stoi"} in pickle's protocol 2, spelt out: what reads it runs no code and imports nothing."""
    itos = b"".join(_pickled(number) + _pickled(text) for number, text in characters.items())
    number_of: dict[str, int] = {}
    for number, text in characters.items():
        number_of.setdefault(text, number)
    stoi = b"".join(_pickled(text) + _pickled(number) for text, number in number_of.items())
    items = [
        *(_pickled("vocab_size"), _pickled(vocabulary_size)),
        *(_pickled("itos"), b"}(" + itos + b"u"),
        *(_pickled("stoi"), b"}(" + stoi + b"u"),
    ]
    return b"\x80\x02}(" + b"".join(items) + b"u."


def _pickled(value: int | str) -> bytes:
    """BININT, or BINUNICODE."""
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    utf8 = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(utf8)) + utf8


def export_megatron(dataset: Dataset, folder: Path) -> list[Path]:
    """A .bin and an .idx a split; a document with its end-of-text is one sequence. 32-bit ids become its int32."""
    files = []
    is_16_bits = dataset.manifest.dtype == "uint16"
    code, width = (_MEGATRON_UINT16, 2) if is_16_bits else (_MEGATRON_INT32, 4)
    for split in SPLITS:
        tokens, index = folder / f"{split}.bin", folder / f"{split}.idx"
        if is_16_bits:
            _linked(dataset, split, tokens)
        else:
            with atomic_file(tokens) as file:
                for piece in _pieces(dataset.token_file(split).open()):
                    file.write(piece.astype("<i4").tobytes())
        counts = np.fromiter((row["token_count"] for row in _rows(dataset, split)), np.int64)
        with atomic_file(index) as file:
            file.write(_MEGATRON_MAGIC)
            file.write(struct.pack("<QBQQ", _MEGATRON_VERSION, code, len(counts), len(counts) + 1))
            file.write(counts.astype("<i4").tobytes())
            file.write(((np.cumsum(counts) - counts) * width).astype("<i8").tobytes())
            file.write(np.arange(len(counts) + 1, dtype="<i8").tobytes())
        files += [tokens, index]
    return files


def export_parquet(dataset: Dataset, folder: Path) -> list[Path]:
    """A Parquet file a split: `input_ids` (a list), `shard`, `member`, a row a document."""
    files = [folder / f"{split}.parquet" for split in SPLITS]
    for split, path in zip(SPLITS, files, strict=True):
        with atomic_file(path) as file:
            write_token_lists(file, _documents(dataset, split), dataset.manifest.dtype)
    return files


def export_jsonl(dataset: Dataset, folder: Path, texts: dict[Split, Iterable[str]]) -> list[Path]:
    """A file of JSON lines a split, compressed by Zstandard: `text`, `shard`, `member`."""
    files = [folder / f"{split}.jsonl.zst" for split in SPLITS]
    for split, path in zip(SPLITS, files, strict=True):
        lines = (
            json.dumps({"text": text, "shard": row["shard"], "member": row["member"]}, ensure_ascii=False)
            + "\n"
            for text, row in zip(texts[split], _rows(dataset, split), strict=True)
        )
        with atomic_file(path) as file:
            write_zstd(file, (line.encode("utf-8", "surrogatepass") for line in lines))
    return files


def documents_of(dataset: Dataset, split: Split) -> Iterator[TokenArray]:
    """The ids of each document of a split, without its end-of-text, in order."""
    return (ids[:-1] for _, _, ids in _documents(dataset, split))


def _documents(dataset: Dataset, split: Split) -> Iterator[tuple[str, str, TokenArray]]:
    tokens = dataset.token_file(split).open()
    for row in _rows(dataset, split):
        yield (
            row["shard"],
            row["member"],
            tokens[row["token_start"] : row["token_start"] + row["token_count"]],
        )


def _rows(dataset: Dataset, split: Split) -> Iterator[dict[str, Any]]:
    return (row for row in read_document_rows(dataset.path / "documents.parquet") if row["split"] == split)


def _linked(dataset: Dataset, split: Split, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(dataset.path / f"{split}.bin", path)
    return path


def _pieces(tokens: TokenArray) -> Iterator[TokenArray]:
    for start in range(0, len(tokens), _COPIED_TOKENS):
        yield tokens[start : start + _COPIED_TOKENS]
