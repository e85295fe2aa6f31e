"""MLflow as this workspace uses it: where it is, and our experiment in it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from storage.network import shown
from storage.removal import discard
from storage.workspace import Workspace

EXPERIMENT = "brickroad"
_LONGEST_REASON = 240


class TrackingError(ConnectionError):
    """The store does not answer what must be answered at once. It may do so later: an OSError, as of any network."""


class Store:
    """The client of a store, with our experiment, which is made if it is not there."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{workspace.mlflow / 'mlflow.db'}")
        if not self.is_elsewhere():
            workspace.mlflow.mkdir(parents=True, exist_ok=True)
        # The first touch of a fresh database creates its tables; two processes at once leave it broken.
        with workspace.lock("mlflow"), self.answering():
            self.client = MlflowClient(tracking_uri=self.uri)
            self.experiment_id = self._experiment()

    @property
    def place(self) -> str:
        """Its address for a person, without a password."""
        return shown(self.uri)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Inside, a store that does not answer is a TrackingError of one line."""
        try:
            yield
        except MlflowException as error:
            raise TrackingError(f"MLflow at {self.place} {_trouble(error)}") from error

    @staticmethod
    def is_elsewhere() -> bool:
        """Whether the user has chosen a tracking server, rather than the database in the workspace."""
        return "MLFLOW_TRACKING_URI" in os.environ

    def discard_model(self, model_id: str, location: str) -> None:
        """Deletes a logged model, its files first, wherever they are: while its record is there, what was killed is made again.

        MLflow itself only marks it as deleted; files on a server would stay in its bucket for ever.
        """
        if place := local_path(location):
            discard(place.parent if place.name == "artifacts" else place)
        else:
            get_artifact_repository(location, tracking_uri=self.uri).delete_artifacts()
        try:
            self.client.delete_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted by another, or before a kill
                raise

    def _experiment(self) -> str:
        known = self.client.get_experiment_by_name(EXPERIMENT)
        if known is not None:
            return str(known.experiment_id)
        # Without a place of their own, artifacts of a database store land in the caller's folder.
        place = (self.workspace.mlflow / "artifacts").as_uri() if not self.is_elsewhere() else None
        # Without its kind, the pages show an experiment as one of prompts and agents.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return self.client.create_experiment(EXPERIMENT, artifact_location=place, tags=kind)


def _trouble(error: MlflowException) -> str:
    """What is wrong with a store, and the way out."""
    text = one_line(error)
    if error.error_code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED") or "code 401" in text:
        return "refuses the user or the password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if "OperationalError" in text:
        return "answers, and its database does not; start that, then run this again"
    if "too many 50" in str(error):
        return "answers with errors of its own; look whether its database runs, then run this again"
    if error.error_code == "PERMISSION_DENIED":
        return f"does not let this user use the experiment {EXPERIMENT!r}; ask who made it"
    return f"does not answer ({text}); check that it runs, or unset MLFLOW_TRACKING_URI to keep the record in the workspace"


def local_path(artifact_location: str) -> Path | None:
    """The folder of an artifact location on this machine's disk, or None if it is elsewhere."""
    parsed = urlparse(artifact_location)
    return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None


def one_line(error: Exception) -> str:
    """What an error says, short, in one line, and without a password in an address."""
    words = " ".join(str(error).split()) or type(error).__name__
    words = re.sub(r"//[^/@ ]*@", "//", words)
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}…"
