"""A training by several processes: started, watched, and ended together, so that none outlives the others or the one who asked.

Each is `python -m tasks.rank`, one a GPU. They tell what happens by lines of JSON, each in a file of its own, and this process
shows it. A signal is passed on to all; when one of them fails the others are ended after a grace; and when this process dies,
however it does, the system ends them.
"""

import json
import os
import signal
import socket
import subprocess  # nosec B404 # programs of ours are started, each without a shell
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from model.training import DivergedError
from storage.errors import StorageError
from storage.workspace import Workspace
from tasks.engine import run_links
from tasks.interruption import InterruptedByUser, StopRequests
from tasks.tracking import Tracker
from tasks.training_request import TrainedModel, TrainingRequest
from tasks.watch import Watch

Process = subprocess.Popen[bytes]
Event = dict[str, Any]

_LOOK_SECONDS = 0.1
_LAST_WORDS_SECONDS = 10.0  # for the others, when one has failed
_SAVING_SECONDS = 300.0  # for a checkpoint, when all were asked to stop


class ProcessesError(StorageError):
    """A process of a training ended as it should not."""


def train_by_processes(request: TrainingRequest, workspace: Workspace) -> TrainedModel | None:
    """Trains by `request.processes` processes on this machine, which with those of other machines are the training's ranks.

    Raises what the training raises, and ProcessesError if a process dies without a word. None on all machines but the first.
    """
    there = torch.cuda.device_count()
    if there and request.processes > there:
        raise ValueError(
            f"--nproc is {request.processes}, but this machine has {there} GPUs; give at most {there}"
        )
    with tempfile.TemporaryDirectory() as name, StopRequests() as stop, ExitStack() as bars:
        folder = Path(name)
        meeting = f"tcp://{request.rendezvous}" if request.rendezvous else f"file://{folder / 'meeting'}"
        asked = {"request": request.to_json(), "workspace": str(workspace.root), "rendezvous": meeting}
        (folder / "asked.json").write_text(json.dumps(asked | {"links": run_links()}))
        told = [_Told(folder / f"rank-{local}.jsonl") for local in range(request.processes)]
        try:
            with _running(folder, request) as ranks:
                failed = _watched(ranks, told[0], stop, bars)
            return _outcome(request, told, failed)
        except BaseException:
            if told[0].run_id and not told[0].has_ended:  # it could not say so itself
                _end_dead_run(told[0].run_id, workspace)
            raise


def _end_dead_run(run_id: str, workspace: Workspace) -> None:
    """Closes a run as FAILED. If MLflow does not answer, that is said: what ended the training is what is to be raised."""
    try:
        Tracker(workspace).end_dead_run(run_id, "FAILED")
    except (OSError, StorageError) as error:
        print(error, file=sys.stderr)


class _Told:
    """What a process has told so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self.last: Event = {}
        self.run_id: str | None = None

    def news(self) -> Iterator[Event]:
        """What came since the last call."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                for line in file:
                    if line.endswith(b"\n"):  # else it is still being written
                        self._read_bytes += len(line)
                        self.last = json.loads(line)
                        self.run_id = self.last.get("run_id", self.run_id)
                        yield self.last

    @property
    def has_ended(self) -> bool:
        """Whether it has told its end, and not only its progress."""
        return self.last.get("event") in ("trained", "stopped", "failed")


def _interface_towards(rendezvous: str) -> str:
    """The network interface by which a host:port is reached. Left alone, gloo tells the others the address that this host's
    name has here, which may be loopback.

    Raises ValueError if the host is not known or cannot be reached.
    """
    host, _, port = rendezvous.rpartition(":")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # sends nothing
            own = probe.getsockname()[0]
    except OSError as error:
        raise ValueError(
            f"--rendezvous {rendezvous}: no way there ({error.strerror}); give HOST:PORT of machine 0"
        ) from None
    interfaces = psutil.net_if_addrs().items()
    return next(name for name, addresses in interfaces if any(one.address == own for one in addresses))


