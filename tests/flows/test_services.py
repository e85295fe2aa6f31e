"""`brickroad up` for real: a schedule builds, the new data set starts a training, that a registration; a signal leaves nothing."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from programs import free_port, without_prefect
from tiny_trainings import TINY

from flows.limits import GPU, LEASE_SECONDS
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks.tracking import ModelRegistry, Tracker

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent.parent
PATIENCE_SECONDS = 240.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def wait_for_line(process: "subprocess.Popen[str]", text: str) -> None:
    """Reads the words of a process until one has the text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"ended with {process.wait()} before it said {text!r}")


class Api:
    """The Prefect server's, as a page asks it."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, body: Any = None, *, method: str | None = None) -> Any:
        """What it answers. While its database is busy that is 503, which is to be asked again."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.address}/{path}", data, headers, method=method)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request) as response:
                    return json.loads(response.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def until(self, found: Callable[[], Any], what: str) -> Any:
        """What is found, when it is."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (value := found()):
            assert time.monotonic() < deadline, f"no {what}; runs: {self.states()}"
            time.sleep(1)
        return value

    def is_well(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/ready", timeout=5):
            return True
        return False

    def deployment(self, name: str) -> Any:
        return self.ask(f"deployments/name/{name}/{name}")

    def runs(self, name: str) -> list[Any]:
        """The runs of a deployment that have begun, the earliest first."""
        flt = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}, "sort": "START_TIME_ASC"}
        return [run for run in self.ask("flow_runs/filter", flt) if run["start_time"]]

    def states(self) -> list[tuple[str, str, str]]:
        runs = self.ask("flow_runs/filter", {})
        return [(run["name"], run["state_name"], (run["state"] or {}).get("message") or "") for run in runs]

    def ended_run(self, name: str, number: int) -> Any:
        """The run of that number of a deployment, when it has ended well."""
        run = self.until(
            lambda: next((run for run in self.runs(name)[number:] if run["state_type"] in ENDED), None),
            f"end of run {number} of {name}",
        )
        assert run["state_type"] == "COMPLETED", self.states()
        return run

    def start(self, name: str, parameters: Any = None) -> None:
        """Run on the page of a deployment."""
        body = {"parameters": parameters or {}, "state": {"type": "SCHEDULED"}}
        self.ask(f"deployments/{self.deployment(name)['id']}/create_flow_run", body)

    def events(self, name: str) -> list[Any]:
        body = {"filter": {"event": {"name": [name]}}, "limit": 50}
        events: list[Any] = self.ask("events/filter", body)["events"]
        return events


def deployments_of(corpus: Path, folder: Path) -> Path:
    """prefect.yaml as a user changes it: another corpus, a recipe that is trained in a moment."""
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    by_name = {one["name"]: one for one in document["deployments"]}
    by_name["build-dataset"]["parameters"] = {"config": {"corpus": str(corpus), "val_fraction": 0.1}}
    by_name["train-model"]["triggers"][0]["parameters"]["request"]["settings"] = TINY
    path = folder / "deployments.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def up(workspace: Workspace, tiny_corpus: Path) -> Iterator["subprocess.Popen[str]"]:
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    file = deployments_of(tiny_corpus, workspace.root.parent)
    process = subprocess.Popen(
        [BIN / "brickroad", "up", "--workspace", workspace.root, "--deployments", file, *ports],
        stderr=subprocess.PIPE,
        text=True,
        env=without_prefect() | {"COLUMNS": "120"},
        cwd=workspace.root.parent,
    )
    try:
        wait_for_line(process, "Next")
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(1500)
def test_a_schedule_builds_and_only_what_is_new_is_trained_on(
    up: "subprocess.Popen[str]", workspace: Workspace, tiny_corpus: Path
) -> None:
    addresses = json.loads(workspace.services_file.read_text())
    api = Api(addresses["prefect_api_url"])
    children = psutil.Process(up.pid).children(recursive=True)
    assert len(children) >= 4, "a server, the MLflow pages, two workers"
    assert b"OK" in urllib.request.urlopen(f"{addresses['mlflow_url']}/health").read()
    second_up = subprocess.run(
        [BIN / "brickroad", "up", "--workspace", workspace.root],
        capture_output=True,
        text=True,
        env=without_prefect(),
    )
    assert second_up.returncode == 1
    assert f"brickroad up is running on {workspace.root} already ({api.address}" in second_up.stderr.replace(
        "\n", ""
    )

    kill_a_holder_of_the_gpu(api)  # the first training has to get its slot
    children = [(one, words_of(one)) for one in psutil.Process(up.pid).children()]
    servers = [one for one, words in children if "server" in words and {"mlflow", "prefect"} & set(words)]
    assert len(servers) == 2
    for server in servers:
        server.kill()
    wait_for_line(up, "prefect-server ended with code -9: starting it again")
    api.until(api.is_well, "server that was started again")
    assert api.ask(f"v2/concurrency_limits/{GPU}")["active_slots"] == 1, "who starts again does not know yet"

    # It is night: nothing was typed. Far enough ahead that a busy server has seen the schedule before its time has come.
    soon = (datetime.now(UTC) + timedelta(seconds=90)).isoformat()
    once = {"schedule": {"interval": 86400, "anchor_date": soon}, "active": True}
    api.ask(f"deployments/{api.deployment('build-dataset')['id']}/schedules", [once])
    assert api.ended_run("build-dataset", 0)["auto_scheduled"]
    trained = api.ended_run("train-model", 0)
    api.ended_run("register-candidate", 0)
    assert b"OK" in urllib.request.urlopen(f"{addresses['mlflow_url']}/health").read(), "started again"
    first = datasets_of(api)
    assert [trained["parameters"]["request"]["dataset"]] == first
    assert ModelRegistry(workspace).champion("brickroad-gpt"), "the first is champion"
    version = trained_version(api)
    assert version == api.deployment("build-dataset")["version"]

    # The next night finds nothing new.
    api.start("build-dataset")
    api.ended_run("build-dataset", 1)
    assert "0 read now, 12 reused" in newest_dataset_card(api)
    # A shard is added.
    write_shard(
        tiny_corpus / "urlsf_subset00-13_data.xz",
        [("new.txt", b"The lion was not brave, and knew it well.\n" * 20)],
    )
    api.start("build-dataset")
    api.ended_run("build-dataset", 2)
    assert "1 read now, 12 reused" in newest_dataset_card(api)
    second = api.ended_run("train-model", 1)["parameters"]["request"]["dataset"]
    assert datasets_of(api) == [*first, second]
    assert second != first[0]
    api.ended_run("register-candidate", 1)
    # The same training asked for again has nothing to do: an event that comes twice does no harm.
    api.start("train-model", {"request": {"dataset": second, "settings": TINY}, "unless_trained": True})
    assert api.ended_run("train-model", 2)["state_name"] == "Nothing to do"
    tracker = Tracker(workspace)
    assert len(tracker.client.search_runs([tracker.experiment_id])) == 2
    crons = api.ask("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
    assert {"build-dataset", "train-model", "verify-dataset"} <= {flow_name(api, run) for run in crons}, (
        "by cron"
    )

    children = psutil.Process(up.pid).children(recursive=True)
    up.send_signal(signal.SIGINT)
    assert up.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, f"left running: {alive}"
    assert not workspace.services_file.exists()


def words_of(process: psutil.Process) -> list[str]:
    """What it was called with, without folders."""
    return [Path(word).name for word in process.cmdline()]


def kill_a_holder_of_the_gpu(api: Api) -> None:
    """A process takes the slot, as a training does, and is killed."""
    held = f"concurrency({GPU!r}, strict=True, lease_duration={LEASE_SECONDS})"
    program = f"import time; from prefect.concurrency.sync import concurrency\nwith {held}: print('held', flush=True); time.sleep(600)"
    environment = without_prefect() | {"PREFECT_API_URL": api.address}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    assert api.ask(f"v2/concurrency_limits/{GPU}")["active_slots"] == 1, "nobody knows yet"


def datasets_of(api: Api) -> list[str]:
    """The data sets that were told of, the earliest first."""
    events = sorted(api.events("brickroad.dataset.published"), key=lambda event: str(event["occurred"]))
    return [event["payload"]["reference"] for event in events]


def trained_version(api: Api) -> str:
    deployment = api.deployment("train-model")
    assert deployment["work_pool_name"] == "gpu"
    return str(deployment["version"])


def newest_dataset_card(api: Api) -> str:
    """What the card of the data set that was built last says."""
    asked = {"artifacts": {"key": {"like_": "dataset-%"}}, "sort": "CREATED_DESC", "limit": 1}
    return str(api.ask("artifacts/filter", asked)[0]["data"])


def flow_name(api: Api, run: Any) -> str:
    return str(api.ask(f"flows/{run['flow_id']}")["name"])


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


def test_a_misspelt_key_is_one_line_and_leaves_nothing(workspace: Workspace, tiny_corpus: Path) -> None:
    file = deployments_of(tiny_corpus, workspace.root.parent)
    file.write_text(file.read_text().replace("schedules:", "schedule_s:", 1))
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    done = subprocess.run(
        [BIN / "brickroad", "up", "--workspace", workspace.root, "--deployments", file, *ports],
        capture_output=True,
        text=True,
        env=without_prefect(),
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert (
        last
        == f"error: {file}: deployment build-dataset: 'schedule_s' is not known; did you mean 'schedules'?"
    )
    left = [
        one.info["cmdline"]
        for one in psutil.process_iter(["cmdline", "environ"])
        if str(workspace.root) in str(one.info["environ"])  # None of a process that is not ours
    ]
    assert left == []
