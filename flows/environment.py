"""The settings of Prefect and MLflow, as environment variables, to be set before either is imported.

A variable that is set already wins. Without any, both keep all they have in the workspace, tell nobody, and call
nothing outside this machine.
"""

import json
import os
import urllib.error
import urllib.request

from storage.workspace import WORKSPACE_VARIABLE, Workspace

#: Any of these means that the user has chosen a server or a home: then ours is not to be.
_CHOICES_OF_PREFECT = (
    "PREFECT_API_URL",
    "PREFECT_HOME",
    "PREFECT_PROFILE",
    "PREFECT_API_DATABASE_CONNECTION_URL",
)
_HEALTH_SECONDS = 1.0

#: Also in prefect.toml, for people who call `prefect` by hand in this folder.
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    # A temporary server takes 12 to 20 s to start on two busy cores; the default of 20 s is too near.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # One record at a time is too slow for a burst of short tasks: the last ones of a run got lost.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    # Progress is on our own bar; Prefect's log lines say what its page shows as well.
    "PREFECT_LOGGING_LEVEL": "WARNING",
}


def prepare(workspace: Workspace) -> str | None:
    """Sets the variables for this process and its children; returns the address of the Prefect server, if one runs.

    None means that the first flow starts a temporary server by itself, with its database in the workspace.
    """
    os.environ[WORKSPACE_VARIABLE] = str(workspace.root)
    for variable, value in SETTINGS.items():
        os.environ.setdefault(variable, value)
    if not any(variable in os.environ for variable in _CHOICES_OF_PREFECT):
        workspace.prefect.mkdir(
            parents=True, exist_ok=True
        )  # without it the server's database cannot be opened
        os.environ["PREFECT_HOME"] = str(workspace.prefect)
        if address := _running_server(workspace):
            os.environ["PREFECT_API_URL"] = address
    return os.environ.get("PREFECT_API_URL")


def _running_server(workspace: Workspace) -> str | None:
    """The server that `brickroad up` has started on this workspace, if it answers."""
    try:
        address = str(json.loads(workspace.services_file.read_text(encoding="utf-8"))["prefect_api_url"])
        with urllib.request.urlopen(f"{address}/health", timeout=_HEALTH_SECONDS):
            return address
    except (OSError, urllib.error.URLError, json.JSONDecodeError, KeyError):
        return None
