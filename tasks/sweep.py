"""What processes that are no more have left open: their runs in MLflow and in Prefect are closed.

Only what has a dead lease is touched, and of Prefect's what a worker was to run and no process of this machine is running. So a
run that is healthy is never taken for dead, however slow it is.
"""

import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import psutil
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Crashed, Scheduled

from storage.leases import Lease, dead_leases, leases, remove_lease
from storage.workspace import Workspace
from tasks.at_work import FLOW_RUN, TRIES
from tasks.left_runs import close_left_runs, tell_what_is_left

_OPEN = (StateType.RUNNING, StateType.CANCELLING)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ENGINE_VARIABLE = "PREFECT__FLOW_RUN_ID"
# By so much a process may seem to have begun too early: Linux tells when it was booted in whole seconds.
_UNSURE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What was closed, by id; what a worker died over before it began, and begins again; leases left alone, with the reason."""

    trainings: list[str] = field(default_factory=list)
    flow_runs: list[str] = field(default_factory=list)
    rescheduled: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was to be done."""
        return not (self.trainings or self.flow_runs or self.rescheduled)


def sweep(workspace: Workspace) -> Swept:
    """Closes what dead processes have left, and tells MLflow what it has not heard. Safe to call at any time, and by several
    at once."""
    swept = Swept(
        left_alone=[
            f"{one}: of another machine; if that is no more: brickroad sweep --gone {one.host}"
            for one, how in leases(workspace.leases)
            if how == "elsewhere"
        ]
    )
    try:
        swept.trainings.extend(close_left_runs(workspace))
        swept.left_alone.extend(tell_what_is_left(workspace))
    finally:  # MLflow may be down, and Prefect is not
        _see_to_flow_runs(workspace, swept)
    return swept


def _see_to_flow_runs(workspace: Workspace, swept: Swept) -> None:
    with get_client(sync_client=True) as client:
        for lease in dead_leases(workspace.leases):
            if FLOW_RUN in lease.facts:
                _see_to(client, lease, workspace, swept)
        if urllib.parse.urlparse(PREFECT_API_URL.value() or "").hostname in _LOOPBACK:
            _see_to_workers_runs(client, workspace, swept)


def _see_to(client: SyncPrefectClient, lease: Lease, workspace: Workspace, swept: Swept) -> None:
    """Closes the flow run of a dead lease, and those within it, unless a later try of it is under way."""
    try:
        run = client.read_flow_run(UUID(lease.facts[FLOW_RUN]))
    except ObjectNotFound:
        swept.left_alone.append(f"{lease}: its flow run is not on this Prefect server")
        return
    if run.run_count <= int(lease.facts[TRIES]):
        swept.flow_runs.extend(_closed(client, run, f"its process is no more: {lease}"))
    remove_lease(workspace.leases, lease)


def _closed(client: SyncPrefectClient, run: FlowRun, reason: str) -> Iterator[str]:
    """Closes a flow run and all within it that is open."""
    within = filters.FlowRunFilterParentFlowRunId(any_=[run.id])
    for child in client.read_flow_runs(flow_run_filter=filters.FlowRunFilter(parent_flow_run_id=within)):
        yield from _closed(client, child, reason)
    of_run = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run.id]))
    state = filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=[StateType.RUNNING]))
    tasks = filters.TaskRunFilter(state=state)
    for task in client.read_task_runs(flow_run_filter=of_run, task_run_filter=tasks):
        client.set_task_run_state(task.id, Crashed(message=reason), force=True)
    if _is_open(run):
        end = Cancelled if run.state_type == StateType.CANCELLING else Crashed
        client.set_flow_run_state(run.id, end(message=reason), force=True)
        yield str(run.id)


def _is_open(run: FlowRun) -> bool:
    return run.state_type in _OPEN


def _see_to_workers_runs(client: SyncPrefectClient, workspace: Workspace, swept: Swept) -> None:
    """Of a server that only this machine reaches: runs that a worker took, and that no process here can be at.

    One that was never begun is scheduled again: nothing was done yet, so nothing is done twice.
    """
    held = {lease.facts.get(FLOW_RUN) for lease, _ in leases(workspace.leases)}
    taken = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(
            type=filters.FlowRunFilterStateType(any_=[*_OPEN, StateType.PENDING])
        ),
        deployment_id=filters.FlowRunFilterDeploymentId(is_null_=False),
    )
    found = [run for run in client.read_flow_runs(flow_run_filter=taken) if str(run.id) not in held]
    if not found:
        return
    engines, oldest_worker = _processes(PREFECT_API_URL.value() or "")
    for run in (each for each in found if str(each.id) not in engines):
        assert run.state is not None, "it was found by its state"
        if run.state.is_pending():
            if run.state.timestamp.timestamp() < oldest_worker + _UNSURE_SECONDS:
                again = Scheduled(message="its worker died before it began")
                client.set_flow_run_state(run.id, again, force=True)
                swept.rescheduled.append(str(run.id))
        elif _is_open(now := client.read_flow_run(run.id)):  # else it has ended by itself, and said so
            swept.flow_runs.extend(_closed(client, now, "its process is no more"))


def _processes(server: str) -> tuple[set[str], float]:
    """Flow runs that processes of this machine are at, and when the oldest worker of this server began, in seconds since 1970."""
    engines, oldest_worker = set[str](), float("inf")
    port = urllib.parse.urlparse(server).port
    for process in psutil.process_iter():
        try:
            words, variables = process.cmdline(), process.environ()
            engines.add(variables.get(_ENGINE_VARIABLE, ""))
            is_worker = "worker" in words and any(word.endswith("prefect") for word in words)
            if is_worker and urllib.parse.urlparse(variables.get(PREFECT_API_URL.name, server)).port == port:
                oldest_worker = min(oldest_worker, process.create_time())
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):  # ended, or another user's
            continue
    return engines, oldest_worker
