"""The flow that builds a data set again, elsewhere, from its recorded sources: the proof that it can be rebuilt."""

import tempfile
from dataclasses import replace
from pathlib import Path

from prefect import flow

from flows.build_dataset import build_dataset
from storage.workspace import Workspace
from tasks.at_hand import dataset_at_hand
from tasks.at_work import leased
from tasks.verify import compare, recorded_config


@flow(name="rebuild-dataset", flow_run_name="rebuild {reference}", persist_result=False)
@leased
def rebuild_dataset(reference: str, workspace: Path | None = None) -> list[str]:
    """Builds a data set again below a temporary folder, and compares bytes; returns what differs, one line each.

    Args:
        reference: name, name@digest or path.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    place = Workspace.at(workspace)
    dataset = dataset_at_hand(reference, place)
    with tempfile.TemporaryDirectory(dir=place.root, prefix=".rebuild-") as temporary:
        config = replace(recorded_config(dataset), name=dataset.manifest.name)
        again = build_dataset(config, workspace=Path(temporary), store="")  # a store would give it back
        return compare(dataset, again.dataset)
