"""Garbage: what nothing in a workspace needs any more, what removing it would free, and its removal.

Kept is what is referenced: data sets by runs, versions, checkpoints, and each name's newest; text by those data sets; of each
run the last checkpoints and the best, all of runs that an alias leads to, and what other checkpoints were made from. Whatever
somebody may be at stays, too. Removal can be killed at any moment and made again.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from storage.checkpoints import (
    Checkpoint,
    list_checkpoints,
    network_sha256,
    read_checkpoint,
    remove_checkpoint,
)
from storage.datasets import Dataset, list_datasets
from storage.errors import CheckpointError
from storage.leases import leases
from storage.removal import discard, freed_bytes, remains
from storage.run_records import RECORD_NAME
from storage.workspace import Workspace
from tasks.adapters import ADAPTER_OF
from tasks.left_runs import LEASE_TAG
from tasks.tracking.kept import Kept, StoredModel

_DAY_SECONDS = 86_400.0
_COMPILED_SECONDS = 30 * _DAY_SECONDS
_NAME_CHARACTERS = 32  # of each digest in the name of an evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How many checkpoints of a run stay: the last ones, and those with the lowest val loss."""

    last: int = 1
    best: int = 1

    def __post_init__(self) -> None:
        if self.last < 1 or self.best < 1:
            raise ValueError(f"keep_last is {self.last} and keep_best {self.best}; both must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pile:
    """Garbage of a kind: how much of it, and what the disk that has it has more of when all piles are gone."""

    kind: str
    items: int
    freed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """All of it, by kind, and why other things were left."""

    piles: list[Pile]
    left: list[str] = field(default_factory=list)

    @property
    def freed_bytes(self) -> int:
        """What the disk has more of without it."""
        return sum(pile.freed_bytes for pile in self.piles)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    checkpoints: list[Checkpoint]
    models: list[StoredModel]
    paths: dict[str, list[Path]]  # of the other kinds
    left: list[str]


def look_for_garbage(workspace: Workspace, keeping: Keeping) -> Garbage:
    """What would go; nothing does."""
    kept = Kept(workspace)
    return _weighed(_find(workspace, keeping, kept), kept)


def remove_garbage(workspace: Workspace, keeping: Keeping) -> Garbage:
    """Removes what is garbage by now. Of two at once one waits for the other; and for a build that is under way."""
    with workspace.lock("garbage"), workspace.lock("build"), workspace.lock("runs"):
        kept = Kept(workspace)
        found = _find(workspace, keeping, kept)
        weighed = _weighed(found, kept)
        for model in found.models:
            kept.discard_model(model.id, model.location)
        for checkpoint in found.checkpoints:
            remove_checkpoint(checkpoint)
        for paths in found.paths.values():
            for path in paths:
                discard(path)
        for folder in workspace.checkpoints.glob("*"):
            if folder.name in kept.deleted_run_ids and not list(folder.glob("step-*")):
                (folder / RECORD_NAME).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it is not empty
                    folder.rmdir()
    return weighed


def _find(workspace: Workspace, keeping: Keeping, kept: Kept) -> _Found:
    others = [
        (lease, how) for lease, how in leases(workspace.leases) if how != "dead" and lease.pid != os.getpid()
    ]
    oldest = min([time.time() - _DAY_SECONDS, *(lease.began_at for lease, _ in others)])
    led = {lease.id for lease, _ in others}
    busy = {
        run_id
        for run_id, run in kept.runs.items()
        if run.info.status == "RUNNING" or run.data.tags.get(LEASE_TAG) in led
    }
    staying, going = _checkpoints(workspace, keeping, kept, busy)
    left = [f"{lease}: what it may need stays" for lease, _ in others]
    datasets, unreadable = list_datasets(workspace.datasets)
    left += [str(error) for error in unreadable]
    needed = [] if others else _unneeded(datasets, kept, staying)
    stay = [one for one in datasets if one not in needed]
    texts = {source.stored_as for one in stay for source in one.manifest.sources}
    digests = {one.manifest.digest for one in stay}
    paths = {
        "data sets": [one.path for one in needed],
        "stored text": [] if others or unreadable else _unneeded_text(workspace, texts),
        "evaluations": _evaluations(workspace, staying, digests, kept),
        "compiled": [] if others else _untouched(workspace.compiled, time.time() - _COMPILED_SECONDS),
        "remains": _remains(workspace, oldest, has_others=bool(others)),
    }
    models = [one for one in kept.stored_models() if _is_garbage(one, staying, kept, busy, oldest)]
    return _Found(checkpoints=going, models=models, paths=paths, left=left)


def _weighed(found: _Found, kept: Kept) -> Garbage:
    groups = {
        "checkpoints": [one.path for one in found.checkpoints],
        "logged models": [one.folder for one in found.models if one.folder],
    } | found.paths
    freed = freed_bytes(list(groups.values()))
    piles = [
        Pile(kind=kind, items=len(paths), freed_bytes=size)
        for (kind, paths), size in zip(groups.items(), freed, strict=True)
    ]
    if afar := [one for one in found.models if not one.folder]:
        size = sum(map(kept.bytes_on_server, afar))
        piles.append(Pile(kind="logged models on the server", items=len(afar), freed_bytes=size))
    return Garbage(piles=piles, left=found.left)


def _checkpoints(
    workspace: Workspace, keeping: Keeping, kept: Kept, busy: set[str]
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Those that stay and those that go: of runs that MLflow has, all but the last and the best; of runs deleted there, all.

    Folders of which MLflow knows nothing (imported, quantized) stay.
    """
    staying, going = list[Checkpoint](), list[Checkpoint]()
    aliased = {one.run_id for one in kept.versions if one.has_alias}
    for folder in sorted(workspace.checkpoints.glob("*")):
        checkpoints = list_checkpoints(folder)
        if folder.name in kept.deleted_run_ids and folder.name not in aliased:
            going += checkpoints
        elif folder.name in kept.runs and folder.name not in aliased | busy:
            best = sorted(_measured(checkpoints), key=lambda one: one.facts["val_loss"])[: keeping.best]
            stay = [*checkpoints[-keeping.last :], *best]
            staying += stay
            going += [one for one in checkpoints if one not in stay]
        else:
            staying += checkpoints
    needed_paths, needed_shas = _origins([*staying, *_adapters(kept)], kept)
    needed = [one for one in going if str(one.path) in needed_paths or network_sha256(one) in needed_shas]
    return staying + needed, [one for one in going if one not in needed]


def _measured(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    return [one for one in checkpoints if one.facts.get("val_loss") is not None]


def _origins(checkpoints: Sequence[Checkpoint], kept: Kept) -> tuple[set[str], set[str]]:
    """Paths and sha256 of networks that checkpoints and versions were made from, and may need."""
    parents = [one.facts[key] for one in checkpoints for key in ("parent", ADAPTER_OF) if one.facts.get(key)]
    shas = {str(one["network_sha256"]) for one in parents if "network_sha256" in one}
    shas |= {one.tags["base_network_sha256"] for one in kept.versions if "base_network_sha256" in one.tags}
    return {str(one["path"]) for one in parents}, shas


def _adapters(kept: Kept) -> Iterator[Checkpoint]:
    """The checkpoints of registered versions that are on this disk."""
    for version in kept.versions:
        if version.folder:
            with contextlib.suppress(CheckpointError):  # its files are gone: it needs nothing
                yield read_checkpoint(version.folder / "artifacts" / "checkpoint")


def _unneeded(datasets: Sequence[Dataset], kept: Kept, staying: Sequence[Checkpoint]) -> list[Dataset]:
    """Data sets that no run, no version and no checkpoint was made from, and of whose name there are newer ones."""
    newest = {one.manifest.name: one.path for one in datasets}
    digests = kept.dataset_digests() | {str(one.facts.get("dataset_digest")) for one in staying}
    digests |= {str((one.facts.get("parent") or {}).get("dataset_digest")) for one in staying}
    return [
        one
        for one in datasets
        if one.manifest.digest not in digests and newest[one.manifest.name] != one.path
    ]


def _unneeded_text(workspace: Workspace, needed: set[str]) -> list[Path]:
    """Stored text, and its records, of shards that no data set has that stays."""
    files = [*workspace.documents.glob("*.parquet"), *workspace.documents.glob("*-*.json")]
    return [path for path in files if path.stem not in needed and path.name != "known-files.json"]


def _evaluations(
    workspace: Workspace, staying: Sequence[Checkpoint], digests: set[str], kept: Kept
) -> list[Path]:
    """Numbers of networks or of data sets that are not here any more."""
    networks = {network_sha256(one)[:_NAME_CHARACTERS] for one in [*staying, *_adapters(kept)]}
    known = {digest[:_NAME_CHARACTERS] for digest in digests}
    found = []
    for path in workspace.evaluations.glob("*.npz"):
        network, _, digest = path.stem.partition("-")
        if network not in networks or digest not in known:
            found.append(path)
    return found


def _is_garbage(
    model: StoredModel, staying: Sequence[Checkpoint], kept: Kept, busy: set[str], oldest: float
) -> bool:
    """Whether a logged model that is no version has lost its checkpoint or its run, or was never completed."""
    if model.run_id in busy or model.created_at > oldest:
        return False
    if model.run_id in kept.deleted_run_ids or not model.is_ready:
        return True
    places = {(one.path.parent.name, one.path.name) for one in staying}
    return model.kind == "checkpoint" and (str(model.run_id), model.name) not in places


def _untouched(folder: Path, since: float) -> list[Path]:
    return [path for path in folder.glob("*") if _last_touched(path) < since]


def _last_touched(path: Path) -> float:
    return max((one.lstat().st_mtime for one in [path, *path.rglob("*")]), default=0.0)


def _remains(workspace: Workspace, oldest: float, *, has_others: bool) -> list[Path]:
    """What killed processes have left: under a temporary name, half removed, or for a build that is no more."""
    found = remains(workspace.root, before=oldest)
    if not has_others:
        found += [path for path in workspace.root.glob(".rebuild-*") if path.lstat().st_mtime < oldest]
        found += [workspace.tokens] if workspace.tokens.exists() else []
        halves = [
            path for path in workspace.checkpoints.glob("*/step-*") if not (path / "checkpoint.json").exists()
        ]
        found += [path for path in halves if path.lstat().st_mtime < oldest]
    return found
