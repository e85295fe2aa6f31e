"""What `brickroad doctor` looks at on this machine: versions, loops, workspace, disk, device, ports."""

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from flows.addresses import is_taken
from flows.doctor import Checks, Finding
from flows.services import MLFLOW_PORT, PREFECT_PORT
from model.device import choose_device
from storage.errors import StorageError
from storage.network import shown
from storage.store import STORE_VARIABLE, Store
from storage.workspace import Workspace
from tasks.answers import Api

_ENOUGH_DISK_BYTES = 2_000_000_000
_LOCK_FILE = Path(__file__).parent.parent / "requirements.lock"
_MOST_NAMED = 4
#: What happens beyond a bound, where pip takes what does not work.
_BREAKS = {
    "fastapi": "with it every local Prefect server crashes",
    "sqlalchemy": "with it Prefect's schedules never start a run",
}
_LOOPBACK = "127.0.0.1"


def checks_of_machine(workspace: Workspace) -> Checks:
    """The checks by name."""
    return {
        "Python": _python,
        "packages": lambda: [_packages()],
        "lock": _pins,
        "compiled loops": _loops,
        "workspace": lambda: [_folder(workspace)],
        "disk": lambda: [_disk(workspace)],
        "store": _store,
        "device": lambda: [device()],
        "port of Prefect": lambda: [port("Prefect", PREFECT_PORT, workspace)],
        "port of MLflow": lambda: [port("MLflow", MLFLOW_PORT, workspace)],
    }


def _python() -> list[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    is_known = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return [Finding(what="Python", ok=is_known, found=found, way_out="use Python 3.11 to 3.13")]


def _packages() -> Finding:
    """Whether every package is within the bounds that pyproject.toml gives reasons for."""
    wrong = [*wrong_versions(importlib.metadata.requires("brickroad") or [])]
    found = "; ".join(wrong) or "all within their bounds"
    return Finding(what="packages", ok=not wrong, found=found, way_out="run: make setup")


def wrong_versions(requirements: list[str]) -> Iterator[str]:
    """What is missing or out of its bounds; of an extra only what is there."""
    for line in requirements:
        requirement = Requirement(line)
        found = _version(requirement.name)
        if found is None:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                yield f"{requirement.name} is missing"
        elif not requirement.specifier.contains(found, prereleases=True):
            breaks = f" ({_BREAKS[requirement.name]})" if requirement.name in _BREAKS else ""
            yield f"{requirement.name} {found} is not {requirement.specifier}{breaks}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pins() -> list[Finding]:
    """How far this environment is the one that is proved: a fact, since the bounds say what works."""
    if not _LOCK_FILE.is_file():  # installed, without a checkout
        return []
    pinned, others = compare_with_lock(_LOCK_FILE.read_text(encoding="utf-8"))
    named = ", ".join(others[:_MOST_NAMED]) + (" …" if len(others) > _MOST_NAMED else "")
    differing = f"; {len(others)} differ: {named}" if others else ""
    return [
        Finding(what="lock", ok=True, found=f"{pinned} packages as requirements.lock has them{differing}")
    ]


def compare_with_lock(lock: str) -> tuple[int, list[str]]:
    """How many packages have the version of the lock, and those that have another one."""
    same, others = 0, []
    for line in lock.splitlines():
        if "==" not in line or line.startswith("#"):
            continue
        requirement = Requirement(line.partition(" #")[0])
        found = _version(requirement.name)
        if found is None or (requirement.marker and not requirement.marker.evaluate()):
            continue
        pinned = next(iter(requirement.specifier)).version
        if Version(found).public == Version(pinned).public:  # torch's builds differ behind the +
            same += 1
        else:
            others.append(f"{requirement.name} {found} instead of {pinned}")
    return same, others


def _loops() -> list[Finding]:
    from model import compiled

    # Without them all works, but characters are counted and encoded a third as fast: a fact, not a fault.
    missing = "not there: install a C compiler, then run make setup, to build faster"
    return [Finding(what="compiled loops", ok=True, found="there" if compiled.loops else missing)]


def _nearest(workspace: Workspace) -> Path:
    return next(folder for folder in (workspace.root, *workspace.root.parents) if folder.is_dir())


def _folder(workspace: Workspace) -> Finding:
    """Whether a file can be written where the workspace is, or will be, and gets to the disk."""
    folder = _nearest(workspace)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".brickroad-probe-") as file:
            file.write(b"probe")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        found, way_out = (
            f"{folder}: {error.strerror}",
            "choose a folder that you may write to with --workspace",
        )
        return Finding(what="workspace", ok=False, found=found, way_out=way_out)
    return Finding(what="workspace", ok=True, found=str(workspace.root))


