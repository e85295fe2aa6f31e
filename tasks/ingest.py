"""The one pass over a shard: decompress, prove complete, hash, normalise, count characters and store the text."""

import contextlib
import hashlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from storage.documents.parts import PART_FORMAT, DocumentPart, PartWriter, read_part
from storage.documents.shared import find_part, is_here, put_part
from storage.errors import NetworkError, ShardError
from storage.files import PARTIAL_SUFFIX, Together, fingerprint, named_errors, sha256_file
from storage.forms import (
    BOOK_DOCUMENT_BYTES,
    WHOLE_TEXT_BYTES,
    ArchiveOfShards,
    Reading,
    holds_shards,
    read_archive,
    read_batches,
)
from storage.shards import Shard, uncompressed_bytes
from storage.store import Store
from storage.workspace import natural_order
from tasks.characters import SplitCounts
from tasks.workers import Workers

# Of a long document at the same time, at most: while it is read (in the tar, in a batch, in Parquet's pages), and more of
# them later, when it is encoded (in pages, rows, pieces, and as ids of up to four bytes).
COPIES_OF_A_DOCUMENT = 9
_IN_MEMORY_BYTES = (
    64 << 20
)  # a larger file is read twice, once for its sha256, and is first copied here if it is remote
_COPY_BYTES = 1 << 20
STORED_TOGETHER = 8  # shards, or
_STORED_TOGETHER_BYTES = 8 << 20  # compressed
_CHANGED = "changed while it was being read; run again when it is complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestedShard:
    """A shard, the file it is in, and its stored text; `reused` if that was there before."""

    name: str
    location: str
    compressed_bytes: int
    part: DocumentPart
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedShard:
    """A shard that cannot be trusted, the file it is in, its place there, and why."""

    name: str
    location: str
    place: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreachedShard:
    """A shard behind a network that did not come. That says nothing about it, so it is never left out: see NetworkError."""

    name: str
    location: str
    place: str
    reason: str
    can_heal: bool


def ingest(
    shards: Sequence[Shard],
    folder: Path,
    reading: Reading,
    val_fraction: float,
    workers: Workers,
    limit_shards: int | None = None,
    store: Store | None = None,
) -> list[IngestedShard | RefusedShard | UnreachedShard]:
    """Stores the text of shards, one after another; a shard that cannot be trusted is named, and the rest goes on.

    Text that the `store` has is not made again, and what is made goes there. An archive of shards becomes all of its shards, or so
    many, read side by side as the archive streams by. After a shard that did not come through the network the rest is not tried:
    each would wait for it again.
    """
    results: list[IngestedShard | RefusedShard | UnreachedShard] = []
    limit_bytes = workers.largest_piece(COPIES_OF_A_DOCUMENT)
    settings = (folder, reading, val_fraction, limit_bytes, store)
    for group in _groups(shards):
        with workers.memory(
            0 if limit_bytes is None else max(_memory_bytes(one, limit_bytes) for one in group)
        ):
            found = workers.run(ingest_shards, group, *settings)
        for shard, result in zip(group, found, strict=False):
            results += (
                _ingested_archive(shard, settings, workers, limit_shards) if result is None else [result]
            )
        if results and isinstance(results[-1], UnreachedShard):
            break
    return results


def _groups(shards: Iterable[Shard]) -> Iterator[list[Shard]]:
    """Neighbouring shards that are stored together: as many as make the waiting for the disk small beside the reading."""
    group, size = list[Shard](), 0
    for shard in shards:
        group.append(shard)
        size += shard.compressed_bytes
        if len(group) == STORED_TOGETHER or size >= _STORED_TOGETHER_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _ingested_archive(
    archive: Shard,
    settings: tuple[Path, Reading, float, int | None, Store | None],
    workers: Workers,
    limit_shards: int | None,
) -> list[IngestedShard | RefusedShard | UnreachedShard]:
    """What became of each shard in an archive."""
    results: list[IngestedShard | RefusedShard | UnreachedShard] = []
    groups = _groups(itertools.islice(read_archive(archive), limit_shards))
    try:
        for found in workers.map(ingest_shards, ((group, *settings) for group in groups)):
            results += [one for one in found if one is not None]
    except ShardError as error:  # of the archive itself: what came out of it before is not to be believed
        results.append(_refused(archive, error))
    except NetworkError as error:
        results.append(_unreached(archive, error))
    return results


def _memory_bytes(shard: Shard, document_limit_bytes: int) -> int:
    """What reading a shard can take at most: it is a stream, but a document is in memory whole, several times."""
    try:
        content = uncompressed_bytes(shard)
    except (ShardError, NetworkError, OSError):  # whoever reads it will say so
        content = shard.compressed_bytes
    return COPIES_OF_A_DOCUMENT * min(content, document_limit_bytes)


def ingest_shards(
    shards: Sequence[Shard],
    folder: Path,
    reading: Reading,
    val_fraction: float,
    document_limit_bytes: int | None = None,
    store: Store | None = None,
) -> list[IngestedShard | RefusedShard | UnreachedShard | None]:
    """Stores the documents of shards, as a worker does: returns when they are on the disk, and in the store if there is one.
    Ends at one that does not come."""
    results: list[IngestedShard | RefusedShard | UnreachedShard | None] = []
    with Together() as together:
        for shard in shards:
            try:
                results.append(
                    ingest_shard(shard, folder, reading, val_fraction, document_limit_bytes, together, store)
                )
            except NetworkError as error:
                results.append(_unreached(shard, error))
                break
        together.publish()
    if store:
        for result in results:
            if isinstance(result, IngestedShard) and is_here(result.part):
                put_part(result.part, store)
    return results


