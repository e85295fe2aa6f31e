"""Tokens that an earlier data set has already: with a shard more, or one less, all others are copied and not encoded again.

A data set serves if its tokens are what encoding would give: the same tokenizer, program, split and way of reading, and no
documents left out. What is taken from it is verified first, against the checksums it was published with.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from storage.blocks import FileRange, block_ranges, range_sha256
from storage.datasets import Dataset, list_datasets
from storage.documents.parts import DocumentPart
from storage.documents.rows import RowRange
from storage.manifests import Source
from storage.tokens import SPLIT_RULE, SPLITS, SplitFacts, TokenPart, token_dtype
from tasks.tokenizers import TokenizerFile, encoder_facts
from tasks.workers import Workers

_log = logging.getLogger("brickroad.dataset")


def earlier_tokens(
    parts: Sequence[DocumentPart],
    tokenizer: TokenizerFile,
    val_fraction: float,
    folder: Path,
    workers: Workers,
) -> dict[int, TokenPart]:
    """The tokens of those parts, by number, that a data set below `folder` has; the newest of them first."""
    found: dict[int, TokenPart] = {}
    wanted = {number: part.path.stem for number, part in enumerate(parts) if not part.kept}
    for dataset in reversed(list_datasets(folder)[0]):
        if not _serves(dataset, tokenizer, val_fraction):
            continue
        there = _token_parts(dataset)
        usable = {number: there[stem] for number, stem in wanted.items() if stem in there}
        if usable and _is_intact(dataset, list(usable.values()), workers):
            found |= usable
            wanted = {number: stem for number, stem in wanted.items() if number not in usable}
    return found


def in_order(count: int, earlier: dict[int, TokenPart], fresh: Iterator[TokenPart]) -> Iterator[TokenPart]:
    """All parts of a data set by number: those that are there, and the others as they are made."""
    for number in range(count):
        yield earlier[number] if number in earlier else next(fresh)
    assert next(fresh, None) is None, "as many are fresh as are not there"


def _serves(dataset: Dataset, tokenizer: TokenizerFile, val_fraction: float) -> bool:
    manifest = dataset.manifest
    return (
        manifest.tokenizer_fingerprint == tokenizer.fingerprint
        and manifest.dtype == token_dtype(tokenizer.vocabulary_size)
        and manifest.build.get("encoder") == encoder_facts(tokenizer)
        and (manifest.val_fraction, manifest.split_rule) == (val_fraction, SPLIT_RULE)
        and not manifest.quality
    )


def _token_parts(dataset: Dataset) -> dict[str, TokenPart]:
    """Where the tokens and rows of each source of a data set lie, by the name of its stored text."""
    size = dataset.token_file("train").itemsize
    starts, row, parts = dict.fromkeys(SPLITS, 0), 0, {}
    for source in dataset.manifest.sources:
        ranges: dict[str, Any] = {}
        for split, facts in zip(SPLITS, _facts(source), strict=True):
            length = facts.tokens * size
            ranges[split] = facts
            ranges[f"{split}_tokens"] = FileRange(
                path=dataset.token_file(split).path, start=starts[split], bytes=length
            )
            starts[split] += length
        rows = RowRange(path=dataset.path / "documents.parquet", start=row, count=source.documents)
        row += source.documents
        parts[source.stored_as] = TokenPart(**ranges, rows=rows, is_transient=False)
    return parts


def _facts(source: Source) -> tuple[SplitFacts, SplitFacts]:
    val = SplitFacts(
        documents=source.val_documents, tokens=source.val_tokens, text_bytes=source.val_text_bytes
    )
    train = SplitFacts(
        documents=source.documents - val.documents,
        tokens=source.train_tokens,
        text_bytes=source.text_bytes - val.text_bytes,
    )
    return train, val


def _is_intact(dataset: Dataset, parts: list[TokenPart], workers: Workers) -> bool:
    """Whether the blocks that hold these parts, and the rows, have the checksums they were published with."""
    calls, expected = [], []
    for name in (*(f"{split}.bin" for split in SPLITS), "documents.parquet"):
        facts = dataset.manifest.files[name]
        blocks = block_ranges(dataset.path / name, facts.bytes)
        needed = range(len(blocks)) if name == "documents.parquet" else _blocks(parts, dataset.path / name)
        calls += [(blocks[number],) for number in needed]
        expected += [facts.block_sha256[number] for number in needed]
    try:
        if list(workers.map(range_sha256, calls)) == expected:
            return True
    except OSError as error:
        _log.warning("%s: tokens cannot be taken from it (%s)", dataset.reference, error)
        return False
    _log.warning("%s: is damaged, so its tokens are encoded again", dataset.reference)
    return False


def _blocks(parts: list[TokenPart], path: Path) -> list[int]:
    """The numbers of the blocks of a token file that hold tokens of these parts."""
    pieces = (part.tokens(split) for part in parts for split in SPLITS)
    return sorted({number for piece in pieces if piece.path == path for number in piece.blocks()})
