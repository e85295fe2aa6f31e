"""A small data set for tests of what comes after it, built once by plain functions."""

import shutil
from pathlib import Path

import pytest
from tiny_data import build_plainly

from storage.datasets import Dataset, read_dataset
from storage.workspace import Workspace


@pytest.fixture
def dataset(tiny_corpus: Path, workspace: Workspace) -> Dataset:
    """A finished data set in the workspace."""
    return build_plainly(tiny_corpus, workspace)


@pytest.fixture
def moved(dataset: Dataset, tmp_path: Path) -> Dataset:
    """The same data set, copied to a place outside every workspace."""
    return read_dataset(Path(shutil.copytree(dataset.path, tmp_path / "elsewhere")))
