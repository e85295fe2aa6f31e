"""How much of the disk a workspace takes, by what it is for: each file once, however many names it has."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

_MOST_SECONDS = 1.0  # a look answers at once; 100,000 files take about that

#: What each folder of a workspace holds. A file with several names counts where it comes first.
KINDS = {
    "datasets": "data sets",
    "checkpoints": "checkpoints",
    "documents": "stored text",
    "tokens": "parts of builds",
    "corpora": "corpora",
    "mlflow": "MLflow",
    "prefect": "Prefect",
}
OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """Bytes and files of a kind. If not `whole`, time ran out, and there is more."""

    kind: str
    bytes: int
    files: int
    whole: bool


def disk_use(root: Path) -> list[DiskUse]:
    """What each kind takes, in the order of KINDS, and all else; kinds without a file are left out."""
    seen: set[tuple[int, int]] = set()
    deadline = time.monotonic() + _MOST_SECONDS
    found = [_use(root / folder, kind, seen, deadline) for folder, kind in KINDS.items()]
    found.append(_use(root, OTHER, seen, deadline, without=set(KINDS)))
    return [use for use in found if use.files or not use.whole]


def free_bytes(root: Path) -> int:
    """What is free where the workspace is, or will be."""
    place = next(folder for folder in (root, *root.parents) if folder.is_dir())
    return shutil.disk_usage(place).free


def _use(
    folder: Path, kind: str, seen: set[tuple[int, int]], deadline: float, without: set[str] | None = None
) -> DiskUse:
    size, files, whole = 0, 0, True
    for place, names, entries in os.walk(folder):
        if without and Path(place) == folder:
            names[:] = [name for name in names if name not in without]
        if time.monotonic() > deadline:
            whole = False
            break
        for entry in entries:
            try:
                facts = (Path(place) / entry).lstat()
            except FileNotFoundError:  # it was there a moment ago: something is at work
                continue
            identity = (facts.st_dev, facts.st_ino)
            if facts.st_nlink > 1 and identity in seen:
                continue
            seen.add(identity)
            size, files = size + facts.st_blocks * 512, files + 1
    return DiskUse(kind=kind, bytes=size, files=files, whole=whole)
