"""What tests of the tasks share."""

import shutil
from pathlib import Path

import pytest

from storage.datasets import Dataset, read_dataset


@pytest.fixture
def moved(dataset: Dataset, tmp_path: Path) -> Dataset:
    """The data set of the workspace, copied to a place outside every workspace."""
    return read_dataset(Path(shutil.copytree(dataset.path, tmp_path / "elsewhere")))
