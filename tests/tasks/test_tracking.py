"""The door to MLflow: what is missing is told from what is down, and no point is told twice."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from servers import web_server

from storage.datasets import Dataset
from storage.workspace import Workspace
from tasks.tracking import EXPERIMENT, ModelRegistry, Tracker, TrackingError

DOWN = "http://127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_no_champion_is_not_a_registry_that_is_down(workspace: Workspace, no_retries: None) -> None:
    registry = ModelRegistry(workspace)
    assert registry.champion("brickroad-gpt") is None
    assert registry.version_folder("brickroad-gpt/1") is None
    assert registry.version_folder("brickroad-gpt/first") is None
    registry.client = MlflowClient(tracking_uri=DOWN)
    with pytest.raises(MlflowException):
        registry.champion("brickroad-gpt")


def test_a_resumed_run_logs_no_point_twice(dataset: Dataset, workspace: Workspace) -> None:
    tracker = Tracker(workspace)
    run = tracker.start_run("r", dataset, {}, {})
    for step in range(1, 6):
        run.metrics(step, {"train_loss": float(step)})
    run.end("KILLED")
    again = tracker.resume_run(run.run_id, {"again": "yes"})
    for step in range(3, 8):
        again.metrics(step, {"train_loss": float(step)})
    again.end("FINISHED")
    points = tracker.client.get_metric_history(run.run_id, "train_loss")
    assert [point.step for point in points] == list(range(1, 8))


def test_artifacts_of_our_store_stay_in_the_workspace(workspace: Workspace) -> None:
    experiment = Tracker(workspace).client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert Path(experiment.artifact_location.removeprefix("file://")).is_relative_to(workspace.root)


def test_many_parameters_go_in_batches(dataset: Dataset, workspace: Workspace) -> None:
    tracker = Tracker(workspace)
    run = tracker.start_run("r", dataset, {f"p{number}": number for number in range(250)}, {})
    assert len(tracker.client.get_run(run.run_id).data.params) == 250


def test_a_server_that_answers_with_errors_is_not_one_that_is_away(
    workspace: Workspace, no_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does MLflow with passwords while its PostgreSQL is away."""
    with web_server({}) as server:
        server.wrong_for_ever = 503
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with pytest.raises(TrackingError, match="look whether its database runs"):
            Tracker(workspace)
