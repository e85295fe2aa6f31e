"""Flow runs that a person or a limit stops: what they had is saved, both systems say how they ended, the next one goes on."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_trainings import TINY

from storage.checkpoints import latest_checkpoint
from storage.datasets import Dataset
from storage.workspace import Workspace
from tasks.tracking import Tracker
from tasks.training_request import TrainingRequest

pytestmark = pytest.mark.usefixtures("prefect_server")
BRICKROAD = Path(sys.executable).parent / "brickroad"
ENDLESS = TINY | {"training.steps": "1000000", "training.device": "cpu"}


def wait_for_checkpoint(workspace: Workspace) -> Path:
    """The folder of the run that is being trained, as soon as it has a checkpoint."""
    while not (found := list(workspace.checkpoints.glob("*/step-*/checkpoint.json"))):
        time.sleep(0.1)
    return found[0].parent.parent


def test_a_typed_training_that_is_cancelled_on_the_page_saves_and_goes_on_when_it_is_typed_again(
    dataset: Dataset, workspace: Workspace, prefect_api: dict[str, str]
) -> None:
    from prefect import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelling

    settings = [word for name, value in ENDLESS.items() for word in ("--set", f"{name}={value}")]
    training: list[Any] = [BRICKROAD, "train", dataset.reference, *settings]
    place = ["--workspace", workspace.root, "--json"]
    asked = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": os.environ | prefect_api,
    }
    for number in (1, 2):
        with subprocess.Popen([*training, *place], **asked) as process:
            run = wait_for_checkpoint(workspace)
            step = latest_checkpoint(run).step
            while latest_checkpoint(run).step == step:
                time.sleep(0.1)
            named = filters.FlowRunFilter(
                name=filters.FlowRunFilterName(any_=[f"train {dataset.reference}"]),
                state=filters.FlowRunFilterState(
                    type=filters.FlowRunFilterStateType(any_=[StateType.RUNNING])
                ),
            )
            with get_client(sync_client=True) as client:
                (flow_run,) = client.read_flow_runs(flow_run_filter=named)
                client.set_flow_run_state(flow_run.id, Cancelling(), force=True)
                _, words = process.communicate()
                state = client.read_flow_run(flow_run.id).state
        assert process.returncode == 143, words
        assert "This flow run was cancelled: it saves, and ends." in words
        assert "Traceback" not in words
        assert state is not None
        assert state.is_cancelled()
        assert "cancelled by a person" in str(state.message)
        tracker = Tracker(workspace)
        (only,) = tracker.client.search_runs([tracker.experiment_id])
        assert (only.info.run_id, only.info.status) == (run.name, "KILLED")
        if number == 2:
            assert f"run {run.name} goes on from step" in words


@pytest.mark.timeout(method="thread")  # the alarm is the flow's
@pytest.mark.parametrize(("processes", "times"), [(1, 2), (2, 1)])
def test_a_flow_that_takes_longer_than_it_may_saves_and_goes_on_next_time(
    dataset: Dataset, workspace: Workspace, processes: int, times: int
) -> None:
    from flows.train_model import train_model

    request = TrainingRequest(dataset=dataset.reference, settings=ENDLESS, processes=processes)
    tracker, steps = Tracker(workspace), [0]
    for _ in range(times):
        state = train_model.with_options(timeout_seconds=30)(
            request, workspace=workspace.root, return_state=True
        )
        assert state.name == "TimedOut"
        (only,) = tracker.client.search_runs([tracker.experiment_id])
        assert only.info.status == "KILLED"
        points = [point.step for point in tracker.client.get_metric_history(only.info.run_id, "train_loss")]
        assert points == sorted(set(points)), "each point once"
        steps.append(latest_checkpoint(workspace.checkpoints / only.info.run_id).step)
        assert points[-1] == steps[-1] > steps[-2], "what was done when time was up is saved"


def test_a_deployed_training_needs_the_limit_and_a_typed_one_waits_for_nobody() -> None:
    from prefect import flow, get_client
    from prefect.flow_engine import run_flow

    from flows.limits import gpu_slot

    @flow(persist_result=False)
    def training() -> str:
        with gpu_slot():
            return "has it"

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(training), name="deployed")
        deployed = client.create_flow_run_from_deployment(deployment)
    assert training() == "has it"
    with pytest.raises(ValueError, match=r"no concurrency limit 'gpu'.*prefect gcl create gpu --limit 1"):
        run_flow(training, flow_run=deployed)
