"""Stored text to token ids, part by part: what a worker does once there is a tokenizer."""

import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.tokenizer import CharTokenizer
from storage.blocks import FileRange
from storage.documents.parts import DocumentPart, read_texts
from storage.documents.rows import Split
from storage.tokens import (
    SPLITS,
    EncodedBatch,
    TokenArray,
    TokenPart,
    TokenPlaces,
    are_val,
    token_dtype,
    write_token_part,
)
from tasks.characters import PartCharacters
from tasks.ingest import COPIES_OF_A_DOCUMENT
from tasks.tokenizers import FastEncoder, LibraryTokenizer, TokenizerFile, check_encoder
from tasks.workers import Workers

_CHECKED_ONE_IN = 8  # parts
_AT_ONCE = 4  # parts, in one call of a worker: one of characters takes no longer than to ask for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How stored text becomes tokens: what all parts of a data set have in common."""

    tokenizer: TokenizerFile
    folder: Path
    val_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PartToEncode:
    """A stored shard, by its number, since two shards may have the same bytes; and where its tokens belong, if that is known."""

    number: int
    part: DocumentPart
    places: TokenPlaces | None = None


def encode(parts: Sequence[PartToEncode], encoding: Encoding, workers: Workers) -> list[TokenPart]:
    """The tokens of stored texts, part by part. Raises EncoderDiffers if the fast encoder cannot be used."""
    encoded: list[TokenPart] = []
    for start in range(0, len(parts), _AT_ONCE):
        some = parts[start : start + _AT_ONCE]
        with workers.memory(COPIES_OF_A_DOCUMENT * max(each.part.longest_bytes for each in some)):
            encoded += workers.run(encode_parts, some, encoding, workers.resident_limit_bytes)
    return encoded


def encode_parts(
    parts: Sequence[PartToEncode], encoding: Encoding, resident_limit_bytes: int
) -> list[TokenPart]:
    """The tokens of some stored shards, one after another, as a worker makes them."""
    return [_encode_part(each, encoding, resident_limit_bytes) for each in parts]


def _encode_part(each: PartToEncode, encoding: Encoding, resident_limit_bytes: int) -> TokenPart:
    """The tokens of one stored shard, as a worker makes them."""
    encoder = _encoder(encoding.tokenizer, resident_limit_bytes)
    return write_token_part(
        encoding.folder / f"{each.number:06d}",
        _encoded(each.part, encoding, encoder),
        token_dtype(encoding.tokenizer.vocabulary_size),
        each.places,
    )


def checked(
    encoded: Iterator[TokenPart], parts: Sequence[PartToEncode], encoding: Encoding, workers: Workers
) -> Iterator[TokenPart]:
    """The same `encoded` parts, while one worker compares the fast encoder with the reference on documents of some `parts`.

    Raises EncoderDiffers as soon as that is known.
    """
    some = [each.part for each in parts if each.part.documents]
    chosen = [part for part in some if int(part.shard_sha256[:8], 16) % _CHECKED_ONE_IN == 0] or some[:1]
    if encoding.tokenizer.encoder != "gigatoken" or not chosen:
        yield from encoded
        return
    with ThreadPoolExecutor(1) as beside:
        checking = beside.submit(_check, chosen, encoding, workers)
        for part in encoded:
            if checking.done():
                checking.result()
            yield part
        checking.result()


def _check(parts: Sequence[DocumentPart], encoding: Encoding, workers: Workers) -> None:
    with workers.memory(COPIES_OF_A_DOCUMENT * max(part.longest_bytes for part in parts)):
        workers.run(check_parts, parts, encoding, workers.resident_limit_bytes)


def check_parts(parts: Sequence[DocumentPart], encoding: Encoding, resident_limit_bytes: int) -> None:
    """Compares the fast encoder with the reference on a document of each part, as a worker does. Raises EncoderDiffers."""
    encoder = _encoder(encoding.tokenizer, resident_limit_bytes)
    assert isinstance(encoder, FastEncoder)
    reference = LibraryTokenizer(encoding.tokenizer.text())
    for part in parts:
        any(check_encoder(encoder, reference, stored.texts) for stored in read_texts(part))


def parts_to_encode(
    parts: Sequence[DocumentPart],
    earlier: Collection[int],
    encoding: Encoding,
    place: Callable[[Split, int, int], FileRange],
) -> list[PartToEncode]:
    """The parts of a data set, but those with an `earlier` number, of which tokens are there.

    Characters were counted when the text was stored, so that the number of their tokens is known before: then their
    places are, by `place(split, start, bytes)`.
    """
    numbered = [PartToEncode(number=number, part=part) for number, part in enumerate(parts)]
    if encoding.tokenizer.encoder == "own":
        numbered = _placed(numbered, encoding, place)
    return [each for each in numbered if each.number not in earlier]


def _placed(
    numbered: list[PartToEncode], encoding: Encoding, place: Callable[[Split, int, int], FileRange]
) -> list[PartToEncode]:
    """The same parts with their places, if the characters of all are known."""
    tokenizer = CharTokenizer.from_json(encoding.tokenizer.text())
    ends: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    placed = []
    for each in numbered:
        characters = PartCharacters.noted(each.part, encoding.val_fraction)
        if characters is None:
            return numbered
        val = tokenizer.encoded_length(characters.val) + characters.val_documents
        train = tokenizer.encoded_length(characters.all) + characters.documents - val
        ranges = {}
        for split, tokens in zip(SPLITS, (train, val), strict=True):
            size = tokens * tokenizer.dtype.itemsize
            ranges[split] = place(split, ends[split], size)
            ends[split] += size
        placed.append(replace(each, places=TokenPlaces(**ranges)))
    return placed


def sample_part(part: DocumentPart, val_fraction: float, share: float) -> list[str]:
    """The train documents of a stored shard whose hash falls into the first `share` of all hashes."""
    texts: list[str] = []
    for stored in read_texts(part):
        # The split looks at the first 8 bytes of the hash, this at the last 8: neither tells anything of the other.
        is_chosen = ~are_val(stored.sha256, val_fraction)
        is_chosen &= are_val([digest[::-1] for digest in stored.sha256], share) if share < 1 else True
        texts += [text.decode() for text in itertools.compress(stored.texts, is_chosen)]
    return texts


@functools.lru_cache(maxsize=1)
def _encoder(
    tokenizer: TokenizerFile, resident_limit_bytes: int
) -> CharTokenizer | FastEncoder | LibraryTokenizer:
    """Loaded once: a worker encodes many parts with one tokenizer."""
    if tokenizer.encoder == "own":
        return CharTokenizer.from_json(tokenizer.text())
    if tokenizer.encoder == "gigatoken":
        return FastEncoder(tokenizer, resident_limit_bytes)
    return LibraryTokenizer(tokenizer.text())


def _encoded(
    part: DocumentPart, encoding: Encoding, encoder: CharTokenizer | FastEncoder | LibraryTokenizer
) -> Iterator[EncodedBatch]:
    for stored in read_texts(part):
        is_val = are_val(stored.sha256, encoding.val_fraction)
        ids: dict[Split, TokenArray] = {}
        token_counts = np.empty(len(is_val), np.int64)
        for split in SPLITS:
            own = is_val == (split == "val")
            ids[split], token_counts[own] = encoder.encode_documents(
                list(itertools.compress(stored.texts, own))
            )
        yield EncodedBatch(stored=stored, is_val=is_val, token_counts=token_counts, ids=ids)
