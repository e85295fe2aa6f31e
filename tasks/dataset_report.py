"""`report.html` of a data set: what is in it, as a page that a person likes to read; one file that needs no network."""

import itertools
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.tokenizer import CharacterCounts
from storage.datasets import Dataset
from storage.documents.rows import document_columns, pick_document_rows
from storage.errors import DatasetError
from storage.files import named_errors
from tasks.compression import Compression, measure_compression
from tasks.dropped import DroppedDocument
from tasks.look import dropped_documents, sample_documents
from tasks.pages import Bar, in_bytes, render_page
from tasks.quality import in_words

REPORT_NAME = "report.html"
_LENGTH_EDGES = [0, 64, 128, 256, 512, *(1024 * 2**power for power in range(11)), 1 << 40]  # bytes
_SCRIPTS_SHOWN = 12
_CHARACTERS_SHOWN = 40
_REPEATED_SHOWN = 10
_SAMPLES_SHOWN = 5
_SAMPLE_CHARACTERS = 900
_EXAMPLES_SHOWN = 5  # of each quality step
_BEFORE_QUALITY = ("ingest", "quality")  # stages that go over all text


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutStep:
    """What a quality step left out, and some of its documents."""

    what: str
    text_bytes: int
    examples: list[DroppedDocument]


def write_report(dataset: Dataset, characters: CharacterCounts) -> Path:
    """Writes `report.html` into the folder of a data set, which need not be published yet; returns its path."""
    documents = dataset.path / "documents.parquet"
    columns = document_columns(documents, ["hash", "split", "text_bytes", "token_count"])
    manifest, compression = dataset.manifest, measure_compression(dataset, columns)
    page = render_page(
        "dataset_report.html",
        dataset=dataset,
        manifest=manifest,
        total=manifest.train + manifest.val,
        lengths=_lengths(columns["text_bytes"]),
        median_bytes=int(np.median(columns["text_bytes"])),
        longest=_longest(documents, columns),
        scripts=_scripts(characters),
        characters=_frequent(characters),
        distinct=characters.distinct,
        coverage=_coverage(characters),
        compression=compression,
        tokenizers=_tokenizers(compression),
        left_out=_left_out(dataset),
        repeated=_repeated(documents, columns),
        samples=list(sample_documents(dataset, "train", _SAMPLES_SHOWN, seed=0)),
        sample_characters=_SAMPLE_CHARACTERS,
        stages=_stages(dataset),
    )
    path = dataset.path / REPORT_NAME
    with named_errors(path):
        path.write_bytes(page.encode("utf-8", "replace"))
    return path


def find_report(dataset: Dataset) -> Path:
    """Where the page of a data set is. Raises DatasetError if it is not there."""
    path = dataset.path / REPORT_NAME
    if dataset.prompts():
        raise DatasetError(
            f"{dataset.reference}: has no page, as it was made of prompts for a model; see: brickroad dataset show"
        )
    if not path.is_file():
        raise DatasetError(
            f"{path}: is not there; delete {dataset.path} and build the data set again to have it"
        )
    return path


def _lengths(text_bytes: Any) -> list[Bar]:
    """Documents by length, in classes that double."""
    counts, _ = np.histogram(text_bytes, _LENGTH_EDGES)
    pairs = itertools.pairwise(_LENGTH_EDGES)
    labels = [
        f"{in_bytes(low)} to {in_bytes(high)}" if high < 1 << 40 else f"{in_bytes(low)} and more"
        for low, high in pairs
    ]
    return _bars(list(zip(labels, counts.tolist(), strict=True)), keep_order=True)


def _longest(documents: Path, columns: dict[str, Any]) -> dict[str, Any]:
    return next(pick_document_rows(documents, [int(np.argmax(columns["text_bytes"]))]))


def _scripts(characters: CharacterCounts) -> list[Bar]:
    """Characters by script, as the first word of their Unicode names tells it."""
    totals: Counter[str] = Counter()
    for code_point, count in characters.pairs().tolist():
        totals[_script(chr(code_point))] += count
    return _bars(totals.most_common(_SCRIPTS_SHOWN))


def _script(character: str) -> str:
    kind = unicodedata.category(character)
    if kind[0] == "L":
        name = unicodedata.name(character, "unnamed").split(" ")[0].split("-")[0]
        return name if name == "CJK" else name.title()
    return {"Z": "blank", "C": "blank", "N": "numbers", "P": "punctuation", "S": "symbols", "M": "marks"}[
        kind[0]
    ]


