"""What a build would take: shards, text, disk and time, from file sizes and xz indexes alone."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from storage.shards import uncompressed_bytes
from storage.workspace import Workspace
from tasks.corpora import CATALOGUE, CorpusConfig, catalogue_folder, locate_shards
from tasks.workers import chosen_workers

# Measured on owt-medium (105 MB of tar, 97 MB of text; docs/benchmarks.md): text as Parquet with zstd is 0.40 of the tar;
# a character is one id of 2 bytes, once in the parts and once in the whole. Rates are of one worker.
_STORED_SHARE = 0.45
_TOKEN_BYTES_A_TEXT_BYTE = 2 * 2
_TEXT_BYTES_A_SECOND = 12_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPlan:
    """What a build would take. `text_bytes` is what xz expands to: tar headers included, so a little too much."""

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
        text, download = sum(map(uncompressed_bytes, found)), 0
    workers = chosen_workers(config.workers)
    return DatasetPlan(
        shards=shards,
        compressed_bytes=compressed,
        text_bytes=text,
        disk_bytes_needed=int(download + text * (_STORED_SHARE + _TOKEN_BYTES_A_TEXT_BYTE)),
        disk_bytes_free=shutil.disk_usage(existing_folder(workspace.root)).free,
        seconds_estimated=text / (_TEXT_BYTES_A_SECOND * workers),
        workers=workers,
    )


def existing_folder(path: Path) -> Path:
    """The nearest folder above (or at) a path that is there already."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
