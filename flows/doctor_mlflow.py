"""What `brickroad doctor` looks at of MLflow: whether it answers, of which version it is, and whether it takes files."""

import importlib.metadata
import os

from flows.doctor import Checks, Finding
from storage.network import shown
from storage.workspace import Workspace
from tasks.answers import Api, Unanswered
from tasks.tracking import Store, TrackingError, probe_artifacts

_ELSE = "or unset MLFLOW_TRACKING_URI to keep the record in the workspace"
_PROBE_SECONDS = 7.0  # within what a check may take


def checks_of_mlflow(workspace: Workspace) -> Checks:
    """The checks by name."""
    return {"MLflow": lambda: [*_mlflow(workspace)]}


def _mlflow(workspace: Workspace) -> list[Finding]:
    """The store's database with our experiment, then its files: the second has no sense without the first."""
    if not Store.is_elsewhere() and not (workspace.mlflow / "mlflow.db").is_file():
        return [Finding(what="MLflow", ok=True, found="no database yet: the first run makes it")]
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("http") and not Api(uri).is_there("/health"):
        return [_wrong("MLflow", f"{shown(uri)} does not answer; look whether it runs, {_ELSE}")]
    try:
        store = Store(workspace)
    except TrackingError as error:
        return [_wrong("MLflow", str(error))]
    place = store.place if store.is_elsewhere() else "the workspace's database"
    return [*_version(store.uri, place), _files(store)]


def _wrong(what: str, line: str) -> Finding:
    """Of a line that says what is wrong and then the way out."""
    found, _, way_out = line.rpartition("; ")
    return Finding(what=what, ok=False, found=found, way_out=way_out)


def _version(uri: str, place: str) -> list[Finding]:
    own = importlib.metadata.version("mlflow")
    if not uri.startswith("http"):
        return [Finding(what="MLflow", ok=True, found=f"{place} answers")]
    login = ":".join(os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD"))
    try:
        found = Api(uri, login.strip(":") and login).text("/version")
    except Unanswered as error:
        return [
            Finding(what="MLflow", ok=True, found=f"{place} answers, and does not say its version ({error})")
        ]
    is_same = found.split(".")[:2] == own.split(".")[:2]  # models are stored otherwise in each minor version
    return [
        Finding(
            what="MLflow",
            ok=is_same,
            found=f"{place} answers, version {found}" + ("" if is_same else f", and here is {own}"),
            way_out=f"install MLflow {own} on the server, or {found} here",
        )
    ]


def _files(store: Store) -> Finding:
    try:
        place = probe_artifacts(store, patience_seconds=_PROBE_SECONDS)
    except TrackingError as error:
        return _wrong("artifacts", str(error))
    return Finding(what="artifacts", ok=True, found=f"{place} takes, gives and deletes a file")
