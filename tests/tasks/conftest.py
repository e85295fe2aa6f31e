"""What tests of the tasks share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import DaskCluster, running_dask

from storage.datasets import Dataset, read_dataset


@pytest.fixture
def moved(dataset: Dataset, tmp_path: Path) -> Dataset:
    """The data set of the workspace, copied to a place outside every workspace."""
    return read_dataset(Path(shutil.copytree(dataset.path, tmp_path / "elsewhere")))


@pytest.fixture
def dask_cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    """A Dask cluster to be started; its processes end with the test."""
    with running_dask(tmp_path) as cluster:
        yield cluster
