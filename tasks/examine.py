"""The one pass over stored text that quality steps need, as a worker makes it: what a document is dropped for whatever the
others are, and what it will be compared with the others by."""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.words import Hashes, characters, combined, hashed_ngrams, hashed_words, letter_share, words_of
from storage.documents.parts import DocumentPart, StoredBatch, read_texts
from storage.examined import Column, ExaminedFiles, LocalDrop, Names
from storage.files import atomic_file, named_errors
from storage.forms import ArchiveOfShards, Reading, is_plain_text, read_archive, read_batches
from storage.shards import Shard, find_shards
from tasks.ingest import COPIES_OF_A_DOCUMENT
from tasks.languages import LOOKED_AT_CHARACTERS, language_of
from tasks.quality import SHINGLE_WORDS, SIGNATURE_NUMBERS, SIGNATURE_SEED, QualityConfig, Step, bands_for
from tasks.workers import Workers

_FILTER_BITS = 24
_UTF8_BYTES_A_CHARACTER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """How documents are examined: what all parts have in common.

    `test_ngrams` is a file with the n-grams of all test texts; of `test_texts`, `short_test_texts` have fewer words than
    an n-gram, and so find nothing.
    """

    quality: QualityConfig
    folder: Path
    test_ngrams: Path | None = None
    test_texts: int = 0
    short_test_texts: int = 0


def prepare_examination(quality: QualityConfig, folder: Path) -> Examination:
    """Reads the test texts once, for all workers, and leaves their n-grams below `folder`.

    Raises ValueError if no test text is as long as an n-gram, and what reading raises if a file is missing or damaged.
    """
    if not quality.decontaminate:
        return Examination(quality=quality, folder=folder)
    size, ngrams, found = quality.decontamination_words, [np.empty(0, np.uint64)], list[int]()
    for texts in _test_texts(shard for place in quality.decontaminate for shard in find_shards(place)):
        hashes, counts = hashed_ngrams(*hashed_words(texts), size)
        ngrams.append(np.unique(hashes))
        found += counts.tolist()
    if not any(found):
        raise ValueError(
            f"{', '.join(quality.decontaminate)}: no test text has {size} words; choose fewer with decontamination_words"
        )
    content = np.unique(np.concatenate(ngrams)).astype("<u8").tobytes()
    path = folder / f"test-ngrams-{hashlib.sha256(content).hexdigest()[:16]}"
    with atomic_file(path) as file:
        file.write(content)
    short = sum(count == 0 for count in found)
    return Examination(
        quality=quality, folder=folder, test_ngrams=path, test_texts=len(found), short_test_texts=short
    )


def examine(
    parts: Sequence[tuple[int, DocumentPart]], examination: Examination, workers: Workers
) -> list[ExaminedFiles]:
    """Examines stored texts, part by part; each comes with its number, since two shards may have the same bytes."""
    examined = []
    for number, part in parts:
        with workers.memory(COPIES_OF_A_DOCUMENT * part.longest_bytes):
            examined.append(workers.run(examine_part, part, number, examination))
    return examined


def examine_part(part: DocumentPart, number: int, examination: Examination) -> ExaminedFiles:
    """Reads a part once, and leaves below the examination's folder what was found in its documents."""
    files = ExaminedFiles(path=examination.folder / f"{number:06d}", documents=part.documents)
    members, sha256, sizes = list[str](), list[bytes](), list[int]()
    dropped, columns = list[LocalDrop](), list[list[Column]]()
    for stored in read_texts(part):
        found = _Batch(stored, examination)
        dropped += [LocalDrop(len(members) + row, *why) for row, why in sorted(found.dropped.items())]
        columns.append(found.columns)
        members += stored.members
        sha256 += stored.sha256
        sizes += stored.joined()[1].tolist()
    further = [np.concatenate(column) for column in zip(*columns, strict=True)]
    files.write(Names(members=members, dropped=dropped), sizes, sha256, further)
    return files


def write_shingles(part: DocumentPart, files: ExaminedFiles, rows: list[int]) -> list[int]:
    """Leaves the sets of 5 neighbouring words of some documents of a part, as hashes, to be compared; returns their sizes.

    On disk: 8 bytes for each different one, about 1.2 times the bytes of the texts.
    """
    wanted, sets, first = set(rows), list[Column](), 0
    for stored in read_texts(part):
        texts = [text for row, text in enumerate(stored.texts, start=first) if row in wanted]
        shingles, counts = _shingles(*hashed_words(texts))
        sets += [np.unique(one) for one in np.split(shingles, np.cumsum(counts)[:-1])] if texts else []
        first += len(stored)
    files.write_sets(sets)
    return [len(one) for one in sets]


