"""Whether a training would only repeat one that has ended: same data set, same recipe."""

from model.config import recipe_to_dict
from storage.checkpoints import list_checkpoints
from storage.workspace import Workspace
from tasks.at_hand import dataset_at_hand
from tasks.tokenizers import load_tokenizer
from tasks.tracking import Tracker
from tasks.training_request import TrainingRequest


def find_trained(request: TrainingRequest, workspace: Workspace) -> str | None:
    """The id of a finished run with the data set and the recipe that are asked for, and whose checkpoints are here."""
    if request.resume or request.fine_tuning:
        return None
    dataset = dataset_at_hand(request.dataset, workspace)
    tokenizer = load_tokenizer(dataset.tokenizer_json())
    recipe = request.recipe(vocabulary_size=tokenizer.vocabulary_size, end_of_text=tokenizer.end_of_text)
    for run_id in Tracker(workspace).finished_runs(dataset.manifest.digest):
        found = list_checkpoints(workspace.checkpoints / run_id)
        if found and found[-1].facts["recipe"] == recipe_to_dict(recipe):
            return run_id
    return None
