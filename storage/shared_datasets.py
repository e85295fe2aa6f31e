"""Finished data sets in a store: put there with the manifest last; fetched block by block, each verified as it comes.

A fetch that was killed goes on: blocks that are here and right are not asked for again. Nothing has its name before all is right.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from storage.blocks import BLOCK_BYTES, FileFacts, FileRange, block_ranges, range_sha256, write_at
from storage.datasets import DROPPED_NAME, Dataset, is_whole, parse_manifest, pointer
from storage.errors import NoSuchDatasetError
from storage.files import PARTIAL_SUFFIX, atomic_file, exclusive_lock, named_errors, publish_folder
from storage.manifests import DIGEST_CHARACTERS, NAMED_BY_DIGEST, Manifest, digest_of
from storage.store import READ_BYTES, Store
from storage.workspace import Workspace

FOLDER = "datasets"
_MANIFEST, _REPORT = "manifest.json", "report.html"
_FILES = {*NAMED_BY_DIGEST, "documents.parquet", DROPPED_NAME}
_READERS = 8
_DIGEST = re.compile(f"[0-9a-f]{{{DIGEST_CHARACTERS}}}")  # what a store says becomes a path here


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedDataset:
    """A data set in a store, by its name and whole digest."""

    store: Store
    name: str
    digest: str

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name or not _DIGEST.fullmatch(self.digest):
            raise NoSuchDatasetError(
                f"{self.store.place(FOLDER)}: {self.name}@{self.digest} is no data set's name"
            )

    @property
    def key(self) -> str:
        """The folder of its files."""
        return f"{FOLDER}/{self.name}/{self.digest}"

    def file(self, name: str) -> str:
        """The key of a file."""
        return f"{self.key}/{name}"


def put_dataset(dataset: Dataset, inputs_fingerprint: str, store: Store) -> None:
    """Puts a finished data set into the store, unless it is there, and notes that these inputs came to it."""
    manifest = dataset.manifest
    shared = SharedDataset(store=store, name=manifest.name, digest=manifest.digest)
    if store.size(shared.file(_MANIFEST)) is None:
        for name in (*manifest.files, _REPORT, _MANIFEST):
            # The digest stands for what training reads alone: an upload that was killed may have left other rows.
            put = store.put if name in NAMED_BY_DIGEST else store.replace
            if (dataset.path / name).is_file():
                put(dataset.path / name, shared.file(name))
    store.write(_pointer(manifest.name, inputs_fingerprint), manifest.digest.encode())


def shared_by_inputs(store: Store, name: str, inputs_fingerprint: str) -> SharedDataset | None:
    """The data set of that name that was made from exactly these inputs and settings, if the store has it."""
    digest = store.read(_pointer(name, inputs_fingerprint))
    if digest is None:
        return None
    shared = SharedDataset(store=store, name=name, digest=digest.decode(errors="replace"))
    return shared if store.size(shared.file(_MANIFEST)) is not None else None


def find_shared(store: Store, reference: str) -> SharedDataset:
    """A data set of a store by name (its newest) or name@digest (a prefix will do). Raises NoSuchDatasetError."""
    name, _, digest = reference.partition("@")
    is_name = name and "/" not in name  # not a path, which is not here
    found = [
        (written_at, key.split("/")[2])
        for key, (_, written_at) in (store.listed(f"{FOLDER}/{name}") if is_name else {}).items()
        if key.endswith(f"/{_MANIFEST}") and key.split("/")[2].startswith(digest)
    ]
    if not found:
        raise NoSuchDatasetError(f"{reference}: no such data set in the store {store.address}")
    return SharedDataset(store=store, name=name, digest=max(found)[1])


def fetch_dataset(shared: SharedDataset, workspace: Workspace, inputs_fingerprint: str = "") -> Iterator[int]:
    """Fetches a data set into a workspace: yields first how many bytes it has, then how many more are here and right.

    Nothing is yielded if it is here. Raises StoreError if it is damaged there, OSError if the disk cannot hold it.
    """
    path = workspace.datasets / shared.name / shared.digest
    stage = workspace.root / "fetched" / f".{shared.name}@{shared.digest}{PARTIAL_SUFFIX}"
    with exclusive_lock(stage.with_suffix(".lock")):
        if not is_whole(path):
            manifest, content = _manifest(shared)
            yield sum(facts.bytes for facts in manifest.files.values())
            yield from _fetch_files(shared, manifest, stage)
            for name, bytes_of_it in (
                (_REPORT, shared.store.read(shared.file(_REPORT))),
                (_MANIFEST, content),
            ):
                if bytes_of_it is not None:
                    (stage / name).write_bytes(bytes_of_it)
            publish_folder(stage, path, is_done=is_whole)
    if inputs_fingerprint:
        with atomic_file(pointer(workspace.datasets, shared.name, inputs_fingerprint)) as file:
            file.write(shared.digest.encode())


def _manifest(shared: SharedDataset) -> tuple[Manifest, bytes]:
    """The manifest, proved to be that of this digest. Raises StoreError."""
    key = shared.file(_MANIFEST)
    content = shared.store.read(key)
    if content is None:
        raise NoSuchDatasetError(
            f"{shared.store.place(shared.key)}: no finished data set here (no manifest.json)"
        )
    manifest = parse_manifest(content, shared.store.place(shared.key))
    is_right = (
        manifest.is_sealed()
        and (manifest.name, manifest.digest) == (shared.name, shared.digest)
        and set(manifest.files) <= _FILES
        and all(facts == FileFacts.of(facts.bytes, facts.block_sha256) for facts in manifest.files.values())
        and digest_of(manifest.dtype, manifest.end_of_text, manifest.files) == shared.digest
    )
    if not is_right:
        raise shared.store.damaged(key, "was edited or damaged")
    return manifest, content


def _fetch_files(shared: SharedDataset, manifest: Manifest, stage: Path) -> Iterator[int]:
    """All files but manifest and report, below `stage`."""
    stage.mkdir(parents=True, exist_ok=True)
    _refuse_full_disk(manifest, stage)
    blocks = list[tuple[str, FileRange, str, bool]]()
    for name, facts in manifest.files.items():
        path = stage / name
        was_here = path.is_file() and path.stat().st_size == facts.bytes
        with named_errors(path), path.open("ab") as file:
            file.truncate(facts.bytes)
        ranges = zip(block_ranges(path, facts.bytes), facts.block_sha256, strict=True)
        blocks += [(name, piece, expected, was_here) for piece, expected in ranges]
    with ThreadPoolExecutor(_READERS) as threads:
        try:
            yield from threads.map(lambda block: _fetch_block(shared, *block), blocks)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _refuse_full_disk(manifest: Manifest, stage: Path) -> None:
    here = sum(path.stat().st_blocks * 512 for path in stage.iterdir())
    needed, free = sum(facts.bytes for facts in manifest.files.values()) - here, shutil.disk_usage(stage).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the disk has {free / 1e6:,.0f} MB free, and this data set needs {needed / 1e6:,.0f} MB; free some space, "
            "or choose another --workspace",
            str(stage.parent.parent),
        )


def _fetch_block(shared: SharedDataset, name: str, piece: FileRange, expected: str, was_here: bool) -> int:
    """One block to its place, unless it is there and right; returns its size."""
    if was_here and range_sha256(piece) == expected:
        return piece.bytes
    found = sha256()
    with named_errors(piece.path), piece.path.open("r+b", buffering=0) as file:
        for start in range(piece.start, piece.end, READ_BYTES):
            data = shared.store.read_range(shared.file(name), start, min(READ_BYTES, piece.end - start))
            found.update(data)
            write_at(file.fileno(), memoryview(data), start)
    if found.hexdigest() != expected:
        number = piece.start // BLOCK_BYTES
        raise shared.store.damaged(shared.file(name), f"its bytes differ in block {number} of 64 MiB")
    return piece.bytes


def _pointer(name: str, inputs_fingerprint: str) -> str:
    return f"{FOLDER}/{name}/by-inputs/{inputs_fingerprint}"
