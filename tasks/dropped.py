"""Which documents of a whole corpus are dropped, and in favour of which: the comparison of all with all.

It is decided in corpus order, from what `tasks.examine` found in each part, so neither workers nor their finishing order
can change it. First go the documents that are dropped for themselves, then exact duplicates, then near ones.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from storage.documents.parts import DocumentPart, keep_documents
from storage.examined import FIRST_OF_SHA256, FURTHER, TEXT_BYTES, Column, ExaminedFiles, Names
from tasks.examine import write_shingles
from tasks.quality import STEPS, QualityConfig, Step, bands_for
from tasks.workers import Workers

# Of a document with others that stay: so that thousands from one template, different enough to stay, end some day. Those
# that it meets in most bands, and so are most similar, come first.
_MOST_COMPARISONS = 1000
_SETS_IN_MEMORY = 1024
_NAMES_IN_MEMORY = 64
_EXACT, _NEAR = (1 + STEPS.index(step) for step in ("exact duplicate", "near duplicate"))

Documents = npt.NDArray[np.int32]


class DroppedDocument(NamedTuple):
    """A document that is left out: where it came from, the sha256 of its text in hex, the step that dropped it, and why."""

    shard: str
    member: str
    sha256: str
    step: Step
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCount:
    """What a step drops."""

    documents: int
    text_bytes: int


class Corpus:
    """All documents that were examined, numbered in corpus order."""

    def __init__(self, parts: Sequence[tuple[DocumentPart, ExaminedFiles]]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(files.documents for _, files in parts)])
        assert self.starts[-1] < 1 << 31, "documents are numbered in 32 bits"

    def column(self, number: int) -> Column:
        """A column of all documents: 8 bytes each."""
        column = np.empty(self.starts[-1], np.uint64)
        for start, (_, files) in zip(self.starts.tolist(), self.parts, strict=False):
            column[start : start + files.documents] = files.column(number)
        return column

    def place(self, document: int) -> tuple[int, int]:
        """The part of a document, and its row there."""
        part = int(np.searchsorted(self.starts, document, side="right")) - 1
        return part, document - int(self.starts[part])

    def rows(self, part: int) -> slice:
        """The documents of a part."""
        return slice(int(self.starts[part]), int(self.starts[part + 1]))


class Dropped:
    """Which documents of a corpus stay, and why the others do not. 9 bytes a document.

    `steps` has a number for each document: 0 if it stays, else 1 + the place of its step in STEPS. `favoured` is the
    document that a duplicate gives way to, and `similarity` how similar they are.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        count = int(corpus.starts[-1])
        self.steps = np.zeros(count, np.uint8)
        self.favoured = np.full(count, -1, np.int32)
        self.similarity = np.zeros(count, np.float32)

    def kept(self, part: int) -> npt.NDArray[np.bool_]:
        """For each document of a part, by the part's place in the corpus, whether it stays."""
        kept: npt.NDArray[np.bool_] = self.steps[self.corpus.rows(part)] == 0
        return kept

    def kept_parts(self, folder: Path) -> list[DocumentPart]:
        """The parts with those documents only that stay; which those are is noted below `folder`."""
        return [
            keep_documents(
                part,
                folder / f"{number:06d}.kept",
                self.kept(number),
                files.column(TEXT_BYTES).astype(np.int64),
            )
            for number, (part, files) in enumerate(self.corpus.parts)
        ]

    def counts(self) -> dict[Step, StepCount]:
        """What each step drops, in their order, without those that drop nothing."""
        documents, text_bytes = np.zeros(len(STEPS) + 1, np.int64), np.zeros(len(STEPS) + 1, np.int64)
        for part, (_, files) in enumerate(self.corpus.parts):
            steps = self.steps[self.corpus.rows(part)]
            if steps.any():
                np.add.at(documents, steps, 1)
                np.add.at(text_bytes, steps, files.column(TEXT_BYTES).astype(np.int64))
        return {
            step: StepCount(documents=int(documents[number]), text_bytes=int(text_bytes[number]))
            for number, step in enumerate(STEPS, start=1)
            if documents[number]
        }

    def rows(self, shards: Sequence[str]) -> Iterator[DroppedDocument]:
        """The list of dropped documents, in corpus order; `shards` names the parts. Memory: a part's names, and some others'."""
        names_of = functools.lru_cache(_NAMES_IN_MEMORY)(self._names)
        for part, shard in enumerate(shards):
            steps = self.steps[self.corpus.rows(part)]
            if not steps.any():
                continue
            names, sha256 = names_of(part), self.corpus.parts[part][1].sha256()
            details = {one.row: one.detail for one in names.dropped}
            for row in np.flatnonzero(steps).tolist():
                document = int(self.corpus.starts[part]) + row
                if steps[row] in (_EXACT, _NEAR):
                    other, place = self.corpus.place(int(self.favoured[document]))
                    is_like = (
                        "the same as"
                        if steps[row] == _EXACT
                        else f"{self.similarity[document]:.4f} similar to"
                    )
                    details[row] = f"{is_like} {shards[other]} {names_of(other).members[place]}"
                step = STEPS[steps[row] - 1]
                yield DroppedDocument(shard, names.members[row], sha256[row].hex(), step, details[row])

    def _names(self, part: int) -> Names:
        return self.corpus.parts[part][1].names()


