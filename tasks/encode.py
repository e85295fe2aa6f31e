"""Stored text to token ids, part by part: what a worker does once there is a tokenizer."""

import functools
import itertools
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.texts import Texts
from model.tokenizer import CharTokenizer
from storage.blocks import BLOCK_BYTES, BlockSink, FileRange
from storage.documents.parts import DocumentPart, read_texts
from storage.documents.rows import Split
from storage.tokens import (
    SPLITS,
    EncodedBatch,
    TokenPart,
    TokenPlaces,
    are_val,
    token_dtype,
    write_end_of_placed_part,
    write_placed_parts,
    write_token_parts,
)
from tasks.characters import PartCharacters, SplitCounts
from tasks.ingest import COPIES_OF_A_DOCUMENT
from tasks.tokenizers import CHECKED, Encodes, LibraryTokenizer, TokenizerFile, check_encoder, fast_encoder
from tasks.workers import Workers

_CHECKED_ONE_IN = 8  # parts
_SHORT_ONE_IN = 4  # of a block
PARTS_AT_ONCE = 16  # parts, in one call of a worker, which is idle from its answer to the next question


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How stored text becomes tokens: what all parts of a data set have in common."""

    tokenizer: TokenizerFile
    folder: Path
    val_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PartToEncode:
    """A stored shard, by its number, since two shards may have the same bytes."""

    number: int
    part: DocumentPart


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedPart:
    """A stored shard of which it is known where its tokens belong."""

    number: int
    part: DocumentPart
    places: TokenPlaces


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksToEncode:
    """Neighbouring blocks of the train tokens, by their numbers: the parts that begin in them, and the one before that
    reaches into them. One block, or those that a long part lies in."""

    path: Path
    numbers: range
    before: PlacedPart | None
    parts: list[PlacedPart]

    @property
    def name(self) -> str:
        """What is being made of which stored text, for messages."""
        first = self.before or self.parts[0]
        return f"block {self.numbers.start} of {self.path.name}, from {first.part.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBlock:
    """A block that is in its place, and parts that are: all that begin in it, or in it and the blocks before it."""

    number: int
    sha256: str
    parts: list[TokenPart]


def encode(parts: Sequence[PartToEncode], encoding: Encoding, workers: Workers) -> list[TokenPart]:
    """The tokens of stored texts, part by part. Raises EncoderDiffers if the fast encoder cannot be used."""
    encoded: list[TokenPart] = []
    for start in range(0, len(parts), PARTS_AT_ONCE):
        some = parts[start : start + PARTS_AT_ONCE]
        with workers.memory(COPIES_OF_A_DOCUMENT * max(each.part.longest_bytes for each in some)):
            encoded += workers.run(encode_parts, some, encoding, workers.resident_limit_bytes)
    return encoded


def encode_parts(
    parts: Sequence[PartToEncode], encoding: Encoding, resident_limit_bytes: int
) -> list[TokenPart]:
    """The tokens of some stored shards, one after another, as a worker makes them."""
    encoder = _encoder(encoding.tokenizer, resident_limit_bytes)
    dtype = token_dtype(encoding.tokenizer.vocabulary_size)
    batches = (_encoded(each.part, encoding, encoder) for each in parts)
    return write_token_parts(encoding.folder / f"{parts[0].number:06d}", batches, dtype)


def encode_in_place(
    pieces: Sequence[BlocksToEncode], encoding: Encoding, workers: Workers
) -> list[EncodedBlock]:
    """The tokens of stored texts, of which the number is known, written to their places and hashed as they are made."""
    encoded: list[EncodedBlock] = []
    for piece in pieces:
        parts = [*([piece.before] if piece.before else []), *piece.parts]
        with workers.memory(COPIES_OF_A_DOCUMENT * max(each.part.longest_bytes for each in parts)):
            encoded += workers.run(encode_blocks, piece, encoding, workers.resident_limit_bytes)
    return encoded


def encode_blocks(piece: BlocksToEncode, encoding: Encoding, resident_limit_bytes: int) -> list[EncodedBlock]:
    """The tokens of the parts in some blocks, as a worker makes them. The parts are told with the last block."""
    encoder = _encoder(encoding.tokenizer, resident_limit_bytes)
    dtype = token_dtype(encoding.tokenizer.vocabulary_size)
    with BlockSink(piece.path, piece.numbers) as sink:
        if piece.before:
            batches = _encoded(piece.before.part, encoding, encoder)
            write_end_of_placed_part(batches, dtype, piece.before.places, sink)
        begin_here = ((_encoded(each.part, encoding, encoder), each.places) for each in piece.parts)
        path = encoding.folder / f"{piece.numbers.start:06d}"
        parts = write_placed_parts(path, begin_here, dtype, sink)
    return [
        EncodedBlock(number=number, sha256=sha256, parts=parts if number == piece.numbers[-1] else [])
        for number, sha256 in zip(piece.numbers, sink.sha256, strict=True)
    ]


def checked(
    encoded: Iterator[TokenPart], parts: Sequence[PartToEncode], encoding: Encoding, workers: Workers
) -> Iterator[TokenPart]:
    """The same `encoded` parts, while one worker compares the fast encoder with the reference on documents of some `parts`.

    Raises EncoderDiffers as soon as that is known.
    """
    some = [each.part for each in parts if each.part.documents]
    chosen = [part for part in some if int(part.shard_sha256[:8], 16) % _CHECKED_ONE_IN == 0] or some[:1]
    if encoding.tokenizer.encoder not in CHECKED or not chosen:
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
    reference = LibraryTokenizer(encoding.tokenizer.text())
    for part in parts:
        any(check_encoder(encoder, reference, stored.texts) for stored in read_texts(part))


def parts_to_encode(parts: Sequence[DocumentPart], earlier: Collection[int]) -> list[PartToEncode]:
    """The parts of a data set, but those with an `earlier` number, of which tokens are there."""
    return [PartToEncode(number=n, part=part) for n, part in enumerate(parts) if n not in earlier]


def can_be_placed(counts: SplitCounts, tokenizer: TokenizerFile) -> bool:
    """Whether it is known, from the characters of each part, where its tokens belong."""
    return tokenizer.encoder == "characters" and counts.are_noted


def count_blocks(counts: SplitCounts, tokenizer: TokenizerFile) -> int:
    """How many blocks the train tokens of these characters will have."""
    own = CharTokenizer.from_json(tokenizer.text())
    tokens = own.encoded_length(counts.train().pairs()) + counts.documents - counts.val_documents
    return -(-tokens * own.dtype.itemsize // BLOCK_BYTES)


def blocks_to_encode(
    parts: Sequence[DocumentPart], blocks: int, encoding: Encoding, files: dict[Split, Path]
) -> Iterator[BlocksToEncode]:
    """The blocks of the train tokens of a data set, each as soon as the parts that lie in it are known.

    A part that reaches into the next block is encoded once more for that one, if it is short; else one worker makes both.
    """
    placed = _placed(parts, encoding, files)
    before, upcoming = None, next(placed, None)
    first, begun = 0, list[PlacedPart]()
    for number in range(blocks):
        end = (number + 1) * BLOCK_BYTES
        while upcoming and (upcoming.places.train.start < end or number == blocks - 1):
            begun.append(upcoming)
            upcoming = next(placed, None)
        last = begun[-1] if begun else before
        reaching = last if last and last.places.train.end > end else None
        if not reaching or reaching.places.train.bytes <= BLOCK_BYTES // _SHORT_ONE_IN:
            numbers = range(first, number + 1)
            yield BlocksToEncode(path=files["train"], numbers=numbers, before=before, parts=begun)
            before, first, begun = reaching, number + 1, []


def _placed(
    parts: Sequence[DocumentPart], encoding: Encoding, files: dict[Split, Path]
) -> Iterator[PlacedPart]:
    """Each part with the places of its tokens, told from its characters."""
    tokenizer = CharTokenizer.from_json(encoding.tokenizer.text())
    ends: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    for number, part in enumerate(parts):
        characters = PartCharacters.noted(part, encoding.val_fraction)
        assert characters, "asked for by can_be_placed"
        val = tokenizer.encoded_length(characters.val) + characters.val_documents
        both = tokenizer.encoded_length(characters.all) + characters.documents
        ranges: dict[Split, FileRange] = {}
        for split, tokens in (("train", both - val), ("val", val)):
            size = tokens * tokenizer.dtype.itemsize
            ranges[split] = FileRange(path=files[split], start=ends[split], bytes=size)
            ends[split] += size
        yield PlacedPart(number=number, part=part, places=TokenPlaces(**ranges))


def sample_part(part: DocumentPart, val_fraction: float, share: float) -> list[str]:
    """The train documents of a stored shard whose hash falls into the first `share` of all hashes."""
    texts: list[str] = []
    for stored in read_texts(part):
        # The split looks at the first 8 bytes of the hash, this at the last 8: neither tells anything of the other.
        is_chosen = ~are_val(stored.hashes, val_fraction)
        is_chosen &= are_val(np.ascontiguousarray(stored.hashes[:, ::-1]), share) if share < 1 else True
        texts += [text.decode() for text in itertools.compress(stored.texts, is_chosen)]
    return texts


#: Loaded once: a worker encodes many parts with one tokenizer.
_encoder = functools.lru_cache(maxsize=1)(fast_encoder)


def _encoded(part: DocumentPart, encoding: Encoding, encoder: Encodes) -> Iterator[EncodedBatch]:
    for stored in read_texts(part):
        is_val = are_val(stored.hashes, encoding.val_fraction)
        ids, token_counts = encoder.encode_documents(Texts(*stored.joined()))
        yield EncodedBatch(stored=stored, is_val=is_val, token_counts=token_counts, ids=ids)
