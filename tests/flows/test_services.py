"""`brickroad up` for real: server, pages, worker and deployments answer; a run goes through; a signal leaves nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_data import build_plainly

from storage.workspace import Workspace

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_line(process: "subprocess.Popen[str]", text: str) -> None:
    """Reads the words of a process until one has the text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"ended with {process.wait()} before it said {text!r}")


def answer(address: str, body: bytes | None = None) -> Any:
    """What the API says. It answers 503 while its database is busy, which is to be asked again."""
    request = urllib.request.Request(address, body, {"content-type": "application/json"})
    deadline = time.monotonic() + 60
    while True:
        try:
            return json.load(urllib.request.urlopen(request))
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(1)


@pytest.fixture
def up(workspace: Workspace) -> Iterator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    process = subprocess.Popen(
        [BIN / "brickroad", "up", "--workspace", workspace.root, *ports],
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"COLUMNS": "120"},
        cwd=workspace.root.parent,
    )
    try:
        wait_for_line(process, "Next")
        yield process, json.loads(workspace.services_file.read_text())
    finally:
        process.kill()
        process.wait()


def test_a_deployed_run_goes_through_a_worker_and_a_signal_ends_everything(
    up: tuple["subprocess.Popen[str]", dict[str, str]], workspace: Workspace, tiny_corpus: Path
) -> None:
    process, addresses = up
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3, "a server, the MLflow pages, a worker"
    assert b"OK" in urllib.request.urlopen(f"{addresses['mlflow_url']}/health").read()
    dataset = build_plainly(tiny_corpus, workspace)
    api = addresses["prefect_api_url"]
    deployment = answer(f"{api}/deployments/name/build-dataset/build-dataset")
    body = json.dumps(
        {
            "parameters": {"config": {"corpus": str(tiny_corpus), "val_fraction": 0.1}},
            "state": {"type": "SCHEDULED"},
        }
    ).encode()
    run = answer(f"{api}/deployments/{deployment['id']}/create_flow_run", body)
    deadline = time.monotonic() + 120
    state = "SCHEDULED"
    while state not in ("COMPLETED", "FAILED", "CRASHED") and time.monotonic() < deadline:
        time.sleep(1)
        state = answer(f"{api}/flow_runs/{run['id']}")["state_type"]
    assert state == "COMPLETED", (workspace.root / "logs" / "worker.log").read_text()
    assert (dataset.path / "manifest.json").is_file()

    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=40) == 0
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, f"left running: {alive}"
    assert not workspace.services_file.exists()


def test_a_taken_port_is_one_line(workspace: Workspace) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        done = subprocess.run(
            [BIN / "brickroad", "up", "--workspace", workspace.root, "--prefect-port", port],
            capture_output=True,
            text=True,
            env=os.environ | {"COLUMNS": "200"},
        )
    assert done.returncode == 1
    assert f"port {port} for Prefect is taken; choose another with --prefect-port" in done.stderr
    assert "Traceback" not in done.stderr
