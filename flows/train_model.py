"""The flow that turns a data set into a trained and evaluated model, with its run in MLflow."""

from dataclasses import dataclass
from pathlib import Path

from prefect import State, flow
from prefect.states import Completed

from flows.evaluate_model import evaluate_model
from flows.events import ModelTrained, tell
from flows.limits import gpu_slot
from storage.workspace import Workspace
from tasks.artifacts import show_training
from tasks.at_work import leased
from tasks.evaluation import Evaluation
from tasks.tracking import Tracker, refuse_unwritable_artifacts
from tasks.trained_before import find_trained
from tasks.training import train_task
from tasks.training_request import TrainedModel, TrainingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAndEvaluated:
    """What a training came to, and how good it is."""

    trained: TrainedModel
    evaluation: Evaluation


@flow(name="train-model", flow_run_name="train {request.dataset}", persist_result=False)
@leased
def train_model(
    request: TrainingRequest, unless_trained: bool = False, workspace: Path | None = None
) -> "TrainedAndEvaluated | State[None]":
    """Data set to model.

    Args:
        request: the data set, the preset, settings on top of it, or a run to go on with.
        unless_trained: do nothing if a finished run has this data set and this recipe.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    place = Workspace.at(workspace)
    if request.node > 0:
        raise ValueError(
            "a flow has its training on the first machine; on the others type brickroad train with --node"
        )
    if unless_trained and (run_id := find_trained(request, place)):
        return Completed(name="Nothing to do", message=f"run {run_id} has this data set and this recipe")
    refuse_unwritable_artifacts(place)
    with gpu_slot():
        # Called, not submitted: signals and cancels reach the main thread only.
        trained = train_task(request, place)
        assert trained is not None, "the first machine has the model"
        evaluation = evaluate_model(trained.run_id, workspace=place.root)
        show_training(trained, evaluation, place, Tracker(place).run_url(trained.run_id))
    tell(ModelTrained(run_id=trained.run_id, dataset=evaluation.dataset))
    return TrainedAndEvaluated(trained=trained, evaluation=evaluation)
