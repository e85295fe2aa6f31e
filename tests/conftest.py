"""What tests share: a tiny corpus in the real layout, workspaces with a ready database, one Prefect server for all."""

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_data import build_plainly, tiny_documents

from flows.environment import SETTINGS
from storage.datasets import Dataset
from storage.shards import write_shard
from storage.workspace import Workspace

ROOT = Path(__file__).parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"

# Before Prefect or MLflow is imported by any test: no telemetry, no address of the user's, no setting of the user's.
for variable in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_", "BRICKROAD_"))]:
    del os.environ[variable]
os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="brickroad-tests-")  # else it would be the home folder
atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)
os.environ |= {
    name: value for name, value in SETTINGS.items() if name != "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real text beside the checkout; a user's clone does not have it."""
    if not REAL_DATA.is_dir():
        pytest.skip("no real text beside this checkout")
    return REAL_DATA


@pytest.fixture(autouse=True)
def _environment_as_before() -> Iterator[None]:
    """A command run in the tests' own process sets variables, as `brickroad` does: the next test has none of them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def tiny_corpus(tmp_path: Path) -> Path:
    """A folder of twelve shards with ten documents each; shard 10 stands before shard 2 in a listing."""
    folder = tmp_path / "tiny"
    documents = tiny_documents()
    for shard in range(12):
        members = [
            (
                f"{index:07d}-{hashlib.md5(documents[index].encode()).hexdigest()}.txt",
                documents[index].encode(),
            )
            for index in range(shard * 10, shard * 10 + 10)
        ]
        write_shard(folder / f"urlsf_subset00-{shard + 1}_data.xz", members)
    return folder


@pytest.fixture(scope="session")
def tracking_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes seconds, copying one does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def workspace(tmp_path: Path, tracking_template: Path) -> Workspace:
    """An empty workspace, whose tracking database is ready."""
    place = Workspace.at(tmp_path / "workspace")
    place.mlflow.mkdir(parents=True)
    shutil.copy(tracking_template, place.mlflow / "mlflow.db")
    return place


@pytest.fixture
def dataset(tiny_corpus: Path, workspace: Workspace) -> Dataset:
    """A finished data set in the workspace, built by plain functions."""
    return build_plainly(tiny_corpus, workspace)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One temporary Prefect server for all flow tests of the session, with its database in a temporary folder."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def prefect_api(prefect_server: None) -> dict[str, str]:
    """The variables that lead a child process to the session's server, so that it does not start its own."""
    from prefect.settings import PREFECT_API_URL

    return {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
