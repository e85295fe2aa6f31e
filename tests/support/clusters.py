"""Dask and Ray clusters of this machine that builds join: on loopback alone, and nothing of them is left."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from tasks.engines.start import EngineConfig

ROOT = Path(__file__).parents[2]


class DaskCluster:
    """A scheduler and workers of one thread each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *workers: Mapping[str, str]) -> EngineConfig:
        """Begins all of them, each worker with variables of its own; gives the engine of builds."""
        ready = self._folder / "scheduler.json"
        self._begin("scheduler", ready, {}, "--port", "0")
        for variables in workers:
            environment = {"PYTHONPATH": str(ROOT), **variables}
            self._begin("worker", ready, environment, "--nthreads", "1", "--no-nanny")
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.2)
        return EngineConfig(engine="dask", address=json.loads(ready.read_text())["address"])

    def start_hosts(self, *workspaces: Path) -> EngineConfig:
        """Begins all of it with a worker a workspace, which it takes for its own, as hosts do."""
        return self.start(*({"BRICKROAD_WORKSPACE": str(workspace)} for workspace in workspaces))

    def _begin(self, kind: str, ready: Path, environment: Mapping[str, str], *options: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(ready)]
        command += ["--host", "127.0.0.1", "--no-dashboard", *options]
        self.running.append(
            subprocess.Popen(
                command, env={**os.environ, **environment}, cwd=self._folder, stderr=subprocess.DEVNULL
            )
        )


@contextlib.contextmanager
def running_dask(folder: Path) -> Iterator[DaskCluster]:
    """A cluster to be started, whose processes end with the body."""
    cluster = DaskCluster(folder)
    try:
        yield cluster
    finally:
        for process in cluster.running:
            process.kill()  # a worker that has just begun, and whose scheduler is gone, hears no SIGTERM
            process.wait()


def ray_variables() -> dict[str, str]:
    """What the cluster and those who join it have in common in their environment: loopback alone, and a token."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextlib.contextmanager
def running_ray(environment: Mapping[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a cluster of one node with two CPUs, and the process that all of it ends with."""
    with (
        socket.socket() as free,
        tempfile.TemporaryDirectory(prefix="ray") as folder,  # a short path, for its sockets
    ):
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
        command += ["--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", f"--temp-dir={folder}"]
        command += ["--include-dashboard=false", f"--object-store-memory={100 << 20}"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as head:
            assert head.stdout
            assert any("Ray runtime started" in line for line in head.stdout)
            cluster = psutil.Process(head.pid)
            yield address, cluster
            processes = cluster.children(recursive=True)
            head.terminate()
        _, alive = psutil.wait_procs(processes, timeout=30)
        assert not alive, "nothing is left of the cluster"
