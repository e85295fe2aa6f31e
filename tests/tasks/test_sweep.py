"""What dead processes have left is closed, in MLflow and in Prefect; what is alive is not touched; the next run goes on."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_trainings import TINY, TRAIN

from storage.datasets import Dataset
from storage.journal import Journal
from storage.leases import leases, take_lease
from storage.workspace import Workspace
from tasks.answers import Api
from tasks.left_runs import LEASE_TAG, close_left_runs, tell_what_is_left
from tasks.tracking import Tracker, TrackingError
from tasks.tracking.entries import Ended, Points, to_fields
from tasks.training import train
from tasks.training_request import Cadence, TrainingRequest

STEPS = 4000


def test_a_training_that_was_killed_is_closed_and_goes_on_when_it_is_asked_for_again(
    dataset: Dataset, workspace: Workspace
) -> None:
    request = TrainingRequest(
        dataset=dataset.reference,
        settings=TINY | {"training.steps": str(STEPS), "training.device": "cpu"},
        cadence=Cadence(report_every_steps=20, evaluate_every_steps=STEPS, save_every_steps=20),
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", TRAIN, json.dumps(request.to_json()), str(workspace.root)],
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    ) as process:
        while not list(workspace.checkpoints.glob("*/step-*/checkpoint.json")):
            assert process.poll() is None
            time.sleep(0.05)
        (folder,) = workspace.checkpoints.iterdir()
        client = Tracker(workspace).client
        assert close_left_runs(workspace) == [], "it is alive"
        with pytest.raises(
            ValueError, match=r"goes on already: training by process \d+ .*wait for it, or stop it"
        ):
            train(TrainingRequest(dataset=dataset.reference, resume=folder.name), workspace)
        assert client.get_run(folder.name).info.status == "RUNNING"
        process.kill()
    assert close_left_runs(workspace) == [folder.name]
    assert client.get_run(folder.name).info.status == "KILLED"
    assert close_left_runs(workspace) == []
    assert leases(workspace.leases) == []
    from tasks.session import Session

    session = Session(request, workspace)
    assert session.run.run_id == folder.name, "the same training goes on"
    assert session.training.step > 0
    session.run.end("KILLED")
    session.close()


def test_what_a_run_that_is_over_has_left_in_its_journal_is_told(
    dataset: Dataset, workspace: Workspace
) -> None:
    tracker = Tracker(workspace)
    run_id = tracker.client.create_run(tracker.experiment_id).info.run_id
    for one, entries in (
        (run_id, [Points(step=1, at_ms=7, values={"a": 0.5}), Ended(status="FINISHED", at_ms=9)]),
        ("0" * 32, [Ended(status="FINISHED", at_ms=9)]),
    ):
        journal = Journal(workspace.journals / f"{one}.jsonl")
        for entry in entries:
            journal.append(to_fields(entry))
        journal.close()
    (left,) = tell_what_is_left(workspace)
    assert left.startswith(f"the journal of run {'0' * 32}: ")
    info = tracker.client.get_run(run_id).info
    assert (info.status, info.end_time) == ("FINISHED", 9)
    assert [path.stem for path in workspace.journals.glob("*.jsonl")] == ["0" * 32]


def test_a_run_whose_process_still_waits_for_the_store_is_left_to_it(workspace: Workspace) -> None:
    tracker = Tracker(workspace)
    held = take_lease(workspace.leases, "training", {"tracking_uri": tracker.place})
    run = tracker.client.create_run(tracker.experiment_id, tags={LEASE_TAG: held.lease.id})
    held.release()
    journal = Journal(workspace.journals / f"{run.info.run_id}.jsonl")
    assert close_left_runs(workspace) == []
    assert tracker.client.get_run(run.info.run_id).info.status == "RUNNING"
    journal.close()
    assert close_left_runs(workspace) == [run.info.run_id]
    assert leases(workspace.leases) == []


def test_flow_runs_are_closed_while_mlflow_is_down(
    prefect_server: None, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow, get_client
    from prefect.states import Running

    from tasks.at_work import FLOW_RUN, TRIES
    from tasks.sweep import sweep

    @flow
    def nothing() -> None: ...

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(nothing)
        client.set_flow_run_state(run.id, Running(), force=True)
        take_lease(workspace.leases, "nothing", {FLOW_RUN: str(run.id), TRIES: "1"}).release()
        take_lease(workspace.leases, "training", {"tracking_uri": "http://127.0.0.1:9"}).release()
        with pytest.raises(TrackingError, match="does not answer"):
            sweep(workspace)
        state = client.read_flow_run(run.id).state
    assert state is not None
    assert state.is_crashed()
    assert [lease.what for lease, _ in leases(workspace.leases)] == ["training"], "it is seen to next time"


def test_a_flow_at_work_gives_signs_of_life_and_its_end_waits_for_none(
    prefect_api: dict[str, str], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.context import FlowRunContext
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

    from tasks import at_work

    monkeypatch.setattr(at_work, "_ASK_SECONDS", 0.05)
    monkeypatch.setattr(at_work, "_BEAT_SECONDS", 0.1)
    api = Api(prefect_api["PREFECT_API_URL"])

    @flow
    @at_work.leased
    def patient(workspace: Path) -> int:
        assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() is None, "Prefect's own would be waited for"
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        resource = {"resource": {"id": [f"prefect.flow-run.{context.flow_run.id}"]}}
        wanted = resource | {"event": {"name": ["prefect.flow-run.heartbeat"]}}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if found := api.ask("/events/filter", {"filter": wanted, "limit": 2})["events"]:
                return len(found)
            time.sleep(0.1)
        return 0

    assert patient(workspace.root) > 0


def test_flow_runs_of_dead_processes_are_closed_and_others_are_not(
    prefect_server: None, workspace: Workspace
) -> None:
    from prefect import flow, get_client
    from prefect.states import Cancelling, Running

    from tasks.at_work import FLOW_RUN, TRIES
    from tasks.sweep import sweep

    @flow
    def nothing() -> None: ...

    with get_client(sync_client=True) as client:
        ids = {}
        for name in ("dead", "cancelled", "alive", "later try"):
            run = client.create_flow_run(nothing, name=name)
            client.set_flow_run_state(run.id, Running(), force=True)
            held = take_lease(
                workspace.leases,
                "nothing",
                {FLOW_RUN: str(run.id), TRIES: "1" if name != "later try" else "0"},
            )
            ids[name] = run.id
            if name == "cancelled":
                client.set_flow_run_state(run.id, Cancelling(), force=True)
            if name != "alive":
                held.release()
            else:
                alive = held
        swept = sweep(workspace)
        assert set(swept.flow_runs) == {str(ids["dead"]), str(ids["cancelled"])}
        states = {name: client.read_flow_run(one).state for name, one in ids.items()}
        assert {name: state.type.value for name, state in states.items() if state} == {
            "dead": "CRASHED",
            "cancelled": "CANCELLED",
            "alive": "RUNNING",
            "later try": "RUNNING",
        }
        assert "its process is no more: nothing by process" in str(states["dead"])
        assert [lease.facts[FLOW_RUN] for lease, _ in leases(workspace.leases)] == [str(ids["alive"])]
        assert sweep(workspace).is_nothing
        alive.release()
        assert sweep(workspace).flow_runs == [str(ids["alive"])]


def test_runs_whose_worker_is_no_more_are_closed_or_begin_again(
    prefect_api: dict[str, str], workspace: Workspace
) -> None:
    from prefect import flow, get_client
    from prefect.states import Cancelling, Completed, Pending, Running

    from tasks.sweep import sweep

    @flow
    def nothing() -> None: ...

    def process(**variables: str) -> "subprocess.Popen[str]":
        """One that looks like a worker, and has begun."""
        program = "print(flush=True); import time; time.sleep(600)"
        command = [sys.executable, "-c", program, "prefect", "worker"]
        started = subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True)
        assert started.stdout is not None
        assert started.stdout.readline() == "\n"
        return started

    with get_client(sync_client=True) as client, contextlib.ExitStack() as stack:

        def begun(**variables: str) -> None:
            stack.callback(lambda one: (one.kill(), one.communicate()), process(**variables))

        begun(PREFECT_API_URL="http://127.0.0.1:9/api")  # a worker of another server
        time.sleep(2.5)
        deployment = client.create_deployment(client.create_flow(nothing), "nothing")
        ids = {}
        for name in ("taken", "at work", "begun", "killed"):
            run = client.create_flow_run_from_deployment(deployment, name=name)
            state = Pending() if name == "taken" else Running()
            client.set_flow_run_state(run.id, state, force=True)
            ids[name] = run.id
        begun(PREFECT__FLOW_RUN_ID=str(ids["at work"]), PREFECT_API_URL="http://127.0.0.1:9/api")
        begun(**prefect_api)  # in the place of the worker that was at them
        client.set_flow_run_state(ids["killed"], Completed())
        swept = sweep(workspace)
        assert (swept.rescheduled, swept.flow_runs) == ([str(ids["taken"])], [str(ids["begun"])])
        time.sleep(2.5)
        client.set_flow_run_state(ids["taken"], Pending(), force=True)
        assert sweep(workspace).is_nothing, "the new worker may be at it"
        client.set_flow_run_state(ids["killed"], Running(), force=True)
        client.set_flow_run_state(ids["killed"], Cancelling(), force=True)
        assert sweep(workspace).flow_runs == [str(ids["killed"])], "whatever its worker lives to say"
        for one in ids.values():
            client.delete_flow_run(one)
