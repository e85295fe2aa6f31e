"""`brickroad up`: the Prefect server, the MLflow pages, workers and deployments, on loopback, until a signal ends all."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess  # nosec B404 # programs of ours alone, without a shell
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.addresses import is_taken
from flows.console import next_steps, say, table, waiting
from flows.processes import Processes
from storage.files import write_json
from storage.network import shown
from storage.workspace import Workspace

POOLS = ("cpu", "gpu")  # as in flows/deployment_file.py, whose import takes seconds
DEPLOYMENT_FILE = Path(__file__).parent / "prefect.yaml"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
_LOOPBACK = "127.0.0.1"
_LEAN_MLFLOW = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # 2 processes and 385 MB, else 15 and 2 GB


def serve_until_stopped(
    workspace: Workspace, *, deployments: Path, prefect_port: int, mlflow_port: int
) -> dict[str, Any]:
    """Starts everything, says where it is, and waits; on SIGINT or SIGTERM stops everything, leaving no process.

    Raises OSError if a port is taken or another one serves this workspace, ValueError if the deployments are not as they are to be,
    RuntimeError if a service does not get ready, or keeps ending.
    """
    with _alone(workspace):
        return _serve(workspace, deployments, prefect_port, mlflow_port)


def _serve(workspace: Workspace, deployments: Path, prefect_port: int, mlflow_port: int) -> dict[str, Any]:
    began = time.monotonic()
    for name, port in (("Prefect", prefect_port), ("MLflow", mlflow_port)):
        if is_taken(port):
            reason = f"port {port} for {name} is taken; choose another with --{name.lower()}-port"
            raise OSError(errno.EADDRINUSE, reason)
    api = f"http://{_LOOPBACK}:{prefect_port}/api"
    mlflow = f"http://{_LOOPBACK}:{mlflow_port}"
    pages = f"http://{_LOOPBACK}:{prefect_port}"
    environment = os.environ | _LEAN_MLFLOW | _version()
    environment |= {"PREFECT_API_URL": api, "PREFECT_UI_API_URL": api, "PREFECT_UI_URL": pages}
    with _signals_as_exit(), Processes(workspace.root / "logs", environment) as services:
        with waiting("starting"):
            prefect_server = ["prefect", "server", "start", "--host", _LOOPBACK, "--port", str(prefect_port)]
            services.start("prefect-server", prefect_server)
            services.start("set-up", ["python", "-m", "flows.set_up", str(deployments)], ends=True)
            if mlflow_uri := _own_tracking(workspace):
                services.start("mlflow", _mlflow_command(mlflow_uri, workspace, mlflow_port))
            services.wait_for("prefect-server", f"{api}/work_pools/{POOLS[-1]}")
            for pool in POOLS:
                # Asked to end, a worker without its server waits for ever; its runs see that it is dead, save, and end.
                services.start(f"worker-{pool}", _worker_command(pool), at_our_death=signal.SIGKILL)
            services.wait_for_end("set-up")
            if mlflow_uri:
                services.wait_for("mlflow", f"{mlflow}/health")
            services.start(
                "sweeper", ["brickroad", "sweep", "--every", "30", "--workspace", str(workspace.root)]
            )
        write_json(workspace.services_file, {"prefect_api_url": api, "mlflow_url": mlflow})
        try:
            table(
                "Up, until Ctrl-C",
                {
                    "Prefect": pages,
                    "MLflow": shown(os.environ.get("MLFLOW_TRACKING_URI", mlflow)),
                    "workers": f"of the pools {' and '.join(POOLS)}: they take what schedules, events and Run on a page start",
                    "deployments": f"{pages}/deployments, from {deployments}",
                    "workspace": str(workspace.root),
                    "logs": str(services.logs),
                },
            )
            next_steps("run            # in another terminal: its run shows here")
            say(f"[dim]Ready after {time.monotonic() - began:.1f} s.[/dim]")
            services.watch(_say_ended)
        finally:
            workspace.services_file.unlink(missing_ok=True)
    say("All stopped.")
    return {"prefect_api_url": api, "mlflow_url": mlflow}


@contextlib.contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """Inside, nobody else serves this workspace; the kernel forgets the lock with the process, however that ends."""
    workspace.root.mkdir(parents=True, exist_ok=True)
    with (workspace.root / ".up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            where = _addresses(workspace)
            reason = f"brickroad up is running on {workspace.root} already{where}; stop it, or choose another --workspace"
            raise OSError(error.errno, reason) from None
        yield


def _addresses(workspace: Workspace) -> str:
    try:
        return f" ({', '.join(json.loads(workspace.services_file.read_text(encoding='utf-8')).values())})"
    except (FileNotFoundError, json.JSONDecodeError):  # it is starting, or stopping
        return ""


def _version() -> dict[str, str]:
    """The commit of this checkout, which deployments show as their version; nothing where there is no checkout."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(DEPLOYMENT_FILE.parent), "describe", "--always", "--dirty"]
        found = subprocess.run(command, check=True, capture_output=True, text=True)  # nosec B603 # the command is ours; no shell
        return {"BRICKROAD_VERSION": found.stdout.strip()}
    return {}


def _say_ended(name: str, code: int) -> None:
    say(f"[yellow]{name} ended with code {code}: starting it again.[/yellow]")


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


def _worker_command(pool: str) -> list[str]:
    """One run of the GPU's pool at a time on this machine: what waits has no process, and no memory."""
    limit = ["--limit", "1"] if pool == "gpu" else []
    return [
        "prefect",
        "worker",
        "start",
        "--pool",
        pool,
        "--type",
        "process",
        "--name",
        f"{pool} of brickroad up",
        *limit,
    ]


def _mlflow_command(uri: str, workspace: Workspace, port: int) -> list[str]:
    artifacts = (workspace.mlflow / "artifacts").as_uri()
    return [
        "mlflow", "server", "--host", _LOOPBACK, "--port", str(port), "--workers", "1",
        "--backend-store-uri", uri, "--default-artifact-root", artifacts,
    ]  # fmt: skip