class _Batch:
    """Neighbouring documents: which are `dropped`, by row, and further `columns` to compare the others by."""

    def __init__(self, stored: StoredBatch, examination: Examination) -> None:
        self._texts, self._quality = stored.texts, examination.quality
        self.dropped: dict[int, tuple[Step, str]] = {}
        for row, text in enumerate(self._texts):
            if why := local_verdict(text, self._quality):
                self.dropped[row] = why
        self.columns: list[Column] = []
        if self._quality.looks_at_words:
            rows = self._rest()
            words, counts = hashed_words([self._texts[row] for row in rows])
            if examination.test_ngrams:
                self._drop_test_texts(rows, words, counts, _test_ngrams(examination.test_ngrams))
            if (similarity := self._quality.drop_near_duplicates) is not None:
                bands = np.zeros((len(self._texts), bands_for(similarity)[0]), np.uint64)
                bands[rows] = band_hashes(words, counts, similarity)
                bands[list(self.dropped)] = 0
                self.columns = list(bands.T)

    def _rest(self) -> list[int]:
        return [row for row in range(len(self._texts)) if row not in self.dropped]

    def _drop_test_texts(
        self, rows: list[int], words: Hashes, counts: npt.NDArray[np.int64], test: "_TestNgrams"
    ) -> None:
        size = self._quality.decontamination_words
        ngrams, found = hashed_ngrams(words, counts, size)
        places = test.places(ngrams)
        owners, firsts = np.unique(np.searchsorted(np.cumsum(found), places, side="right"), return_index=True)
        starts = np.cumsum(found) - found
        for owner, place in zip(owners.tolist(), places[firsts].tolist(), strict=True):
            begin = place - int(starts[owner])
            shared = words_of(self._texts[rows[owner]].decode())[begin : begin + size]
            self.dropped[rows[owner]] = "test text", " ".join(shared)


def local_verdict(text: bytes, quality: QualityConfig) -> tuple[Step, str] | None:
    """The step that drops a document for its own text alone, and why; None if none does."""
    if quality.minimum_characters is not None or quality.maximum_characters is not None:
        count = characters(text)
        if quality.minimum_characters is not None and count < quality.minimum_characters:
            return "too short", f"{count:,} characters"
        if quality.maximum_characters is not None and count > quality.maximum_characters:
            return "too long", f"{count:,} characters"
    if quality.minimum_letters is not None and (share := letter_share(text)) < quality.minimum_letters:
        return "too few letters", f"{share:.4f} of the characters"
    if quality.languages:
        beginning = text[: LOOKED_AT_CHARACTERS * _UTF8_BYTES_A_CHARACTER].decode(errors="ignore")
        if (language := language_of(beginning)) not in quality.languages:
            return "other language", language
    return None


def band_hashes(words: Hashes, counts: npt.NDArray[np.int64], similarity: float) -> npt.NDArray[np.uint64]:
    """A row a text, a hash for each band of its MinHash signature; 0 in all where a text has no words.

    Texts that are as similar as asked for have an equal hash in one of the columns, with a probability of 99 %.
    """
    from rensa import RMinHash

    shingles, found = _shingles(words, counts)
    offsets = np.concatenate([[0], np.cumsum(found)]).astype(np.uint64)
    digests = RMinHash.digest_matrix_from_flat_token_hashes(
        shingles, offsets, SIGNATURE_NUMBERS, SIGNATURE_SEED
    )
    signatures = np.array(digests.to_rows(), np.uint32).reshape(len(found), SIGNATURE_NUMBERS)
    bands, numbers = bands_for(similarity)
    hashes = [combined(signatures[:, band * numbers :][:, :numbers]) for band in range(bands)]
    return np.where(found[:, None] > 0, np.stack(hashes, axis=1), np.uint64(0))


def _shingles(words: Hashes, counts: npt.NDArray[np.int64]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    return hashed_ngrams(words, counts, SHINGLE_WORDS, short_texts=True)


def _test_texts(shards: Iterable[Shard]) -> Iterator[list[bytes]]:
    """The test texts, some at a time; a book is one text, which no cut parts."""
    for shard in shards:
        batches = (batch.texts for batch in read_batches(shard, Reading(invalid_utf8="replace")))
        try:
            if is_plain_text(shard):
                yield [b"".join(batch.utf8 for batch in batches)]
                continue
            for batch in batches:
                ends = np.cumsum(batch.sizes).tolist()
                yield [batch.utf8[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        except ArchiveOfShards:
            yield from _test_texts(read_archive(shard))


class _TestNgrams:
    """The n-grams of all test texts, to be asked for millions of others."""

    def __init__(self, path: Path) -> None:
        with named_errors(path):
            self._hashes = np.fromfile(path, "<u8")
        # Almost none is among them, which a table of 16 MiB tells faster than a search does.
        self._may_be = np.zeros(1 << _FILTER_BITS, bool)
        self._may_be[self._start(self._hashes)] = True

    def places(self, ngrams: Hashes) -> npt.NDArray[np.int64]:
        """Where in `ngrams` one of the test texts' stands."""
        places = np.flatnonzero(self._may_be[self._start(ngrams)])
        found = np.searchsorted(self._hashes, ngrams[places]).clip(max=len(self._hashes) - 1)
        return places[self._hashes[found] == ngrams[places]]

    @staticmethod
    def _start(hashes: Hashes) -> Any:
        return hashes >> np.uint64(64 - _FILTER_BITS)


@functools.lru_cache(maxsize=1)
def _test_ngrams(path: Path) -> _TestNgrams:
    """Loaded once: a worker examines many parts, and the file is named after its content."""
    return _TestNgrams(path)