def choose_dropped(
    parts: Sequence[tuple[DocumentPart, ExaminedFiles]], quality: QualityConfig, workers: Workers
) -> Dropped:
    """Which documents are dropped, of parts in corpus order that were examined with this same `quality`.

    Memory: about 35 bytes a document, 0.3 GB for OpenWebText's 8 million, and 16 more for each band in which a document
    meets another one. Disk, beside what was examined: see `write_shingles`, for documents that meet another one.
    """
    dropped = Dropped(Corpus(parts))
    for part, (_, files) in enumerate(parts):
        for local in files.names().dropped:
            dropped.steps[int(dropped.corpus.starts[part]) + local.row] = 1 + STEPS.index(local.step)
    if quality.drop_exact_duplicates:
        _drop_exact(dropped)
    if quality.drop_near_duplicates is not None:
        _drop_near(dropped, quality.drop_near_duplicates, workers)
    return dropped


def _drop_exact(dropped: Dropped) -> None:
    """Drops each document but the first of those with the same sha256."""
    starts = dropped.corpus.column(FIRST_OF_SHA256)
    starts[dropped.steps > 0] = 0
    documents, _ = _meeting(starts)
    del starts
    seen: dict[bytes, int] = {}
    for document, sha256 in _sha256(dropped.corpus, np.sort(documents)):
        first = seen.setdefault(sha256, document)
        if first != document:
            dropped.steps[document], dropped.favoured[document] = _EXACT, first
            dropped.similarity[document] = 1


def _sha256(corpus: Corpus, documents: Documents) -> Iterator[tuple[int, bytes]]:
    """The content hashes of documents, given in corpus order."""
    ends = np.searchsorted(documents, corpus.starts)
    for part in np.flatnonzero(np.diff(ends)).tolist():
        sha256 = corpus.parts[part][1].sha256()
        for document in documents[ends[part] : ends[part + 1]].tolist():
            yield document, sha256[document - int(corpus.starts[part])]


def _meeting(values: Column) -> tuple[Documents, Documents]:
    """The documents whose value another one has too, and a number for each value, from 0. A value of 0 is none."""
    order = np.argsort(values, kind="stable").astype(np.int32)
    ranked = values[order]
    is_same = np.concatenate([[False], (ranked[1:] == ranked[:-1]) & (ranked[1:] != 0), [False]])
    del ranked
    meets = is_same[1:] | is_same[:-1]
    groups = np.cumsum(meets & ~is_same[:-1], dtype=np.int32)[meets] - 1
    return order[meets], groups


def _drop_near(dropped: Dropped, similarity: float, workers: Workers) -> None:
    """Drops each document that is so similar to an earlier one that stays."""
    documents, groups = _all_meetings(dropped, bands_for(similarity)[0])
    if not len(documents):
        return
    met, firsts = np.unique(documents, return_index=True)
    shingles = _Shingles(dropped.corpus, met, workers)
    staying: dict[int, list[int]] = defaultdict(list)
    for document, own in zip(met.tolist(), np.split(groups, firsts[1:]), strict=True):
        own_groups = own.tolist()
        shared = Counter(other for group in own_groups for other in staying[group])
        candidates = sorted(shared, key=lambda other: (-shared[other], other))
        if found := shingles.first_similar(document, candidates[:_MOST_COMPARISONS], similarity):
            dropped.favoured[document], dropped.similarity[document] = found
            dropped.steps[document] = _NEAR
            continue
        for group in own_groups:
            if len(staying[group]) < _MOST_COMPARISONS:
                staying[group].append(document)


def _all_meetings(dropped: Dropped, bands: int) -> tuple[Documents, Documents]:
    """(document, group) for each group of documents with an equal band, in the order of documents."""
    documents, groups, count = list[Documents](), list[Documents](), 0
    for band in range(bands):
        values = dropped.corpus.column(FURTHER + band)
        values[dropped.steps > 0] = 0
        found, group = _meeting(values)
        documents.append(found)
        groups.append(group + np.int32(count))
        count += int(group[-1]) + 1 if len(group) else 0
    together = np.concatenate(documents)
    order = np.argsort(together, kind="stable")
    return together[order], np.concatenate(groups)[order]


class _Shingles:
    """The sets of 5 neighbouring words of the documents that meet others, on disk, and how similar two of them are."""

    def __init__(self, corpus: Corpus, documents: Documents, workers: Workers) -> None:
        self._corpus, self._documents = corpus, documents
        ends = np.searchsorted(documents, corpus.starts)
        parts = np.flatnonzero(np.diff(ends)).tolist()
        rows = [(documents[ends[part] : ends[part + 1]] - corpus.starts[part]).tolist() for part in parts]
        calls = ((*corpus.parts[part], own) for part, own in zip(parts, rows, strict=True))
        sizes = [np.array(one, np.int64) for one in workers.map(write_shingles, calls)]
        self._sizes = np.concatenate(sizes)
        self._begins = np.concatenate([np.cumsum(one) - one for one in sizes])
        self._read = functools.lru_cache(_SETS_IN_MEMORY)(self._of)

    def first_similar(self, document: int, others: list[int], similarity: float) -> tuple[int, float] | None:
        """The first of others that is so similar, and how similar it is: the Jaccard index of the two sets."""
        own = self._read(document)
        for other in others:
            size = self._size(other)
            if min(size, len(own)) / max(size, len(own)) < similarity:  # and so cannot share enough
                continue
            shared = len(np.intersect1d(own, self._read(other), assume_unique=True))
            if (found := shared / (len(own) + size - shared)) >= similarity:
                return other, found
        return None

    def _size(self, document: int) -> int:
        return int(self._sizes[np.searchsorted(self._documents, document)])

    def _of(self, document: int) -> Column:
        number = np.searchsorted(self._documents, document)
        files = self._corpus.parts[self._corpus.place(document)[0]][1]
        return files.read_set(int(self._begins[number]), int(self._sizes[number]))
