"""The flow that proves data sets: all their bytes are as recorded, and built again they come out the same."""

from pathlib import Path

from prefect import flow

from flows.rebuild_dataset import rebuild_dataset
from storage.datasets import Dataset, list_datasets
from storage.errors import DatasetError, StorageError
from storage.workspace import Workspace
from tasks.artifacts import show_verified
from tasks.at_hand import dataset_at_hand
from tasks.at_work import leased
from tasks.engine import HEALING, road_task
from tasks.verify import verify

_verify_task = road_task("check every byte", task_run_name="check {dataset.reference}", **HEALING)(verify)


@flow(name="verify-dataset", flow_run_name="verify data sets", persist_result=False)
@leased
def verify_dataset(
    reference: str | None = None, rebuild: bool = True, workspace: Path | None = None
) -> dict[str, list[str]]:
    """Data sets to what is wrong with each, one line a finding; fails if there is one.

    Args:
        reference: name, name@digest or path; by default the newest data set of every name.
        rebuild: also build each again from its recorded sources, elsewhere, and compare all bytes.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    place = Workspace.at(workspace)
    datasets = [dataset_at_hand(reference, place)] if reference else _newest(place)
    found = {dataset.reference: _mismatches(dataset, rebuild, place) for dataset in datasets}
    show_verified(found, rebuild)
    if wrong := [line for lines in found.values() for line in lines]:
        raise DatasetError(f"{len(wrong)} of what was verified is not as recorded: {wrong[0]}")
    return found


def _newest(place: Workspace) -> list[Dataset]:
    """The newest of every name. Raises the error of one that cannot be read: it is what a verification is to find."""
    datasets, errors = list_datasets(place.datasets)
    if errors:
        raise errors[0]
    return list({dataset.manifest.name: dataset for dataset in datasets}.values())


def _mismatches(dataset: Dataset, rebuild: bool, place: Workspace) -> list[str]:
    _, wrong = _verify_task(dataset)
    if wrong or not rebuild or dataset.prompts():  # prompts are made for a model, not from a corpus
        return wrong
    try:
        return rebuild_dataset(str(dataset.path), workspace=place.root)
    except (StorageError, ValueError) as error:
        return [f"{dataset.reference}: cannot be built again: {error}"]