@contextmanager
def _running(folder: Path, request: TrainingRequest) -> Iterator[list[Process]]:
    """The processes, in sessions of their own: Ctrl-C at the terminal reaches us alone. None is left behind."""
    settings = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // request.processes))}
    if request.rendezvous:
        settings["GLOO_SOCKET_IFNAME"] = _interface_towards(request.rendezvous)
    ranks: list[Process] = []
    try:
        for local in range(request.processes):
            numbers = {
                "RANK": request.node * request.processes + local,
                "WORLD_SIZE": request.nodes * request.processes,
                "LOCAL_RANK": local,
            }
            environment = settings | os.environ
            ranks.append(
                subprocess.Popen(  # nosec B603 # this Python, and a module of ours; no shell
                    [
                        sys.executable,
                        "-m",
                        "tasks.rank",
                        folder / "asked.json",
                        folder / f"rank-{local}.jsonl",
                    ],
                    env=environment | {name: str(number) for name, number in numbers.items()},
                    stdout=sys.stderr,
                    start_new_session=True,
                )
            )
        yield ranks
    finally:
        for rank in ranks:
            if rank.poll() is None:
                os.killpg(rank.pid, signal.SIGKILL)
                rank.wait()


def _watched(ranks: list[Process], first: _Told, stop: StopRequests, bars: ExitStack) -> list[int]:
    """Shows what the first process tells, until all have ended or time is up.

    Returns which ended badly, each before any other did; -1 if some did not end in time.
    """
    deadline, failed, is_passed_on, watch = float("inf"), list[int](), False, None
    while any(rank.poll() is None for rank in ranks):
        if time.monotonic() > deadline:
            return failed or [-1]
        time.sleep(_LOOK_SECONDS)
        for event in first.news():
            if event["event"] == "began":
                facts = {"total": event["steps"], "done": event["done"]}
                watch = bars.enter_context(Watch("train", **facts, unit="steps", artifact_key="train"))
            elif event["event"] == "advanced" and watch:
                watch.advance(event["steps"], facts=event["facts"])
        if stop.signal_number is not None and not is_passed_on:
            is_passed_on, deadline = True, time.monotonic() + _SAVING_SECONDS
            for rank in ranks:
                rank.send_signal(stop.signal_number)
        if not failed and (failed := _failed(ranks)):
            deadline = min(deadline, time.monotonic() + _LAST_WORDS_SECONDS)
    return failed or _failed(ranks)


def _failed(ranks: list[Process]) -> list[int]:
    return [number for number, rank in enumerate(ranks) if rank.poll() not in (None, 0)]


def _outcome(request: TrainingRequest, told: list[_Told], failed: list[int]) -> TrainedModel | None:
    """What the training came to, or the exception of the process that failed first."""
    for one in told:
        for _ in one.news():
            pass
    run_id = told[0].run_id
    way_out = f"; go on with: {request.going_on(request.dataset, run_id)}" if run_id else ""
    if failed == [-1]:
        raise ProcessesError(
            f"processes of the training did not stop within {_SAVING_SECONDS:.0f} s{way_out}"
        )
    if silent := [local for local in failed if not told[local].has_ended]:
        raise ProcessesError(
            f"process {silent[0]} of the training died without a word; the system may have killed it for its memory{way_out}"
        )
    if last_words := [one.last for one in told if one.last.get("event") == "failed"]:
        raise _exception(min(last_words, key=lambda event: event["seconds"]))
    last = told[0].last
    if last["event"] == "stopped":
        raise InterruptedByUser(last["message"], last["signal_number"])
    if request.node > 0:
        return None
    return TrainedModel(**last["model"] | {"checkpoint": Path(last["model"]["checkpoint"])})


def _exception(event: Event) -> Exception:
    """The exception that a process has told of."""
    message = event["message"]
    match event["kind"]:
        case "OSError":
            return OSError(event["errno"], message, event["filename"])
        case "ValueError":
            return ValueError(message)
        case "DivergedError":
            return DivergedError(message)
        case _:
            return ProcessesError(message)
