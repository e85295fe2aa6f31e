"""An overview of a workspace: what is there, what is on its way, what failed, and what to do next. It looks, and changes nothing.

Neither Prefect nor MLflow is imported or started: files, databases and servers that run are read as they are. What cannot be
had is `unknown`, with why; the rest is told all the same.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from storage.records import (
    CheckpointRecord,
    DatasetRecord,
    dataset_folders,
    newest_checkpoints,
    read_dataset_record,
)
from storage.usage import DiskUse, disk_use, free_bytes
from storage.workspace import Workspace
from tasks import prefect_facts
from tasks.answers import Api, Database, Unanswered
from tasks.mlflow_facts import (
    RegisteredVersion,
    TrackedFacts,
    TrackingDatabase,
    TrackingServer,
    TrainingRun,
)
from tasks.next_steps import NextStep, next_steps
from tasks.prefect_facts import FlowRun, FlowRuns

MODEL_NAME = "brickroad-gpt"  # as in tasks/registry.py, which imports MLflow
MOST_DATASETS = 50
#: A run on its way that was not heard of for so long may be dead: signs of life come every minute.
SILENT_SECONDS = 600.0
#: Another version of theirs may tell other things than ours reads; that must not hide all the rest.
_UNKNOWN = (Unanswered, LookupError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A server, and whether it answers now."""

    name: str
    address: str
    answers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedDataset:
    """The newest data set of a name, how many older ones of that name there are, and how many trainings used it."""

    newest: DatasetRecord
    earlier: int
    needed_by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that is to be seen. Lists have the newest first; `…_total` counts what they leave out too."""

    workspace: Path
    looked_at: float
    services: tuple[Service, ...]
    on_their_way: tuple[FlowRun, ...]
    scheduled: tuple[FlowRun, ...]
    failed: tuple[FlowRun, ...]
    datasets: tuple[NamedDataset, ...]
    names_total: int
    runs: tuple[TrainingRun, ...]
    runs_total: int
    versions: tuple[RegisteredVersion, ...]
    disk: tuple[DiskUse, ...]
    free_bytes: int
    unknown: dict[str, str]
    next: tuple[NextStep, ...]

    def address(self, service: str) -> str | None:
        """Where a service's pages are, if it answers."""
        return next((one.address for one in self.services if one.name == service and one.answers), None)

    def flow_run_url(self, run: FlowRun) -> str | None:
        """The page of a flow run, if a server shows it now."""
        pages = self.address("Prefect")
        return pages and f"{pages}/runs/flow-run/{run.id}"

    def run_url(self, run: TrainingRun) -> str | None:
        """The page of a training, if a server shows it now."""
        pages = self.address("MLflow")
        return pages and f"{pages}/#/experiments/{run.experiment_id}/runs/{run.id}"

    def is_silent(self, run: FlowRun | TrainingRun) -> bool:
        """Whether a run on its way was not heard of for so long that it may be dead."""
        return run.last_sign_at is not None and self.looked_at - run.last_sign_at > SILENT_SECONDS


def look_over(workspace: Workspace) -> Overview:
    """The overview of a workspace as it is now."""
    unknown: dict[str, str] = {}
    services = _services(workspace)
    try:
        flow_runs = _flow_runs(workspace, services)
    except _UNKNOWN as error:
        unknown["Prefect"], flow_runs = _why(error), FlowRuns()
    checkpoints = newest_checkpoints(workspace.checkpoints)
    try:
        tracked = tracking(workspace, services).facts(MODEL_NAME)
    except _UNKNOWN as error:
        unknown["MLflow"], tracked = _why(error), _tracked_from(checkpoints)
    now, folders = time.time(), dataset_folders(workspace.datasets)
    datasets = _datasets(folders, tracked)
    return Overview(
        workspace=workspace.root,
        looked_at=now,
        services=tuple(services),
        on_their_way=flow_runs.on_their_way,
        scheduled=tuple(run for run in flow_runs.scheduled if run.expected_at and run.expected_at > now),
        failed=flow_runs.failed,
        datasets=datasets,
        names_total=len(folders),
        runs=tracked.runs,
        runs_total=tracked.runs_total,
        versions=tracked.versions,
        disk=tuple(disk_use(workspace.root)),
        free_bytes=free_bytes(workspace.root),
        unknown=unknown,
        next=next_steps(
            dataset=datasets[0].newest if datasets else None,
            runs=tracked.runs,
            versions=tracked.versions,
            checkpoints=checkpoints,
            is_up=any(one.answers for one in services),
            free_bytes=free_bytes(workspace.root),
        ),
    )


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, Unanswered) else f"it tells what is not understood ({error!r})"


