"""What listens, listens on loopback by default: read from the sockets of real processes."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from programs import free_port, without_prefect
from serving import serving
from sockets import listening_addresses, reachable_by_others
from tiny_data import save_endless_model

from storage.workspace import Workspace

BRICKROAD = Path(sys.executable).parent / "brickroad"


def test_the_check_itself_sees_an_open_socket() -> None:
    with socket.socket() as everywhere:
        everywhere.bind(("0.0.0.0", 0))  # nothing is accepted there, and it closes at once
        everywhere.listen()
        assert "0.0.0.0" in reachable_by_others(listening_addresses(psutil.Process()))


def test_serve(tmp_path: Path) -> None:
    model = save_endless_model(tmp_path / "model")
    with serving(model, cwd=tmp_path) as served:
        addresses = listening_addresses(psutil.Process(served.process.pid))
        assert addresses == {"127.0.0.1"}


@pytest.mark.timeout(900)
def test_up(workspace: Workspace) -> None:
    environment = without_prefect()
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    process = subprocess.Popen(
        [BRICKROAD, "up", "--workspace", workspace.root, *ports],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        words = []
        for line in process.stderr:
            words.append(line)
            if "Up, until" in line:
                break
        else:
            raise AssertionError("".join(words))
        addresses = listening_addresses(psutil.Process(process.pid))
        assert addresses
        assert reachable_by_others(addresses) == set()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
