"""A Ray cluster of this machine that builds join: on loopback alone, with a token, and nothing of it is left."""

import contextlib
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping

import psutil


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
