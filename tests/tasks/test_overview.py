"""What an overview says of real stores: the database and the server tell the same; runs on their way, failed, and to go on with."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.workspace import Workspace
from tasks.answers import Api, Database, Unanswered
from tasks.curves import Level, loss_svg
from tasks.mlflow_facts import TrackedFacts, TrackingDatabase, TrackingServer, TrainingRun
from tasks.next_steps import next_steps
from tasks.overview import SILENT_SECONDS, look_over
from tasks.prefect_facts import FlowRun, from_api
from tasks.state_words import alike, reason_of, state_of
from tasks.tracking import Tracker


def a_flow_run(name: str, message: str = "") -> FlowRun:
    return FlowRun(
        id=name, name=name, flow="build-dataset", state="Failed", message=message,
        expected_at=None, began_at=1.0, changed_at=1.0,
    )  # fmt: skip


def test_runs_and_versions_are_read_as_mlflow_wrote_them(workspace: Workspace) -> None:
    from mlflow.entities import Metric, Param

    tracker = Tracker(workspace)
    run = tracker.client.create_run(tracker.experiment_id, run_name="pocket-web").info.run_id
    points = [Metric("train_loss", 5.0 / step, int(time.time() * 1000), step) for step in range(1, 1001)]
    points += [Metric("val_loss", float("nan"), int(time.time() * 1000), 1000)]
    for start in range(0, len(points), 900):
        tracker.client.log_batch(run, metrics=points[start : start + 900])
    tracker.client.log_batch(run, params=[Param("dataset", "web@0123"), Param("training.steps", "2000")])
    tracker.client.create_registered_model("brickroad-gpt")
    tracker.client.create_model_version(
        "brickroad-gpt", "file:///nowhere", run, {"val_loss": "1.25"}, description="champion: it is the first"
    )
    tracker.client.set_registered_model_alias("brickroad-gpt", "champion", "1")

    overview = look_over(workspace)
    assert overview.unknown == {}
    (found,) = overview.runs
    assert (found.id, found.name, found.status) == (run, "pocket-web", "RUNNING")
    assert (found.step, found.steps, found.dataset) == (1000, 2000, "web@0123")
    assert (found.train_loss, found.val_loss) == (0.005, None), "what is no number is not told as one"
    assert not overview.is_silent(found)
    (version,) = overview.versions
    assert (version.is_champion, version.val_loss, version.run_id) == (True, 1.25, run)
    assert any(step.command.startswith("generate brickroad-gpt@champion") for step in overview.next)
    curve = TrackingDatabase(Database(workspace.mlflow / "mlflow.db")).curve(run, "train_loss")
    assert curve[-1] == (1000, 0.005)
    assert len(curve) <= 120


def answered(server: TrackingServer) -> TrackedFacts | None:
    """What it tells, if it does so yet: its first answers take long on a busy machine."""
    try:
        return server.facts("brickroad-gpt")
    except Unanswered:
        return None


def test_a_tracking_server_tells_what_its_database_does(workspace: Workspace) -> None:
    from mlflow.entities import Metric

    tracker = Tracker(workspace)
    run = tracker.client.create_run(tracker.experiment_id, run_name="one").info.run_id
    tracker.client.log_batch(
        run, metrics=[Metric("train_loss", 2.5, 1, 10), Metric("train_loss", 2.0, 2, 20)]
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [Path(sys.executable).parent / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
         "--workers", "1", "--backend-store-uri", tracker.uri],
        env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        api = Api(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 120
        told, read = TrackingServer(api), TrackingDatabase(Database(workspace.mlflow / "mlflow.db"))
        while (facts := answered(told)) is None:
            assert time.monotonic() < deadline, "it did not start"
            time.sleep(0.5)
        assert facts == read.facts("brickroad-gpt")
        assert told.curve(run, "train_loss") == read.curve(run, "train_loss") == [(10, 2.5), (20, 2.0)]
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def test_a_prefect_server_tells_failures_and_their_reasons(prefect_api: dict[str, str]) -> None:
    from prefect import flow

    @flow(name="doomed", flow_run_name="doomed for a reason")
    def doomed() -> None:
        raise ValueError("there is no way\nbut this")

    with pytest.raises(ValueError, match="no way"):
        doomed()
    found = from_api(Api(prefect_api["PREFECT_API_URL"].removesuffix("/")))
    mine = next(run for run in found.failed if run.flow == "doomed")
    assert (mine.name, mine.state) == ("doomed for a reason", "Failed")
    assert reason_of(mine) == "ValueError: there is no way"


def test_a_flow_that_fails_every_night_is_told_once() -> None:
    failed = [a_flow_run("build a", "x"), a_flow_run("build b", "x"), a_flow_run("build c", "y")]
    assert [(run.name, times) for run, times in alike(failed)] == [("build a", 2), ("build c", 1)]


def test_a_run_that_is_not_heard_of_is_silent(workspace: Workspace) -> None:
    tracker = Tracker(workspace)
    long_ago = int((time.time() - 2 * SILENT_SECONDS) * 1000)
    tracker.client.create_run(tracker.experiment_id, start_time=long_ago)
    overview = look_over(workspace)
    assert overview.is_silent(overview.runs[0])
    assert state_of(overview.runs[0], is_silent=True)[0] == "silent"


def test_the_first_thing_to_do_when_the_disk_is_full_is_not_to_fill_it() -> None:
    steps = next_steps(
        dataset=None, runs=list[TrainingRun](), versions=[], checkpoints={}, is_up=True, free_bytes=0
    )
    assert steps[0].command == "doctor"


def test_curves_are_drawn_of_what_is_a_number_and_names_are_escaped() -> None:
    svg = loss_svg([(1, 3.0), (2, float("nan")), (3, 2.0)], [(3, 2.1)], [Level(name="<b>", value=2.5)])
    assert "nan" not in svg
    assert "&lt;b&gt;" in svg
    assert "3 steps" in svg
    assert "<polyline" not in loss_svg([], [])
