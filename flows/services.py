"""`brickroad up`: the Prefect server, the MLflow pages, a worker and the deployments, on loopback, until a signal ends all."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.console import next_steps, say, table, waiting
from flows.processes import Processes
from storage.files import write_json
from storage.workspace import Workspace

POOL = "brickroad"
DEPLOYMENT_FILE = Path(__file__).parent.parent / "prefect.yaml"
_LOOPBACK = "127.0.0.1"


def serve_until_stopped(workspace: Workspace, *, prefect_port: int, mlflow_port: int) -> dict[str, Any]:
    """Starts everything, says where it is, and waits; on SIGINT or SIGTERM stops everything, leaving no process.

    Raises OSError if a port is taken, RuntimeError if a service ends by itself or does not get ready.
    """
    for name, port in (("Prefect", prefect_port), ("MLflow", mlflow_port)):
        _refuse_taken(name, port)
    api = f"http://{_LOOPBACK}:{prefect_port}/api"
    mlflow = f"http://{_LOOPBACK}:{mlflow_port}"
    environment = os.environ | {"PREFECT_API_URL": api, "PREFECT_UI_API_URL": api}
    with _signals_as_exit(), Processes(workspace.root / "logs", environment) as services:
        with waiting("starting"):
            prefect_server = ["prefect", "server", "start", "--host", _LOOPBACK, "--port", str(prefect_port)]
            services.start("prefect-server", prefect_server)
            if mlflow_uri := _own_tracking(workspace):
                services.start("mlflow", _mlflow_command(mlflow_uri, workspace, mlflow_port))
                services.wait_for("mlflow", f"{mlflow}/health")
            services.wait_for("prefect-server", f"{api}/health")
            services.run(["prefect", "work-pool", "create", POOL, "--type", "process", "--overwrite"])
            if DEPLOYMENT_FILE.is_file():
                deploy = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENT_FILE)]
                services.run(deploy)
            services.start("worker", ["prefect", "worker", "start", "--pool", POOL, "--type", "process"])
            services.start(
                "sweeper", ["brickroad", "sweep", "--every", "30", "--workspace", str(workspace.root)]
            )
        write_json(workspace.services_file, {"prefect_api_url": api, "mlflow_url": mlflow})
        try:
            table(
                "Up, until Ctrl-C",
                {
                    "Prefect": f"http://{_LOOPBACK}:{prefect_port}",
                    "MLflow": os.environ.get("MLFLOW_TRACKING_URI", mlflow),
                    "worker": f"takes runs of the pool {POOL!r}: press Run on a deployment's page",
                    "workspace": str(workspace.root),
                    "logs": str(services.logs),
                },
            )
            next_steps(
                "run            # in another terminal: its run shows here",
            )
            services.watch()
        finally:
            workspace.services_file.unlink(missing_ok=True)
    say("All stopped.")
    return {"prefect_api_url": api, "mlflow_url": mlflow}


class _Stopped(BaseException):
    """A signal asked us to stop."""


@contextlib.contextmanager
def _signals_as_exit() -> Iterator[None]:
    """SIGINT and SIGTERM end the body, and this is its ordinary end."""

    def stop(number: int, frame: object) -> None:
        for each in earlier:
            signal.signal(
                each, signal.SIG_IGN
            )  # stopping is under way: a second Ctrl-C must not cut it short
        raise _Stopped

    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in earlier:
        signal.signal(number, stop)
    try:
        yield
    except _Stopped:
        pass
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _own_tracking(workspace: Workspace) -> str | None:
    """The workspace's tracking database, made if it is not there; None if the user has a tracking server."""
    from tasks.tracking import Tracker

    return None if Tracker.is_elsewhere() else Tracker(workspace).uri


def _mlflow_command(uri: str, workspace: Workspace, port: int) -> list[str]:
    artifacts = (workspace.mlflow / "artifacts").as_uri()
    return [
        "mlflow", "server", "--host", _LOOPBACK, "--port", str(port), "--workers", "1",
        "--backend-store-uri", uri, "--default-artifact-root", artifacts,
    ]  # fmt: skip


def _refuse_taken(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError as error:
            option = f"--{name.lower()}-port"
            raise OSError(
                error.errno, f"port {port} for {name} is taken; choose another with {option}"
            ) from None
