"""Which data sets others have been told of: a note beside the data sets of a name, so that each is told of once."""

from pathlib import Path

from storage.datasets import Dataset
from storage.files import atomic_file


def was_announced(dataset: Dataset) -> bool:
    """Whether others know of a data set of this name and digest, whichever inputs it was made of."""
    return _note(dataset).is_file()


def note_announced(dataset: Dataset) -> None:
    """Others know of it from now on."""
    with atomic_file(_note(dataset)) as file:
        file.write(b"")


def _note(dataset: Dataset) -> Path:
    return dataset.path.parent / "announced" / dataset.manifest.digest
