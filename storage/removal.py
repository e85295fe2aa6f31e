"""Removing for good: what it would free, counted by hard links, and how, so that a kill on the way leaves no half thing."""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from storage.files import PARTIAL_SUFFIX

_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own are


def freed_bytes(groups: Sequence[Iterable[Path]]) -> list[int]:
    """What the disk has more of when all of these files and folders are gone, group by group.

    Bytes with several names are freed with the last of them: they count for the group that has it, or for none.
    """
    freed, links = [0] * len(groups), dict[tuple[int, int], int]()
    for number, group in enumerate(groups):
        for facts in _files(group):
            key = facts.st_dev, facts.st_ino
            links[key] = links.get(key, facts.st_nlink) - 1
            if links[key] == 0:
                freed[number] += facts.st_blocks * _BLOCK_BYTES
    return freed


def discard(path: Path) -> None:
    """Removes a file or a folder. Killed on the way, what is left has a name that says so, and goes with the next remains."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    with suppress(FileNotFoundError):  # somebody else was faster
        path.rename(aside)
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()


def remains(folder: Path, *, before: float) -> list[Path]:
    """What killed writers have left below a folder, and nobody has touched since `before`, in seconds since 1970."""
    found = []
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            with suppress(FileNotFoundError):
                if name.endswith(PARTIAL_SUFFIX) and path.lstat().st_mtime < before:
                    found.append(path)
        folders[:] = [name for name in folders if not name.endswith(PARTIAL_SUFFIX)]
    return found


def _files(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    for path in paths:
        names = [Path(place, name) for place, _, files in os.walk(path) for name in files]
        for file in names or [path]:
            with suppress(FileNotFoundError):
                yield file.lstat()
