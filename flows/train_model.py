"""The flow that turns a data set into a trained and evaluated model, with its run in MLflow."""

from dataclasses import dataclass
from pathlib import Path

from prefect import flow

from flows.evaluate_model import evaluate_model
from storage.workspace import Workspace
from tasks.artifacts import show_training
from tasks.evaluation import Evaluation
from tasks.tracking import Tracker
from tasks.training import train_task
from tasks.training_request import TrainedModel, TrainingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAndEvaluated:
    """What a training came to, and how good it is."""

    trained: TrainedModel
    evaluation: Evaluation


@flow(name="train-model", flow_run_name="train {request.dataset}", persist_result=False)
def train_model(request: TrainingRequest, workspace: Path | None = None) -> TrainedAndEvaluated:
    """Data set to model.

    Args:
        request: the data set, the preset, settings on top of it, or a run to go on with.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    place = Workspace.at(workspace)
    if request.node > 0:
        raise ValueError(
            "a flow has its training on the first machine; on the others type brickroad train with --node"
        )
    trained = train_task(
        request, place
    )  # called, not submitted: signals and cancels reach the main thread only
    assert trained is not None, "the first machine has the model"
    evaluation = evaluate_model(trained.run_id, workspace=place.root)
    show_training(trained, evaluation, place, Tracker(place).run_url(trained.run_id))
    return TrainedAndEvaluated(trained=trained, evaluation=evaluation)
