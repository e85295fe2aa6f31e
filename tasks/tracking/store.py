"""MLflow as this workspace uses it: where it is, and our experiment in it."""

import os
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from storage.errors import NetworkError
from storage.network import shown
from storage.workspace import Workspace

EXPERIMENT = "brickroad"


class Store:
    """The client of a store, with our experiment, which is made if it is not there."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{workspace.mlflow / 'mlflow.db'}")
        if not self.is_elsewhere():
            workspace.mlflow.mkdir(parents=True, exist_ok=True)
        # The first touch of a fresh database creates its tables; two processes at once leave it broken.
        with workspace.lock("mlflow"):
            self.client = MlflowClient(tracking_uri=self.uri)
            try:
                self.experiment_id = self._experiment()
            except MlflowException as error:
                raise _unusable(self.uri, error) from None

    @staticmethod
    def is_elsewhere() -> bool:
        """Whether the user has chosen a tracking server, rather than the database in the workspace."""
        return "MLFLOW_TRACKING_URI" in os.environ

    def _experiment(self) -> str:
        known = self.client.get_experiment_by_name(EXPERIMENT)
        if known is not None:
            return str(known.experiment_id)
        # Without a place of their own, artifacts of a database store land in the caller's folder.
        place = (self.workspace.mlflow / "artifacts").as_uri() if not self.is_elsewhere() else None
        # Without its kind, the pages show an experiment as one of prompts and agents.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return self.client.create_experiment(EXPERIMENT, artifact_location=place, tags=kind)


def _unusable(uri: str, error: MlflowException) -> NetworkError:
    """Why a store cannot be used, in one line with the way out."""
    text = " ".join(str(error).split())
    if error.error_code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED") or "code 401" in text:
        reason = "MLflow refuses the user or the password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    elif "OperationalError" in text:
        reason = "MLflow answers, and its database does not; start that, then run this again"
    elif error.error_code == "PERMISSION_DENIED":
        reason = f"MLflow does not let this user use the experiment {EXPERIMENT!r}; ask who made it"
    else:
        reason = f"MLflow cannot be used ({text[:300]}); check MLFLOW_TRACKING_URI and that it runs"
    return NetworkError(shown(uri), reason, True)


def local_path(artifact_location: str) -> Path | None:
    """The folder of an artifact location on this machine's disk, or None if it is elsewhere."""
    parsed = urlparse(artifact_location)
    return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None