def _frequent(characters: CharacterCounts) -> list[tuple[str, str, int]]:
    pairs = sorted(characters.pairs().tolist(), key=lambda pair: (-pair[1], pair[0]))[:_CHARACTERS_SHOWN]
    return [
        (
            chr(code) if chr(code).isprintable() and code != 32 else f"U+{code:04X}",
            unicodedata.name(chr(code), ""),
            n,
        )
        for code, n in pairs
    ]


def _coverage(characters: CharacterCounts) -> list[Bar]:
    """How many of the most frequent characters make up which share of all."""
    counts = np.sort(characters.pairs()[:, 1])[::-1]
    covered = np.cumsum(counts) / max(1, counts.sum())
    rows = [
        (share, int(np.searchsorted(covered, share)) + 1) for share in (0.9, 0.99, 0.999, 0.9999, 0.99999)
    ]
    return [
        Bar(
            label=f"{share:.3%} of all characters",
            amount=f"{min(number, len(counts)):,}",
            share=min(number, len(counts)) / len(counts),
        )
        for share, number in rows
    ]


def _tokenizers(compression: Compression) -> list[Bar]:
    """What a token of each tokenizer stands for; the data set's own is the first."""
    most = max(compression.by_tokenizer.values()) or 1.0
    labels = {
        "gpt2": "GPT-2's",
        "char": "characters",
        "one a character": "one token a character",
        "one a byte": "one token a byte",
    }
    own = next(iter(compression.by_tokenizer))
    return [
        Bar(
            label=labels.get(name, name) + (", this data set's" if name == own else ""),
            amount=f"{found:.2f}",
            share=found / most,
        )
        for name, found in compression.by_tokenizer.items()
    ]


def _left_out(dataset: Dataset) -> list[LeftOutStep]:
    """What each quality step left out, with the first of its documents."""
    found = []
    for one in dataset.manifest.left_out:
        documents = dropped_documents(dataset, one.step)
        found.append(
            LeftOutStep(
                what=in_words(one.step, one.documents),
                text_bytes=one.text_bytes,
                # No further than there are any: behind the last one, the rest of the list would be read.
                examples=list(itertools.islice(documents, min(one.documents, _EXAMPLES_SHOWN))),
            )
        )
    return found


def _repeated(documents: Path, columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Documents that stand there more than once, by content."""
    _, first, counts = np.unique(columns["hash"], return_index=True, return_counts=True)
    most = [index for index in np.lexsort((first, -counts))[:_REPEATED_SHOWN] if counts[index] > 1]
    numbers = sorted(first[most].tolist())
    rows = dict(zip(numbers, pick_document_rows(documents, numbers), strict=True))
    return [rows[first[index]] | {"count": int(counts[index])} for index in most]


def _stages(dataset: Dataset) -> list[Bar]:
    """The stages of the build, with the text that each went over a second."""
    seconds: dict[str, float] = dataset.manifest.build["stages"]
    kept_bytes = dataset.manifest.train.text_bytes + dataset.manifest.val.text_bytes
    all_bytes = kept_bytes + sum(one.text_bytes for one in dataset.manifest.left_out)
    longest = max(seconds.values(), default=0.0) or 1.0
    bars = []
    for name, each in seconds.items():
        text_bytes = all_bytes if name in _BEFORE_QUALITY else kept_bytes
        amount = f"{each:.2f} s, {in_bytes(text_bytes / max(each, 0.001))}/s"
        bars.append(Bar(label=name, amount=amount, share=each / longest))
    return bars


def _bars(pairs: Sequence[tuple[str, int]], *, keep_order: bool = False) -> list[Bar]:
    shown = [pair for pair in pairs if pair[1]] if not keep_order else _trimmed(list(pairs))
    most, total = max((count for _, count in shown), default=1), sum(count for _, count in pairs) or 1
    return [
        Bar(label=label, amount=f"{count:,} ({count / total:.1%})", share=count / most)
        for label, count in shown
    ]


def _trimmed(pairs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Without the empty classes at either end."""
    filled = [index for index, (_, count) in enumerate(pairs) if count]
    return pairs[filled[0] : filled[-1] + 1] if filled else []
