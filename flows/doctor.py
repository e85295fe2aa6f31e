"""`brickroad doctor`: what is wrong with this machine, and how to mend it."""

import importlib.metadata
import os
import shutil
import socket
import sys
from dataclasses import dataclass

from packaging.requirements import Requirement

from storage.errors import StorageError
from storage.workspace import Workspace

_ENOUGH_DISK_BYTES = 2_000_000_000
_PORTS = {"Prefect": 4200, "MLflow": 5000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    way_out: str = ""


def examine(workspace: Workspace) -> list[Finding]:
    """Looks at versions, disk, workspace, stores, device and ports."""
    return [
        _python(),
        _packages(),
        _loops(),
        *_workspace(workspace),
        *_store(),
        _tracking(workspace),
        _prefect(),
        _device(),
        *(_port(name, port) for name, port in _PORTS.items()),
    ]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        what="Python",
        ok=(3, 11) <= sys.version_info[:2] <= (3, 13),
        found=found,
        way_out="use Python 3.11 to 3.13",
    )


def _packages() -> Finding:
    """Whether every package is within the bounds that pyproject.toml gives reasons for."""
    wrong = []
    for line in importlib.metadata.requires("brickroad") or []:
        requirement = Requirement(line)
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    return Finding(
        what="packages",
        ok=not wrong,
        found="; ".join(wrong) or "all within their bounds",
        way_out="run: make setup",
    )


def _loops() -> Finding:
    from model import compiled

    # Without them all works, but characters are counted and encoded a third as fast: a fact, not a fault.
    found = (
        "there" if compiled.loops else "not there: install a C compiler, then run make setup, to build faster"
    )
    return Finding(what="compiled loops", ok=True, found=found)


def _workspace(workspace: Workspace) -> list[Finding]:
    folder = next(folder for folder in (workspace.root, *workspace.root.parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    return [
        Finding(
            what="workspace",
            ok=os.access(folder, os.W_OK),
            found=str(workspace.root),
            way_out="choose a folder that you may write to with --workspace",
        ),
        Finding(
            what="disk",
            ok=free > _ENOUGH_DISK_BYTES,
            found=f"{free / 1e9:.1f} GB free",
            way_out="free some space; a default run takes 100 MB, OpenWebText 250 GB",
        ),
    ]


def _store() -> list[Finding]:
    """Whether the store that the environment names can be used, if it names one."""
    from storage.store import STORE_VARIABLE, Store

    try:
        store = Store.chosen()
        if not store:
            return []
        store.refuse_unusable()
        return [Finding(what="store", ok=True, found=store.address)]
    except (StorageError, ValueError, OSError) as error:
        way_out = f"check {STORE_VARIABLE} and the credentials of its server"
        return [Finding(what="store", ok=False, found=str(error), way_out=way_out)]


def _tracking(workspace: Workspace) -> Finding:
    from tasks.tracking import Tracker

    where = os.environ.get("MLFLOW_TRACKING_URI", "the workspace's database")
    try:
        Tracker(workspace)
        return Finding(what="MLflow", ok=True, found=where)
    except Exception as error:  # whatever the store says is the finding
        reason = str(error).splitlines()[0]
        return Finding(
            what="MLflow",
            ok=False,
            found=f"{where}: {reason}",
            way_out="check MLFLOW_TRACKING_URI and that it runs",
        )


def _prefect() -> Finding:
    server = os.environ.get("PREFECT_API_URL")
    found = (
        f"server at {server}"
        if server
        else "no server running: each run starts its own (brickroad up keeps one)"
    )
    return Finding(what="Prefect", ok=True, found=found)


def _device() -> Finding:
    import torch

    from model.device import choose_device

    device = choose_device("auto")
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads"
    )
    return Finding(what="device", ok=True, found=f"{name} (torch {torch.__version__})")


def _port(name: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
    # A taken port is what one wants while `brickroad up` runs, and in the way otherwise: a fact, not a fault.
    return Finding(what=f"port {port} ({name})", ok=True, found="in use" if taken else "free")