def ingest_shard(
    shard: Shard,
    folder: Path,
    reading: Reading,
    val_fraction: float,
    document_limit_bytes: int | None = None,
    together: Together | None = None,
    store: Store | None = None,
) -> IngestedShard | RefusedShard | None:
    """Stores a shard's documents below `folder`, unless they are there already, or in a store; None if it is an archive of shards.

    They are on the disk when it returns, or when they are published `together` with others.
    Nothing is left behind of a shard that is refused. Raises NetworkError if a remote one does not come: that says nothing
    about the shard.
    """
    try:
        with _identified(shard, folder) as (here, sha256):
            path = folder / f"{sha256}-{reading_settings(reading)}.parquet"
            if part := read_part(path) or (find_part(path, store) if store else None):
                return _ingested(shard, part, reused=True)
            part = _stored(here, sha256, path, reading, val_fraction, document_limit_bytes, together)
            return _ingested(shard, part, reused=False)
    except ShardError as error:
        return _refused(shard, error)
    except ArchiveOfShards:
        return None


def refuse_bad_shards(
    results: Sequence[IngestedShard | RefusedShard | UnreachedShard],
    tolerated: int,
    limit_shards: int | None = None,
) -> list[IngestedShard]:
    """The good ones, or so many of them, in corpus order. Raises ShardError, naming the first and counting the rest, beyond what is tolerated.

    Raises NetworkError, whatever is tolerated, if there is one that did not come.
    """
    for result in results:
        if isinstance(result, UnreachedShard):
            raise NetworkError(result.place, result.reason, result.can_heal)
    refused = [result for result in results if isinstance(result, RefusedShard)]
    if len(refused) > tolerated:
        more = f" (and {len(refused) - 1} more bad shards)" if len(refused) > 1 else ""
        way = f"; or leave such shards out: --tolerate-bad-shards {len(refused)}"
        raise ShardError(refused[0].place, f"{refused[0].reason}{more}{way}")
    good = [result for result in results if isinstance(result, IngestedShard)]
    return sorted(good, key=lambda item: natural_order(item.name))[:limit_shards]


@contextlib.contextmanager
def _identified(shard: Shard, folder: Path) -> Iterator[tuple[Shard, str]]:
    """The shard with its bytes at hand (in memory if they are not many, else on this disk), and their sha256.

    Raises ArchiveOfShards for a large archive, before all of it was read.
    """
    if shard.content is not None or shard.compressed_bytes <= _IN_MEMORY_BYTES:
        with named_errors(Path(shard.place)):
            content = shard.read()
        if len(content) != shard.compressed_bytes:
            raise shard.refused(_CHANGED)
        yield replace(shard, content=content), hashlib.sha256(content).hexdigest()
    elif holds_shards(shard):
        raise ArchiveOfShards
    elif shard.is_remote:
        with _fetched(shard, folder) as (copy, sha256):
            yield replace(shard, copy=copy), sha256
    else:
        yield shard, sha256_file(Path(shard.location))


@contextlib.contextmanager
def _fetched(shard: Shard, folder: Path) -> Iterator[tuple[str, str]]:
    """The path of a copy of a remote shard, for the time of the body, and its sha256; the file comes once."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=PARTIAL_SUFFIX) as copy:
        with shard.open() as source, named_errors(Path(copy.name)):
            while chunk := source.read(_COPY_BYTES):
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
        yield copy.name, digest.hexdigest()


def _stored(
    shard: Shard,
    sha256: str,
    path: Path,
    reading: Reading,
    val_fraction: float,
    document_limit_bytes: int | None,
    together: Together | None,
) -> DocumentPart:
    counts = SplitCounts()
    with PartWriter(path) as writer:
        for batch in read_batches(shard, reading, document_limit_bytes=document_limit_bytes):
            digests = writer.write(
                batch.texts,
                byte_order_marks=batch.byte_order_marks,
                crlf_line_ends=batch.crlf_line_ends,
                invalid_utf8_documents=batch.invalid_utf8_documents,
                normalised_documents=batch.normalised_documents,
            )
            counts.update(batch.texts, digests, val_fraction)
        if shard.content is shard.copy is None and sha256_file(Path(shard.location)) != sha256:
            raise shard.refused(_CHANGED)
        characters = counts.as_part().to_json(val_fraction)
        return writer.finish(
            sha256, {"settings": reading_settings(reading), "characters": characters}, together
        )


def reading_settings(reading: Reading) -> str:
    """What changes a shard's text but its bytes, as a short hash."""
    settings = {
        "format": PART_FORMAT,
        "whole_text_bytes": WHOLE_TEXT_BYTES,
        "book_document_bytes": BOOK_DOCUMENT_BYTES,
        **asdict(reading),
    }
    if reading.normalisation == "none":  # text that was stored before there was a choice keeps its name
        del settings["normalisation"]
    return fingerprint(settings)[:8]


def _ingested(shard: Shard, part: DocumentPart, *, reused: bool) -> IngestedShard:
    return IngestedShard(
        name=shard.name,
        location=shard.location,
        compressed_bytes=shard.compressed_bytes,
        part=part,
        reused=reused,
    )


def _refused(shard: Shard, error: ShardError) -> RefusedShard:
    return RefusedShard(name=shard.name, location=shard.location, place=error.place, reason=error.reason)


def _unreached(shard: Shard, error: NetworkError) -> UnreachedShard:
    facts = {"place": error.place, "reason": error.reason, "can_heal": error.can_heal}
    return UnreachedShard(name=shard.name, location=shard.location, **facts)
