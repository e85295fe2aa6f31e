"""What a fine-tuning is judged by, before and after: its own data set, and its parent's, of which it may forget; its adapters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.config import Recipe, recipe_from_dict
from model.evaluation import EvaluationReport
from model.lora import add_adapters, trainable_count
from model.network import empty_network, parameter_count
from storage.checkpoints import latest_checkpoint, read_checkpoint
from storage.datasets import find_dataset
from storage.errors import DatasetError
from storage.workspace import Workspace
from tasks.adapters import save_adapter
from tasks.at_hand import dataset_at_hand
from tasks.engine import road_task
from tasks.evaluation import measure, refuse_other_rows
from tasks.loading import load_model
from tasks.parent import Parent, find_parent
from tasks.tracking import ModelRegistry, RunLog, Tracker
from tasks.training_request import TrainedModel, TrainingRequest

ADAPTER_NAME = "brickroad-adapter"
_ALIAS = "newest"


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningPlan:
    """What is about to learn, and on what it is measured. `parent_dataset` is None if that is not here to be measured on;
    `cut_responses` were too long for the model."""

    parent: Parent
    dataset: str
    parent_dataset: str | None
    cut_responses: int
    parameters: int
    trainable_parameters: int

    @property
    def trainable_share(self) -> float:
        """Of all parameters, adapters counted."""
        return self.trainable_parameters / self.parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Exact val losses on one data set before and after, in nats per token."""

    dataset: str
    before: float
    after: float

    @classmethod
    def of(
        cls,
        datasets: list[str],
        before: Mapping[str, EvaluationReport],
        after: Mapping[str, EvaluationReport],
    ) -> "Change | None":
        """The change on the first of these data sets; None if there is none."""
        for one in datasets:
            return cls(dataset=one, before=before[one].loss, after=after[one].loss)
        return None

    @property
    def difference(self) -> float:
        """Above 0: it got worse."""
        return self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAdapter:
    """Adapters in a folder of their own, and the version they are registered as."""

    path: Path
    name: str
    version: str


def plan_fine_tuning(request: TrainingRequest, workspace: Workspace) -> FineTuningPlan:
    """Finds the parent and the data sets, and refuses what cannot be before any work: ValueError, CheckpointError, DatasetError."""
    assert request.fine_tuning is not None, "a fine-tuning begins from a model"
    parent = find_parent(request.fine_tuning.model, workspace)
    dataset = dataset_at_hand(request.dataset, workspace)
    parent.refuse_other_tokenizer(dataset)
    if request.resume:
        recipe = recipe_from_dict(latest_checkpoint(workspace.checkpoints / request.resume).facts["recipe"])
    else:
        recipe = request.recipe(
            vocabulary_size=dataset.manifest.vocabulary_size,
            end_of_text=dataset.manifest.end_of_text,
            parent=parent.recipe,
        )
    refuse_other_rows(dataset, recipe.network.block_size)
    prompts = dataset.prompts()
    parameters, trainable = _counts(recipe)
    return FineTuningPlan(
        parent=parent,
        dataset=dataset.reference,
        parent_dataset=_parent_dataset(parent, workspace),
        cut_responses=prompts.cut if prompts else 0,
        parameters=parameters,
        trainable_parameters=trainable,
    )


def _counts(recipe: Recipe) -> tuple[int, int]:
    """Parameters, and those of them that learn."""
    network = empty_network(recipe.network)
    if recipe.lora:
        add_adapters(network, recipe.lora, seed=0)
    return parameter_count(network), trainable_count(network)


def _parent_dataset(parent: Parent, workspace: Workspace) -> str | None:
    try:
        return find_dataset(workspace.datasets, parent.dataset).reference if parent.dataset else None
    except DatasetError:
        return None


def exact_losses(path: Path, datasets: list[str], workspace: Workspace) -> dict[str, EvaluationReport]:
    """The loss of a checkpoint on the whole val split of each data set."""
    loaded = load_model(path)
    return {one: measure(loaded, dataset_at_hand(one, workspace), workspace) for one in datasets}


def keep_adapter(trained: TrainedModel, workspace: Workspace) -> StoredAdapter | None:
    """Stores the adapters of a training's best checkpoint by themselves, and registers them; None if it has none."""
    checkpoint = read_checkpoint(trained.checkpoint)
    if "lora" not in checkpoint.facts["recipe"]:
        return None
    adapter, parent = save_adapter(checkpoint), checkpoint.facts["parent"]
    version = ModelRegistry(workspace).register(
        ADAPTER_NAME,
        trained.run_id,
        adapter,
        alias=_ALIAS,
        description=f"adapters of run {parent['run_id']}, step {parent['step']}, learnt on {checkpoint.facts['dataset']}",
        tags={"base_run_id": str(parent["run_id"]), "base_network_sha256": parent["network_sha256"]},
    )
    return StoredAdapter(path=adapter.path, name=ADAPTER_NAME, version=version)


def log_changes(run_id: str, own: Change, forgetting: Change | None, workspace: Workspace) -> None:
    """Tells the run what the fine-tuning changed."""
    numbers = {"fine_tuning/before": own.before, "fine_tuning/after": own.after}
    if forgetting:
        numbers |= {"forgetting/before": forgetting.before, "forgetting/after": forgetting.after}
    RunLog(Tracker(workspace), run_id).summary(numbers)


plan_task = road_task("plan fine-tuning")(plan_fine_tuning)
exact_losses_task = road_task("exact losses", tags=["gpu"])(exact_losses)
keep_adapter_task = road_task("keep adapter")(keep_adapter)
log_changes_task = road_task("log changes")(log_changes)
