"""`brickroad up`: the Prefect server, the MLflow pages, a worker and the deployments, on loopback, until a signal ends all."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.console import next_steps, say, table, waiting
from storage.files import write_json
from storage.workspace import Workspace

POOL = "brickroad"
DEPLOYMENT_FILE = Path(__file__).parent.parent / "prefect.yaml"
_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A process of ours, the leader of its own process group, and where it writes its log."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path


def serve_until_stopped(workspace: Workspace, *, prefect_port: int, mlflow_port: int) -> dict[str, Any]:
    """Starts everything, says where it is, and waits; on SIGINT or SIGTERM stops everything, leaving no process.

    Raises OSError if a port is taken, RuntimeError if a service ends by itself or does not get ready.
    """
    for name, port in (("Prefect", prefect_port), ("MLflow", mlflow_port)):
        _refuse_taken(name, port)
    api = f"http://{_LOOPBACK}:{prefect_port}/api"
    mlflow = f"http://{_LOOPBACK}:{mlflow_port}"
    environment = os.environ | {"PREFECT_API_URL": api, "PREFECT_UI_API_URL": api}
    with _signals_as_exit(), _Services(workspace.root / "logs", environment) as services:
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


class _Services:
    """The processes that are running; leaving the context ends each of them with all its children."""

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        self.logs = logs
        self._environment = environment
        self._running: list[Service] = []

    def __enter__(self) -> "_Services":
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for service in reversed(self._running):
            _signal_group(service, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for service in reversed(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                service.process.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(service, signal.SIGKILL)  # also children that outlived their leader
            service.process.wait()

    def start(self, name: str, command: list[str]) -> None:
        """Starts a program of this environment in a process group of its own."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                _program(command),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self._running.append(Service(name=name, process=process, log=log))

    def run(self, command: list[str]) -> None:
        """Runs a program of this environment to its end. Raises RuntimeError with its last line if it fails."""
        done = subprocess.run(
            _program(command),
            env=self._environment,
            capture_output=True,
            text=True,
            cwd=DEPLOYMENT_FILE.parent,
        )
        (self.logs / "setup.log").open("a").write(done.stdout + done.stderr)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise RuntimeError(f"`{' '.join(command)}` failed: {' '.join(last)} (see {self.logs}/setup.log)")

    def wait_for(self, name: str, url: str) -> None:
        """Returns when a service answers. Raises RuntimeError if it ends or takes too long."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self._refuse_ended()
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
                return
            time.sleep(0.2)
        raise RuntimeError(
            f"{name} did not answer at {url} within {_START_SECONDS:.0f} s (see {self.logs}/{name}.log)"
        )

    def watch(self) -> None:
        """Returns never but by an error: RuntimeError if a service ends by itself."""
        while True:
            self._refuse_ended()
            time.sleep(1)

    def _refuse_ended(self) -> None:
        for service in self._running:
            if (code := service.process.poll()) is not None:
                raise RuntimeError(f"{service.name} ended with code {code} (see {service.log})")


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


def _program(command: list[str]) -> list[str]:
    """The command as a program of this Python's environment, whatever PATH says."""
    return [str(Path(sys.executable).parent / command[0]), *command[1:]]


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


def _signal_group(service: Service, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(service.process.pid, number)