def tracking(workspace: Workspace, services: list[Service]) -> TrackingDatabase | TrackingServer:
    """Where trainings are told: the workspace's database, or what MLFLOW_TRACKING_URI names. Raises Unanswered."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        return TrackingDatabase(Database(workspace.mlflow / "mlflow.db"))
    if uri.startswith("sqlite:///"):
        return TrackingDatabase(Database(Path(unquote(uri.removeprefix("sqlite:///")))))
    login = ":".join(os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD"))
    if uri.startswith("http"):
        return TrackingServer(Api(uri, login.strip(":") and login))
    if server := next((one for one in services if one.name == "MLflow" and one.answers), None):
        return TrackingServer(Api(server.address, login.strip(":") and login))
    raise Unanswered(
        f"{urlsplit(uri).scheme}: only a server can read it; set MLFLOW_TRACKING_URI to the address of one"
    )


def _flow_runs(workspace: Workspace, services: list[Service]) -> FlowRuns:
    home = Path(os.environ.get("PREFECT_HOME", workspace.prefect))
    server = next((one for one in services if one.name == "Prefect"), None)
    if server and ("PREFECT_API_URL" in os.environ or not (home / "prefect.db").is_file()):
        login = os.environ.get("PREFECT_API_AUTH_STRING")
        return prefect_facts.from_api(Api(f"{server.address}/api", login))
    return prefect_facts.from_database(Database(home / "prefect.db"))


def _services(workspace: Workspace) -> list[Service]:
    """The servers that the environment names, else those of `brickroad up`."""
    known = workspace.services()
    prefect = os.environ.get("PREFECT_API_URL") or known.get("prefect_api_url")
    mlflow = os.environ.get("MLFLOW_TRACKING_URI") or known.get("mlflow_url")
    addresses = {
        "Prefect": prefect and str(prefect).rstrip("/").removesuffix("/api"),
        "MLflow": mlflow if mlflow and mlflow.startswith("http") else known.get("mlflow_url"),
    }
    return [
        Service(name=name, address=Api(address).address, answers=_answers(name, address))
        for name, address in addresses.items()
        if address
    ]


def _answers(name: str, address: str) -> bool:
    """Whether it says that it is well; one that wants a password does so too."""
    return Api(address).is_there("/api/health" if name == "Prefect" else "/health")


def _datasets(
    folders: dict[str, list[tuple[float, Path]]], tracked: TrackedFacts
) -> tuple[NamedDataset, ...]:
    newest_first = sorted(folders.values(), key=lambda places: places[0][0], reverse=True)
    found = []
    for places in newest_first[:MOST_DATASETS]:
        record = read_dataset_record(*places[0])
        needed = tracked.needed.get(record.reference, 0)
        found.append(NamedDataset(newest=record, earlier=len(places) - 1, needed_by=needed))
    return tuple(found)


def _tracked_from(checkpoints: dict[str, CheckpointRecord]) -> TrackedFacts:
    """What checkpoints alone tell of trainings."""
    newest_first = sorted(checkpoints.values(), key=lambda record: -record.saved_at)
    needed: dict[str, int] = {}
    for record in newest_first:
        needed[record.dataset] = needed.get(record.dataset, 0) + 1
    runs = tuple(
        TrainingRun(
            id=record.run_id,
            name=record.run_id,
            status="UNKNOWN",
            experiment_id="",
            began_at=record.saved_at,
            ended_at=None,
            last_sign_at=record.saved_at,
            dataset=record.dataset,
            step=record.step,
            steps=None,
            train_loss=None,
            val_loss=record.val_loss,
            val_bits_per_byte=None,
            tokens_per_second=None,
            prefect_url=None,
        )
        for record in newest_first
    )
    return TrackedFacts(runs=runs, runs_total=len(runs), needed=needed)
