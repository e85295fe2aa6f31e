"""Random kills: `python -m bench.kills --kills 30 --seed 1`. Everything ends right, with the same bytes, and nothing is left.

A Prefect server, MLflow's server and a worker run on a workspace. Builds and trainings are started, as deployed runs and as
commands, by one process and by two; at a random moment a random victim gets SIGKILL or SIGTERM, or the run is cancelled. Then
comes the sweep, and the next run. What each round comes to is compared with a workspace in which nothing was disturbed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows.environment import SETTINGS
from flows.limits import GPU
from flows.processes import Processes
from storage.checkpoints import latest_checkpoint, verified_sha256
from storage.datasets import read_dataset
from storage.workspace import WORKSPACE_VARIABLE, Workspace
from tasks.training_request import Cadence

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(sys.executable).parent
POOL = "kills"
STEPS = 60
RECIPE = {
    "training.steps": str(STEPS),
    "training.batch_size": "4",
    "network.block_size": "16",
    "network.width": "16",
    "network.layers": "1",
    "network.heads": "2",
    "training.warmup_steps": "2",
    "training.device": "cpu",
}
CADENCE = {"report_every_steps": 1, "evaluate_every_steps": 10, "save_every_steps": 5}
VICTIMS = ("flow", "flow", "rank", "worker", "prefect", "mlflow", "cancel", "cancel")
OPEN_STATES = ("RUNNING", "CANCELLING", "PENDING")
MARK = "BRICKROAD_KILLS"


@dataclass(slots=True)
class Outcome:
    """What the rounds came to."""

    hits: Counter[str] = field(default_factory=Counter)
    missed: int = 0  # the run had ended before it could be hit
    went_on: int = 0  # trainings that went on with what was there
    wrong: list[str] = field(default_factory=list)


class Road:
    """The servers and the worker on a workspace, each of which may be killed and is started again."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.ports = {name: _free_port() for name in ("prefect", "mlflow")}
        self.api = f"http://127.0.0.1:{self.ports['prefect']}/api"
        self.mlflow = f"http://127.0.0.1:{self.ports['mlflow']}"
        workspace.mlflow.mkdir(parents=True, exist_ok=True)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))
        }
        self.environment |= SETTINGS | {
            "PREFECT_HOME": str(workspace.prefect),
            "PREFECT_API_URL": self.api,
            "MLFLOW_TRACKING_URI": self.mlflow,
            WORKSPACE_VARIABLE: str(workspace.root),
            "MPLCONFIGDIR": str(workspace.root / "matplotlib"),
            "OMP_NUM_THREADS": "1",
            MARK: str(workspace.root),
        }
        self.processes: dict[str, Processes] = {}

    def start(self, name: str) -> None:
        """Starts one of them, in place of one that was killed."""
        if name in self.processes:
            self.processes[name].stop()
        processes = self.processes[name] = Processes(self.workspace.root / "logs", self.environment)
        port = str(self.ports.get(name))
        database = f"sqlite:///{self.workspace.mlflow / 'mlflow.db'}"
        commands = {
            "prefect": [
                "python", "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app",
                "--host", "127.0.0.1", "--port", port, "--log-level", "error",
            ],
            "mlflow": [
                "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1",
                "--backend-store-uri", database, "--artifacts-destination", (self.workspace.mlflow / "artifacts").as_uri(),
            ],
            "worker": ["prefect", "worker", "start", "--pool", POOL, "--type", "process"],
        }  # fmt: skip
        at_our_death = signal.SIGKILL if name == "worker" else signal.SIGTERM
        processes.start(name, commands[name], at_our_death=at_our_death)
        if name != "worker":
            processes.wait_for(name, f"{self.api if name == 'prefect' else self.mlflow}/health")

    def keep_up(self) -> None:
        """Starts again what has ended by itself, as `brickroad up` does."""
        for name, processes in self.processes.items():
            if (code := processes._running[0].process.poll()) is not None:
                print(f"    {name} ended with code {code}: starting it again", flush=True)
                self.start(name)

    def begin(self) -> None:
        """All of them, with the deployments."""
        for name in ("prefect", "mlflow"):
            self.start(name)
        self._done("pool", ["prefect", "work-pool", "create", POOL, "--type", "process"])
        self._done("limit", ["prefect", "gcl", "create", GPU, "--limit", "1"])
        deployments = "".join(
            f"- name: {flow.replace('_', '-')}\n  entrypoint: flows.{flow}.{flow}\n  tags: [brickroad]\n  work_pool: {{name: {POOL}}}\n"
            for flow in ("build_dataset", "train_model")
        )
        file = self.workspace.root / "prefect.yaml"
        file.write_text(f"deployments:\n{deployments}")
        self._done("deploy", ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)])
        self.start("worker")

    def _done(self, name: str, command: list[str]) -> None:
        """A program that ends by itself has done its work."""
        self.processes["prefect"].start(name, command, ends=True)
        self.processes["prefect"].wait_for_end(name)

    def end(self) -> None:
        """None of them is left."""
        for processes in reversed(self.processes.values()):
            processes.stop()

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """What Prefect's API says; a server that is busy or on its way is asked again."""
        deadline = time.monotonic() + 120
        while True:
            data = None if body is None else json.dumps(body).encode()
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(f"{self.api}{path}", data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:
                    raise
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def deploy_run(self, flow: str, parameters: Any) -> str:
        """Starts a deployed run; returns its id."""
        deployment = self.ask(f"/deployments/name/{flow}/{flow}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.ask(f"/deployments/{deployment['id']}/create_flow_run", body)["id"])

    def state(self, run_id: str) -> str:
        """The type of a flow run's state."""
        return str(self.ask(f"/flow_runs/{run_id}")["state_type"])

    def open_runs(self) -> list[Any]:
        """Flow runs that have not ended."""
        wanted = {"flow_runs": {"state": {"type": {"any_": [*OPEN_STATES, "SCHEDULED"]}}}}
        return list(self.ask("/flow_runs/filter", wanted))

    def marked(self) -> list[psutil.Process]:
        """Processes that belong to this workspace's runs: not the servers, the worker, or us."""
        ours = {one.pid for one in self._of_services()} | {os.getpid()}
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(MARK) == str(self.workspace.root)
                if is_ours and process.pid not in ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def _of_services(self) -> list[psutil.Process]:
        found = list[psutil.Process]()
        for name in self.processes:
            if leader := self.leader(name):
                found.append(leader)
                if name == "mlflow":
                    found += leader.children(recursive=True)
        return found

    def leader(self, name: str) -> psutil.Process | None:
        """The process of a server or the worker."""
        try:
            return psutil.Process(self.processes[name]._running[0].process.pid)
        except (psutil.NoSuchProcess, IndexError):
            return None

    def command(self, *words: str) -> "subprocess.Popen[bytes]":
        """Starts a brickroad command."""
        log = (self.workspace.root / "logs" / "commands.log").open("ab")
        command = [str(PROGRAMS / "brickroad"), *words, "--workspace", str(self.workspace.root)]
        return subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, cwd=ROOT)


class Round:
    """A build or a training, which is hit, swept up after, and made again until it ends by itself."""

    def __init__(self, road: Road, dice: random.Random, corpus: Path, outcome: Outcome, number: int) -> None:
        self.road, self.dice, self.corpus, self.outcome = road, dice, corpus, outcome
        self.number = number
        self.is_training = dice.random() < 0.6
        self.is_deployed = dice.random() < 0.5
        self.seed = str(1000 + number)  # another training than that of any other round

    def request(self) -> dict[str, Any]:
        """How to train; a rank is killed in trainings by two processes."""
        processes = 2 if self.victim == "rank" else 1
        settings = RECIPE | {"training.seed": self.seed}
        return {"dataset": "tiny", "settings": settings, "cadence": CADENCE, "processes": processes}

    def steps_told(self) -> list[int]:
        """The steps at which an undisturbed training tells its loss: a command has the default cadence."""
        cadence = Cadence(**CADENCE) if self.is_deployed else Cadence().of(STEPS)
        looks = (cadence.report_every_steps, cadence.evaluate_every_steps, cadence.save_every_steps)
        return [step for step in range(1, STEPS + 1) if any(step % every == 0 for every in looks if every)]

    def start(self) -> tuple["subprocess.Popen[bytes] | None", str | None]:
        """Begins it as a command, or as a deployed run: the process, or the flow run's id."""
        if self.is_deployed:
            if self.is_training:
                return None, self.road.deploy_run("train-model", {"request": self.request()})
            config = {"corpus": str(self.corpus), "name": "tiny", "val_fraction": 0.1, "workers": 2}
            return None, self.road.deploy_run("build-dataset", {"config": config})
        if self.is_training:
            settings = [
                word
                for key, value in self.request()["settings"].items()
                for word in ("--set", f"{key}={value}")
            ]
            processes = str(self.request()["processes"])
            return self.road.command("train", "tiny", *settings, "--nproc", processes), None
        fraction = ("--val-fraction", "0.1", "--workers", "2")
        return self.road.command("dataset", "build", str(self.corpus), "--name", "tiny", *fraction), None

    def play(self) -> None:
        """The whole of it."""
        self.victim = self.dice.choice(VICTIMS)
        if self.victim == "rank":
            self.is_training = True
        if not self.is_training:
            for folder in (self.road.workspace.datasets, self.road.workspace.documents):
                shutil.rmtree(folder, ignore_errors=True)
        process, run_id = self.start()
        time.sleep(self.dice.uniform(0.5, 14.0 if self.is_training else 9.0))
        what = self._hit(process, run_id)
        kind = f"{'deployed' if self.is_deployed else 'typed'} {'training' if self.is_training else 'build'}"
        print(f"{self.number:3} {kind:18} {what}", flush=True)
        self._wait(process, run_id)
        self._settle()
        process, run_id = self.start()
        self._wait(process, run_id)
        self._settle()
        self._check(f"round {self.number} ({kind}, {what})", process, run_id)

    def _hit(self, process: "subprocess.Popen[bytes] | None", run_id: str | None) -> str:
        number = self.dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        if self.victim == "cancel":
            runs = [self.road.ask(f"/flow_runs/{run_id}")] if run_id else self.road.open_runs()
            for run in runs:
                if run["state_type"] in (*OPEN_STATES, "SCHEDULED") and not run["parent_task_run_id"]:
                    body = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
                    self.road.ask(f"/flow_runs/{run['id']}/set_state", body)
                    return self._count("cancel")
            return self._count(None)
        if self.victim in ("worker", "prefect", "mlflow"):
            leader = self.road.leader(self.victim)
            assert leader is not None
            leader.send_signal(number)
            self.down_seconds = self.dice.uniform(0.0, 5.0)
            time.sleep(self.down_seconds)
            self.road.start(self.victim)
            return self._count(f"{self.victim} {number.name}, down {self.down_seconds:.1f} s")
        for one in self._found(process):
            try:
                one.send_signal(number)
                return self._count(f"{self.victim} {number.name}")
            except psutil.NoSuchProcess:
                continue
        return self._count(None)

    def _found(self, process: "subprocess.Popen[bytes] | None") -> list[psutil.Process]:
        if self.victim == "rank":
            ranks = [one for one in self.road.marked() if "tasks.rank" in _words(one)]
            self.dice.shuffle(ranks)
            return ranks
        if process is not None:
            return [psutil.Process(process.pid)] if process.poll() is None else []
        return [one for one in self.road.marked() if {"prefect.engine", "prefect"} & set(_words(one))]

    def _count(self, what: str | None) -> str:
        if what is None:
            self.outcome.missed += 1
            return f"{self.victim}: had not begun, or had ended"
        self.outcome.hits[what.split(",")[0]] += 1
        return what

    def _wait(self, process: "subprocess.Popen[bytes] | None", run_id: str | None) -> None:
        """Until the run has ended, or nobody is at it."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            self.road.keep_up()
            if process is not None and process.poll() is not None:
                return
            if run_id is not None and self.road.state(run_id) not in (*OPEN_STATES, "SCHEDULED"):
                return
            if run_id is not None and self.victim == "worker" and not self.road.marked():
                return
            time.sleep(0.5)
        self.outcome.wrong.append(f"round {self.number}: did not end within 180 s")
        if process is not None:
            process.kill()
            process.wait()

    def _settle(self) -> None:
        """The sweep, as `brickroad up` makes it; what it schedules again is waited for."""
        deadline = time.monotonic() + 120
        while self.road.marked() and time.monotonic() < deadline:
            time.sleep(0.5)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            swept = self.road.command("sweep")
            if swept.wait(180):
                self.outcome.wrong.append(f"round {self.number}: the sweep failed, see logs/commands.log")
            self.road.keep_up()
            if not self.road.open_runs():
                return
            time.sleep(2)

    def _check(self, what: str, process: "subprocess.Popen[bytes] | None", run_id: str | None) -> None:
        wrong, place = self.outcome.wrong, self.road.workspace
        deadline = time.monotonic() + 60  # Prefect knows of the end before the process has ended
        while self.road.marked() and time.monotonic() < deadline:
            time.sleep(0.5)
        if process is not None and process.returncode:
            wrong.append(f"{what}: the next run ended with code {process.returncode}")
        if run_id is not None and (state := self.road.state(run_id)) != "COMPLETED":
            wrong.append(f"{what}: the next run ended {state}")
        wrong += [f"{what}: flow run {run['name']} is {run['state_type']}" for run in self.road.open_runs()]
        wrong += [
            f"{what}: process {one.pid} is left: {' '.join(_words(one))[:100]}" for one in self.road.marked()
        ]
        wrong += [f"{what}: {path} is left" for path in place.root.rglob("*.partial")]


def _check_trainings(road: Road, rounds: list[Round], outcome: Outcome) -> None:
    """Each training has one run that finished, every point once, and the weights of one that was not disturbed."""
    os.environ["MLFLOW_TRACKING_URI"] = road.mlflow
    from tasks.tracking import Tracker

    tracker = Tracker(road.workspace)
    found = tracker.client.search_runs([tracker.experiment_id], max_results=1000)
    for run in found:
        if run.info.status == "RUNNING":
            outcome.wrong.append(f"MLflow run {run.info.run_id} is RUNNING")
    for one in (each for each in rounds if each.is_training):
        mine = [run for run in found if run.data.params.get("training.seed") == one.seed]
        finished = [run for run in mine if run.info.status == "FINISHED"]
        outcome.went_on += len(mine) == len(finished) == 1
        for run in finished:
            points = tracker.client.get_metric_history(run.info.run_id, "train_loss")
            told = one.steps_told()
            if sorted(point.step for point in points) != told:
                counts = Counter(point.step for point in points)
                twice = sorted(step for step, count in counts.items() if count > 1)
                missing = sorted(set(told) - set(counts))
                outcome.wrong.append(f"round {one.number}: points twice {twice}, missing {missing}")
        shas = {
            verified_sha256(latest_checkpoint(road.workspace.checkpoints / run.info.run_id))["network"]
            for run in finished
        }
        if shas != {_undisturbed(road, one)}:
            outcome.wrong.append(
                f"round {one.number}: weights {shas} are not those of an undisturbed training"
            )


def _undisturbed(road: Road, one: Round) -> str:
    """The sha256 of the weights of the same training, in a workspace of its own, without anybody else."""
    with tempfile.TemporaryDirectory() as name:
        place = Workspace.at(Path(name))
        dataset = read_dataset(next(road.workspace.datasets.glob("tiny/*/manifest.json")).parent)
        program = (
            "import json, sys; from storage.workspace import Workspace; from tasks.training import train;"
            "from tasks.training_request import TrainingRequest, Cadence;"
            "r = json.loads(sys.argv[1]); r['cadence'] = Cadence(**r['cadence']);"
            "train(TrainingRequest(**r), Workspace.at(sys.argv[2]))"
        )
        request = json.dumps(one.request() | {"dataset": str(dataset.path)})
        environment = {
            key: value for key, value in road.environment.items() if not key.startswith("MLFLOW_TRACKING")
        }
        subprocess.run(
            [sys.executable, "-c", program, request, name], env=environment, cwd=ROOT, check=True, timeout=300
        )
        (folder,) = place.checkpoints.iterdir()
        return verified_sha256(latest_checkpoint(folder))["network"]


def disturb(workspace: Workspace, corpus: Path, *, kills: int, seed: int) -> Outcome:
    """So many rounds on a workspace; what they came to."""
    outcome, dice, road = Outcome(), random.Random(seed), Road(workspace)
    rounds = list[Round]()
    try:
        road.begin()
        first = road.command(
            "dataset", "build", str(corpus), "--name", "tiny", "--val-fraction", "0.1", "--workers", "2"
        )
        assert first.wait(300) == 0, "see logs/commands.log"
        digests = {path.name for path in workspace.datasets.glob("tiny/*") if path.name != "by-inputs"}
        while sum(outcome.hits.values()) < kills:
            rounds.append(Round(road, dice, corpus, outcome, len(rounds)))
            rounds[-1].play()
            now = {path.name for path in workspace.datasets.glob("tiny/*") if path.name != "by-inputs"}
            if now != digests:
                outcome.wrong.append(f"round {len(rounds) - 1}: data sets {now}, not {digests}")
        _check_trainings(road, rounds, outcome)
    finally:
        road.end()
    return outcome


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _corpus(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from tiny_data import tiny_documents

    from storage.shards import write_shard

    documents = tiny_documents(1200)
    for shard in range(12):
        members = [
            (f"{index:07d}.txt", documents[index].encode()) for index in range(shard * 100, shard * 100 + 100)
        ]
        write_shard(folder / f"urlsf_subset00-{shard + 1}_data.xz", members)
    return folder


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workspace", type=Path, help="kept, to be looked at; else a temporary one")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace.at(arguments.workspace or Path(name) / "workspace")
        outcome = disturb(workspace, _corpus(Path(name) / "tiny"), kills=arguments.kills, seed=arguments.seed)
    for line in outcome.wrong:
        print(f"WRONG: {line}")
    hits = ", ".join(f"{count} {what}" for what, count in sorted(outcome.hits.items()))
    print(
        f"{sum(outcome.hits.values())} kills in {time.monotonic() - began:.0f} s: {hits}; {outcome.missed} missed"
    )
    print(f"{outcome.went_on} trainings in one run from begin to end; {len(outcome.wrong)} things wrong")
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
