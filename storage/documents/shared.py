"""Stored text in a store: a part is put there with its record last, and brought here when somebody is to read it."""

import os
from pathlib import Path

from storage.documents.parts import DocumentPart, part_of_record, record_path
from storage.errors import StoreError
from storage.files import atomic_file
from storage.store import Store

FOLDER = "documents"


def put_part(part: DocumentPart, store: Store) -> None:
    """Puts a part that is here into the store, unless it is there."""
    record = record_path(part.path)
    if store.size(_key(record)) is None:
        store.put(part.path, _key(part.path))
        store.write(_key(record), record.read_bytes())


def find_part(path: Path, store: Store) -> DocumentPart | None:
    """The part that is to be at `path`, if the store has it: its record comes here, its text stays there."""
    content = store.read(_key(record_path(path)))
    part = part_of_record(path, content) if content else None
    if part and content:
        with atomic_file(record_path(path)) as file:
            file.write(content)
    return part


def bring_part(part: DocumentPart, store: Store) -> None:
    """Sees to it that the text of a part is here. Raises StoreError if the store has it not, or not whole."""
    if not is_here(part):
        store.fetch(_key(part.path), part.path, size=part.file_bytes, checksum=part.file_crc32)


def bring_record(part: DocumentPart, store: Store) -> None:
    """Sees to it that the record of a part is here."""
    if not record_path(part.path).is_file() and not find_part(part.path, store):
        key = _key(record_path(part.path))
        raise StoreError(store.place(key), "is not there, though it was; build again")


def is_here(part: DocumentPart) -> bool:
    """Whether the text of a part is in this workspace, as far as its size tells."""
    try:
        return os.stat(part.path).st_size == part.file_bytes  # noqa: PTH116 - see storage.known_files.Signature
    except OSError:
        return False


def listed_parts(store: Store) -> set[str]:
    """The file names of all parts that a store has, with their records."""
    names = {key.rpartition("/")[2] for key in store.listed(FOLDER)}
    return {name for name in names if name.endswith(".parquet") and record_path(Path(name)).name in names}


def _key(path: Path) -> str:
    return f"{FOLDER}/{path.name}"
