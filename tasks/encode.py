"""Stored text to token ids, part by part: what a worker does once there is a tokenizer."""

import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
_AT_ONCE = 16  # parts, in one call of a worker: four of characters take no longer than to ask for them


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
    encoded: Iterator[TokenPart], parts: Sequence[DocumentPart], encoding: Encoding, workers: Workers
) -> Iterator[TokenPart]:
    """The same `encoded` parts, while one worker compares the fast encoder with the reference on documents of some `parts`.

    Raises EncoderDiffers as soon as that is known.
    """
    some = [part for part in parts if part.documents]
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
) -> Iterator[PartToEncode]:
    """The parts of a data set, but those with an `earlier` number, of which tokens are there.

    Characters were counted when the text was stored, so that the number of their tokens is known before: then their
    places are, by `place(split, start, bytes)`. After a part of which they are not known there is no place for any.
    """
    own = encoding.tokenizer.encoder == "own"
    tokenizer = CharTokenizer.from_json(encoding.tokenizer.text()) if own else None
    ends: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    for number, part in enumerate(parts):
        places = None
        sizes = _token_bytes(part, tokenizer, encoding.val_fraction) if tokenizer else None
        if sizes:
            ranges = {split: place(split, ends[split], sizes[split]) for split in SPLITS}
            ends = {split: ends[split] + sizes[split] for split in SPLITS}
            places = TokenPlaces(**ranges)
        else:
            tokenizer = None
        if number not in earlier:
            yield PartToEncode(number=number, part=part, places=places)


def _token_bytes(
    part: DocumentPart, tokenizer: CharTokenizer, val_fraction: float
) -> dict[Split, int] | None:
    """How many bytes the tokens of each split will take, if the characters of the part are known."""
    characters = PartCharacters.noted(part, val_fraction)
    if characters is None:
        return None
    val = tokenizer.encoded_length(characters.val) + characters.val_documents
    both = tokenizer.encoded_length(characters.all) + characters.documents
    return {"train": (both - val) * tokenizer.dtype.itemsize, "val": val * tokenizer.dtype.itemsize}


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
