"""Looks into data sets: token ids back to text, where each came from, and what differs between two builds."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.tokenizer import Tokenizer
from storage.datasets import DROPPED_NAME, Dataset
from storage.documents.rows import Split, document_columns, find_document_row, pick_document_rows
from storage.documents.tables import read_dropped
from storage.errors import DatasetError
from tasks.dropped import DroppedDocument
from tasks.tokenizers import load_tokenizer

_LOOK_TOKENS = 600
_AROUND_TOKENS = 40
_LISTED = 20  # documents that a comparison names


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a document of a data set came from, and where its tokens are. `text` is the document as its tokens tell it.

    `token` is the place in the document that was asked for, and `around` the text there.
    """

    split: Split
    shard: str
    shard_sha256: str
    member: str
    sha256: str
    text_bytes: int
    token_start: int
    token_count: int
    text: str
    token: int | None = None
    around: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What came, went and changed from one data set to another. Documents are compared by content.

    `came` and `went` name the first documents (shard, member); `moved` counts those in another split.
    """

    settings: dict[str, tuple[Any, Any]]
    sources_came: list[str]
    sources_went: list[str]
    sources_changed: list[str]
    documents_same: int
    documents_came: int
    documents_went: int
    documents_moved: int
    came: list[str]
    went: list[str]


def first_text(dataset: Dataset, split: Split = "train") -> str:
    """The beginning of a split as text, decoded from its tokens."""
    return load_tokenizer(dataset.tokenizer_json()).decode(dataset.token_file(split).open()[:_LOOK_TOKENS])


def trace_token(dataset: Dataset, split: Split, offset: int) -> Origin:
    """The document that a token of a split belongs to. Raises DatasetError if the split is shorter."""
    tokens = dataset.facts(split).tokens
    if not 0 <= offset < tokens:
        raise DatasetError(
            f"{dataset.reference}: {split} has tokens 0 to {tokens - 1:,}; there is none at {offset:,}"
        )
    row = find_document_row(dataset.path / "documents.parquet", token=(split, offset))
    assert row is not None, "documents cover all tokens"
    return _origin(dataset, load_tokenizer(dataset.tokenizer_json()), row, offset - row["token_start"])


def trace_document(dataset: Dataset, sha256: str) -> Origin:
    """The document with this content hash, or the beginning of it. Raises DatasetError if there is none."""
    try:
        prefix = bytes.fromhex(sha256)
    except ValueError:
        raise DatasetError(
            f"{sha256!r} is no hash: it takes an even number of hex digits, up to 64"
        ) from None
    row = find_document_row(dataset.path / "documents.parquet", sha256_prefix=prefix)
    if not prefix or row is None:
        raise DatasetError(f"{dataset.reference}: has no document with a sha256 that begins with {sha256!r}")
    return _origin(dataset, load_tokenizer(dataset.tokenizer_json()), row)


def sample_documents(dataset: Dataset, split: Split, count: int, seed: int) -> Iterator[Origin]:
    """Documents of a split drawn by chance, the same for the same seed."""
    path = dataset.path / "documents.parquet"
    of_split = np.flatnonzero(document_columns(path, ["split"])["split"] == (split == "val"))
    chosen = random.Random(seed).sample(range(len(of_split)), min(count, len(of_split)))  # nosec B311 # a sample of documents that is the same for the same seed
    tokenizer = load_tokenizer(dataset.tokenizer_json())
    for row in pick_document_rows(path, of_split[sorted(chosen)].tolist()):
        yield _origin(dataset, tokenizer, row)


def dropped_documents(dataset: Dataset, step: str | None = None) -> Iterator[DroppedDocument]:
    """The documents that quality steps left out of a data set, or one of them, in corpus order; a step's name may have
    hyphens for its blanks. Raises ValueError if that step left out none."""
    steps = [one.step for one in dataset.manifest.left_out]
    asked = step.replace("-", " ") if step else None
    if asked and asked not in steps:
        known = ", ".join(steps) or "no step"
        raise ValueError(f"{dataset.reference}: no step {step!r} left documents out of it (there: {known})")
    if not steps:
        return iter(())
    return (DroppedDocument(**row) for row in read_dropped(dataset.path / DROPPED_NAME, asked))  # type: ignore[arg-type]


def _origin(dataset: Dataset, tokenizer: Tokenizer, row: dict[str, Any], token: int | None = None) -> Origin:
    ids = dataset.token_file(row["split"]).open()[
        row["token_start"] : row["token_start"] + row["token_count"]
    ]
    around = None
    if token is not None:
        around = tokenizer.decode(ids[max(0, token - _AROUND_TOKENS) : token + _AROUND_TOKENS])
    sources = {source.name: source.sha256 for source in dataset.manifest.sources}
    return Origin(
        split=row["split"],
        shard=row["shard"],
        shard_sha256=sources[row["shard"]],
        member=row["member"],
        sha256=row["sha256"].hex(),
        text_bytes=row["text_bytes"],
        token_start=row["token_start"],
        token_count=row["token_count"],
        text=tokenizer.decode(ids),
        token=token,
        around=around,
    )


def difference(before: Dataset, after: Dataset) -> Difference:
    """What came, went and changed from one data set to another."""
    old, new = ({source.name: source.sha256 for source in one.manifest.sources} for one in (before, after))
    paths = [each.path / "documents.parquet" for each in (before, after)]
    one, two = (document_columns(path, ["hash", "split"]) for path in paths)
    came = ~np.isin(two["hash"], one["hash"])
    went = ~np.isin(one["hash"], two["hash"])
    in_val = np.isin(two["hash"], one["hash"][one["split"]]) & ~two["split"]
    in_train = np.isin(two["hash"], one["hash"][~one["split"]]) & two["split"]
    settings = ("tokenizer_fingerprint", "vocabulary_size", "val_fraction", "split_rule", "dtype")
    pairs = {name: (getattr(before.manifest, name), getattr(after.manifest, name)) for name in settings}
    return Difference(
        settings={name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        sources_came=[name for name in new if name not in old],
        sources_went=[name for name in old if name not in new],
        sources_changed=[name for name in new if name in old and new[name] != old[name]],
        documents_same=int((~came).sum()),
        documents_came=int(came.sum()),
        documents_went=int(went.sum()),
        documents_moved=int((in_val | in_train).sum()),
        came=_named(paths[1], came),
        went=_named(paths[0], went),
    )


def _named(path: Path, chosen: npt.NDArray[np.bool_]) -> list[str]:
    """The first of these documents, by shard and member."""
    rows = pick_document_rows(path, np.flatnonzero(chosen)[:_LISTED].tolist())
    return [f"{row['shard']} {row['member']}" for row in rows]
