"""What data sets and checkpoints say of themselves, read without what opens them: an overview needs neither Arrow nor torch."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOWN_DIGEST = 12  # characters, as in every name@digest


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRecord:
    """A finished data set as its manifest has it. `wrong` says why that cannot be read; then the sizes are zeros."""

    name: str
    digest: str
    path: Path
    made_at: float
    train_tokens: int = 0
    val_tokens: int = 0
    documents: int = 0
    bytes: int = 0
    quarantined: int = 0
    wrong: str | None = None

    @property
    def reference(self) -> str:
        """The name that commands take."""
        return f"{self.name}@{self.digest[:SHOWN_DIGEST]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """The newest checkpoint of a run."""

    run_id: str
    step: int
    saved_at: float
    dataset: str
    val_loss: float | None


def dataset_folders(datasets: Path) -> dict[str, list[tuple[float, Path]]]:
    """By name, when each finished data set was made and its folder, the newest first. Opens no file."""
    found: dict[str, list[tuple[float, Path]]] = {}
    for manifest in datasets.glob("*/*/manifest.json"):
        if not manifest.parent.name.startswith("."):
            place = found.setdefault(manifest.parent.parent.name, [])
            place.append((manifest.stat().st_mtime, manifest.parent))
    return {name: sorted(places, reverse=True) for name, places in found.items()}


def read_dataset_record(made_at: float, folder: Path) -> DatasetRecord:
    """The record of a data set; one that cannot be read says so itself."""
    name, digest = folder.parent.name, folder.name
    try:
        value = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        train, val = value["train"], value["val"]
        return DatasetRecord(
            name=name,
            digest=digest,
            path=folder,
            made_at=made_at,
            train_tokens=int(train["tokens"]),
            val_tokens=int(val["tokens"]),
            documents=int(train["documents"]) + int(val["documents"]),
            bytes=sum(int(facts["bytes"]) for facts in value["files"].values()),
            quarantined=len(value["quarantined"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        wrong = f"its manifest cannot be read ({error})"
        return DatasetRecord(name=name, digest=digest, path=folder, made_at=made_at, wrong=wrong)


def newest_checkpoints(checkpoints: Path) -> dict[str, CheckpointRecord]:
    """By run, its newest checkpoint; runs without one that can be read are left out."""
    found = {}
    for run in _folders(checkpoints):
        records = sorted(run.glob("step-*/checkpoint.json"))
        if records and (record := _checkpoint(run.name, records[-1])):
            found[run.name] = record
    return found


def _folders(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from (Path(entry.path) for entry in os.scandir(place) if entry.is_dir())


def _checkpoint(run_id: str, path: Path) -> CheckpointRecord | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        facts = value["facts"]
        return CheckpointRecord(
            run_id=run_id,
            step=int(value["step"]),
            saved_at=path.stat().st_mtime,
            dataset=str(facts["dataset"]),
            val_loss=facts["val_loss"],
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # half removed, or of another version: its run is still in the tracking store
