"""What a build would take: shards, text, disk and time, from file sizes and xz indexes alone."""

import errno
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import NetworkError, ShardError
from storage.shards import Shard, uncompressed_bytes
from storage.workspace import Workspace
from tasks.corpora import CATALOGUE, CorpusConfig, catalogue_folder, locate_shards
from tasks.workers import chosen_workers

# Measured on owt-medium (105 MB of tar, 97 MB of text; docs/benchmarks.md): stored text is 0.9 of the tar, and
# token files per byte of text: a character is one id of 2 bytes, a token of GPT-2 stands for 3.2 bytes. Rates are of one worker.
_STORED_SHARE = 0.9
_TOKEN_BYTES_A_TEXT_BYTE = {"char": 2.0, "gpt2": 0.65}
_TOKEN_BYTES_OF_OTHERS = 1.0
_TEXT_BYTES_A_SECOND = {"char": 40_000_000, "gpt2": 33_000_000}
_TEXT_BYTES_A_SECOND_OF_OTHERS = 28_000_000
# What quality steps look for, while it is looked for: hashes of documents and of their words, and words of those that meet others.
_EXAMINED_SHARE = 0.1
_WORDS_EXAMINED_A_SECOND = 16_000_000  # bytes of text
_LANGUAGES_EXAMINED_A_SECOND = 10_000_000
_USUAL_EXPANSION = 10  # text seldom shrinks more
_SAMPLED_SHARDS = 16  # of remote ones: each costs some requests


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPlan:
    """What a build would take. `text_bytes` is what xz expands to: tar headers included, so a little too much; of
    remote shards it is estimated from some of them."""

    shards: int
    compressed_bytes: int
    text_bytes: int
    disk_bytes_needed: int
    disk_bytes_free: int
    seconds_estimated: float
    workers: int


def plan_dataset(config: CorpusConfig, workspace: Workspace) -> DatasetPlan:
    """Plans a build. A corpus of the catalogue that is not here yet is planned by what the catalogue knows of it."""
    entry = CATALOGUE.get(config.corpus)
    if (
        entry
        and entry.url
        and not Path(config.corpus).exists()
        and not catalogue_folder(entry, workspace).is_dir()
    ):
        shards, compressed, text = entry.shards, entry.bytes, entry.text_bytes
        download = compressed
    else:
        found = locate_shards(config, workspace)
        shards, compressed = len(found), sum(shard.compressed_bytes for shard in found)
        text, download = _content_bytes(found, uncompressed_bytes), 0
    workers = chosen_workers(config.workers)
    return DatasetPlan(
        shards=shards,
        compressed_bytes=compressed,
        text_bytes=text,
        disk_bytes_needed=int(download + _disk_bytes(config, text)),
        disk_bytes_free=shutil.disk_usage(existing_folder(workspace.root)).free,
        seconds_estimated=text * _seconds_a_byte(config) / workers,
        workers=workers,
    )


def refuse_full_disk(config: CorpusConfig, unread: Sequence[Shard], workspace: Workspace) -> None:
    """Raises OSError, before any work, if the disk cannot hold what is to be made of shards that were not read yet."""
    free = shutil.disk_usage(existing_folder(workspace.root)).free
    needed = _disk_bytes(config, _content_bytes(unread, _bytes_at_most))
    if needed > free:  # what lies here has told; what lies behind a network is asked only now
        needed = _disk_bytes(config, _content_bytes(unread, _bytes_if_whole))
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the disk has {free / 1e6:,.0f} MB free, and this data set needs about {needed / 1e6:,.0f} MB; free some "
            "space, choose another --workspace, or take part of it: --limit-shards",
            str(workspace.root),
        )


def _seconds_a_byte(config: CorpusConfig) -> float:
    """Of text, by one worker."""
    seconds = 1 / _TEXT_BYTES_A_SECOND.get(config.tokenizer, _TEXT_BYTES_A_SECOND_OF_OTHERS)
    if config.quality.looks_at_words:
        seconds += 1 / _WORDS_EXAMINED_A_SECOND
    if config.quality.languages:
        seconds += 1 / _LANGUAGES_EXAMINED_A_SECOND
    return seconds


def _disk_bytes(config: CorpusConfig, content_bytes: int) -> int:
    """Stored text, token files, and what quality steps need beside them."""
    tokens = _TOKEN_BYTES_A_TEXT_BYTE.get(config.tokenizer, _TOKEN_BYTES_OF_OTHERS)
    examined = _EXAMINED_SHARE if config.quality.is_on else 0.0
    return int(content_bytes * (_STORED_SHARE + tokens + examined))


def _content_bytes(shards: Sequence[Shard], size_of: Callable[[Shard], int]) -> int:
    """What shards expand to: on this disk, the sum of what each says; behind a network, estimated from some of them."""
    remote = [shard for shard in shards if shard.is_remote]
    local = sum(size_of(shard) for shard in shards if not shard.is_remote)
    sample = remote[:: -(-len(remote) // _SAMPLED_SHARDS) or 1]
    compressed = sum(shard.compressed_bytes for shard in sample)
    if not compressed:
        return local
    content = sum(_size_from_afar(shard, size_of) for shard in sample)
    return local + sum(shard.compressed_bytes for shard in remote) * content // compressed


def _size_from_afar(shard: Shard, size_of: Callable[[Shard], int]) -> int:
    try:
        return size_of(shard)
    except NetworkError as error:
        if error.can_heal:
            raise
        return shard.compressed_bytes  # its server sends no parts, or refuses: whoever reads it will say so


def _bytes_at_most(shard: Shard) -> int:
    return shard.compressed_bytes * _USUAL_EXPANSION if shard.is_remote else _bytes_if_whole(shard)


def _bytes_if_whole(shard: Shard) -> int:
    try:
        return uncompressed_bytes(shard)
    except ShardError:  # whoever reads it will say so
        return 0


def existing_folder(path: Path) -> Path:
    """The nearest folder above (or at) a path that is there already."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