def _disk(workspace: Workspace) -> Finding:
    free = shutil.disk_usage(_nearest(workspace)).free
    return Finding(
        what="disk",
        ok=free > _ENOUGH_DISK_BYTES,
        found=f"{free / 1e9:.1f} GB free",
        way_out="free some space; a default run takes 100 MB, OpenWebText 250 GB",
    )


def _store() -> list[Finding]:
    """Whether the store that the environment names can be used, if it names one."""
    try:
        store = Store.chosen()
        if not store:
            return []
        store.refuse_unusable()
        return [Finding(what="store", ok=True, found=store.address)]
    except (StorageError, ValueError, OSError) as error:
        way_out = f"check {STORE_VARIABLE} and the credentials of its server"
        return [Finding(what="store", ok=False, found=str(error), way_out=way_out)]


def device() -> Finding:
    """Whether what would be trained on works; no GPU is a fact, one that torch cannot use is a fault."""
    import torch

    chosen = choose_device("auto")
    gpus = _driver_sees()
    if chosen.type != "cuda":
        found = f"{chosen.type}, {torch.get_num_threads()} threads, no GPU (torch {torch.__version__})"
        if not gpus:
            return Finding(what="device", ok=True, found=found)
        found = f"NVIDIA's driver sees {gpus}, and torch {torch.__version__} does not"
        return Finding(
            what="device", ok=False, found=found, way_out="install the build of torch for its CUDA"
        )
    try:
        square = torch.eye(64, device=chosen)
        works = bool(torch.equal((square @ square).cpu(), torch.eye(64)))
        free, total = torch.cuda.mem_get_info()
    except RuntimeError as error:
        found, way_out = (
            f"{gpus}: {str(error).splitlines()[0]}",
            "look at nvidia-smi: another process may hold it",
        )
        return Finding(what="device", ok=False, found=found, way_out=way_out)
    found = f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, {gpus} (torch {torch.__version__})"
    return Finding(what="device", ok=works, found=found, way_out="it multiplies wrongly: use another one")


def _driver_sees() -> str:
    """GPUs and driver as NVIDIA's own library has them; nothing where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count, driver = pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return ""
    return f"{count} GPU{'s' if count != 1 else ''}, driver {driver}" if count else ""


def port(name: str, number: int, workspace: Workspace) -> Finding:
    """Who has a port that `brickroad up` takes by default: taken by others it is in the way of that alone, and no fault."""
    what = f"port {number}"
    if not is_taken(number):
        return Finding(what=what, ok=True, found=f"free, for {name}")
    if f":{number}" in "".join(workspace.services().values()):
        return Finding(what=what, ok=True, found=f"{name} of brickroad up on this workspace")
    holder = _holder(name, number)
    return Finding(
        what=what,
        ok=True,
        found=f"{holder} has it: brickroad up --{name.lower()}-port {_free_from(number + 1)}",
    )


def _holder(name: str, number: int) -> str:
    address = f"http://{_LOOPBACK}:{number}"
    is_one = Api(address).is_there("/api/health" if name == "Prefect" else "/health")
    return f"another {name} at {shown(address)}" if is_one else "another program"


def _free_from(number: int) -> int:
    return next(one for one in range(number, 65536) if not is_taken(one))
