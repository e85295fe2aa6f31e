"""Which shards need not be read, since nothing has changed in their files: asked before ingest, and noted after it."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.documents.parts import DocumentPart
from storage.documents.shared import FOLDER, is_here, listed_parts
from storage.files import fingerprint
from storage.forms import Reading
from storage.known_files import KNOWN_FILES, KnownFiles, RemoteSignature, Signature
from storage.network import shown
from storage.shards import Shard
from storage.store import Store
from tasks.ingest import IngestedShard, RefusedShard, UnreachedShard, reading_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What is stored already of files that have not changed since, the shards that must be read, and how those are now."""

    known: list[IngestedShard]
    unknown: list[Shard]
    signatures: dict[str, Signature | RemoteSignature]


def recall(
    shards: Sequence[Shard], folder: Path, reading: Reading, store: Store | None = None, corpus: str = ""
) -> Recalled:
    """Tells known shards from unknown ones without reading any.

    With a `store` also by what others have told it of this `corpus`; the text may then be there, and not here.
    """
    files = _known_files(folder, reading)
    if store and any(shard.is_remote for shard in shards):
        files.learn(store.read(_told_key(corpus, reading)) or b"")
    listed = functools.cache(lambda: listed_parts(store) if store else set[str]())
    known: list[IngestedShard] = []
    unknown: list[Shard] = []
    for shard in shards:
        items = [
            _recalled(shard, folder, facts, listed)
            for facts in files.find(shard.location, _listed(shard)) or [None]
        ]
        if all(items):
            known += [item for item in items if item]
        else:
            unknown.append(shard)
    signatures = {shard.location: _listed(shard) or Signature.of(shard.location) for shard in unknown}
    return Recalled(known=known, unknown=unknown, signatures=signatures)


def remember(
    recalled: Recalled,
    results: Sequence[IngestedShard | RefusedShard | UnreachedShard],
    folder: Path,
    reading: Reading,
    limit_shards: int | None,
) -> None:
    """Notes what was found in the files that were unknown, for `recall`. Not of a reading with a limit: a file may hold more."""
    if not recalled.unknown or limit_shards is not None:
        return
    files = _known_files(folder, reading)
    by_file: dict[str, list[IngestedShard | RefusedShard | UnreachedShard]] = {}
    for result in results:
        by_file.setdefault(result.location, []).append(result)
    for shard in recalled.unknown:
        found = by_file.get(shard.location, [])
        if found and all(isinstance(item, IngestedShard) for item in found):
            facts = [_noted(shard, item) for item in found if isinstance(item, IngestedShard)]
            files.remember(shard.location, recalled.signatures[shard.location], facts)
    files.save()


def tell_known(shards: Sequence[Shard], folder: Path, reading: Reading, store: Store, corpus: str) -> None:
    """Tells a store what is known of the files of a corpus that lies behind a network, for `recall` on other machines."""
    if remote := [shard.location for shard in shards if shard.is_remote]:
        key, files = _told_key(corpus, reading), _known_files(folder, reading)
        files.learn(store.read(key) or b"")
        store.write(key, files.told(remote))


def _told_key(corpus: str, reading: Reading) -> str:
    return f"{FOLDER}/known/{fingerprint([shown(corpus), reading_settings(reading)])[:32]}.json"


def _known_files(folder: Path, reading: Reading) -> KnownFiles:
    return KnownFiles(folder / KNOWN_FILES, reading_settings(reading))


def _listed(shard: Shard) -> RemoteSignature | None:
    """How a remote shard was listed; None of one on this disk."""
    return RemoteSignature(shard.compressed_bytes, shard.version) if shard.is_remote else None


def _noted(shard: Shard, item: IngestedShard) -> dict[str, Any]:
    """An ingested shard as JSON. Its name is kept without that of its file, which may come to lie elsewhere."""
    part = asdict(item.part) | {"path": item.part.path.name}
    return {
        "name": item.name.removeprefix(shard.name),
        "compressed_bytes": item.compressed_bytes,
        "part": part,
    }


def _recalled(
    shard: Shard, folder: Path, facts: dict[str, Any] | None, listed: Callable[[], set[str]]
) -> IngestedShard | None:
    try:
        if not facts:
            return None
        part = DocumentPart(**facts["part"] | {"path": folder / Path(facts["part"]["path"]).name})
        if not is_here(part) and part.path.name not in listed():
            return None
        return IngestedShard(
            name=shard.name + facts["name"],
            location=shard.location,
            compressed_bytes=facts["compressed_bytes"],
            part=part,
            reused=True,
        )
    except (KeyError, TypeError):
        return None
