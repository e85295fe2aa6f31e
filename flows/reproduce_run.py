"""The flow that repeats a run from its record: the proof that a record is enough, or the place where the two part."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prefect import flow

from flows.build_dataset import build_dataset
from storage.workspace import Workspace
from tasks.at_work import leased
from tasks.partings import Reproduction, compare_data, compare_surroundings, compare_training, own_facts
from tasks.reproduction import (
    config_of,
    find_record,
    refuse_unrepeatable,
    surroundings_here,
    train_again_task,
)


@flow(name="reproduce-run", flow_run_name="reproduce {run}", persist_result=False)
@leased
def reproduce_run(run: str, keep: Path | None = None, workspace: Path | None = None) -> Reproduction:
    """Builds a run's data set again, trains again by its recipe, and compares bytes and numbers. Trains only on the same data.

    Args:
        run: a run id, name/version, name@alias, or the path of a run.json.
        keep: an empty or new folder, in which what was made again stays; by default it goes.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    place = Workspace.at(workspace)
    record = find_record(run, place)
    refuse_unrepeatable(record)
    config = config_of(record, place)
    with _folder(keep, place) as folder:
        elsewhere = Workspace.at(folder)
        dataset = build_dataset(config, workspace=folder, store="").dataset  # a store would give it back
        findings, here = compare_data(record.dataset, dataset), surroundings_here(record)
        if dataset.manifest.digest == record.dataset.digest:
            again = train_again_task(record, dataset, elsewhere)
            findings += compare_training(record, again)
            here = again.sittings[-1]
    return Reproduction(
        run_id=record.run_id,
        step=record.step,
        dataset=record.dataset.reference,
        findings=findings,
        surroundings=compare_surroundings(record, here, own_facts(record, place)),
    )


@contextlib.contextmanager
def _folder(keep: Path | None, place: Workspace) -> Iterator[Path]:
    """Where all is made again: nothing may be there that is made already."""
    if keep is None:
        place.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.root, prefix=".reproduce-") as temporary:
            yield Path(temporary)
        return
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise ValueError(
            f"{keep}: is not empty, and what is there would not be made again; give a new folder"
        )
    yield keep.absolute()
