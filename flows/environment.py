"""The settings of Prefect and MLflow, as environment variables, to be set before either is imported.

A variable that is set already wins. Without any, both keep all they have in the workspace, tell nobody, and call
nothing outside this machine.
"""

import json
import os
import socket
import urllib.error
import urllib.request
from urllib.parse import urlparse

from flows.console import say
from storage.network import shown
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
    # For flows started without the command line: Prefect's own temporary server takes 12 to 20 s, its default is 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # What Prefect's server answers while its database is away: a run tries again for a minute, as it does without any answer.
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    # One record at a time is too slow for a burst of short tasks: the last ones of a run got lost.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    # Nor a transaction for each of a task's states, which takes the server most of what a build costs it, but one a second.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    # By default only events go; a nightly build would leave its runs, logs and cards in the database for ever. These go after 90 days.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    # In memory, as by default, a server that is killed forgets who holds a slot, and the slot is never free again.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # On the terminal, progress is our own bar and an error is one line; Prefect's log is on its pages.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Waiting threads of OpenMP spin by default: with one busy process beside it, a training on 2 cores is 10 times slower.
    "GOMP_SPINCOUNT": "1000",
    # A tracking server that is down must not hold a training for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def prepare(workspace: Workspace) -> str | None:
    """Sets the variables for this process and its children; returns the address of the Prefect server, if one runs.

    None means that none does: `prefect_server.prefect_ready` then starts one, with its database in the workspace.
    """
    os.environ[WORKSPACE_VARIABLE] = str(workspace.root)
    for variable, value in (SETTINGS | {"MPLCONFIGDIR": str(workspace.root / "matplotlib")}).items():
        os.environ.setdefault(variable, value)
    if (address := os.environ.get("PREFECT_API_URL")) and not is_reachable(address):
        say(f"[yellow]No Prefect server answers at {shown(address)}, which PREFECT_API_URL names.[/yellow]")
        del os.environ["PREFECT_API_URL"]
    if not any(variable in os.environ for variable in _CHOICES_OF_PREFECT):
        # Prefect does not make its home, and without it the server's database cannot be opened.
        workspace.prefect.mkdir(parents=True, exist_ok=True)
        os.environ["PREFECT_HOME"] = str(workspace.prefect)
        if address := _running_server(workspace):
            os.environ["PREFECT_API_URL"] = address
    return os.environ.get("PREFECT_API_URL")


def is_reachable(address: str) -> bool:
    """Whether something listens at the address; a server that wants a password does so too."""
    parsed = urlparse(address)
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        with socket.create_connection((parsed.hostname or "", port), timeout=_HEALTH_SECONDS):
            return True
    except OSError:
        return False


def _running_server(workspace: Workspace) -> str | None:
    """The server that `brickroad up` has started on this workspace, if it answers."""
    try:
        address = str(json.loads(workspace.services_file.read_text(encoding="utf-8"))["prefect_api_url"])
        with urllib.request.urlopen(f"{address}/health", timeout=_HEALTH_SECONDS):  # nosec B310 # the address is in a file that brickroad up wrote into this workspace
            return address
    except (OSError, urllib.error.URLError, json.JSONDecodeError, KeyError):
        return None
