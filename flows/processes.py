"""Child processes that end with us, however we end: started in sessions of their own, waited for, and left behind by none."""

import contextlib
import os
import signal
import subprocess  # nosec B404 # programs of ours are started, each without a shell
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tasks.interruption import end_with_parent

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A process of ours, the leader of its own process group, and where it writes its log."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path


class Processes:
    """The processes that are running; leaving the context ends each of them with all its children."""

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        self.logs = logs
        self._environment = environment
        self._running: list[Service] = []
        self.logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every process with all its children: SIGTERM, some seconds, SIGKILL."""
        for service in reversed(self._running):
            _signal_group(service, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for service in reversed(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                service.process.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(service, signal.SIGKILL)  # also children that outlived their leader
            service.process.wait()
        self._running = []

    def start(self, name: str, command: list[str]) -> None:
        """Starts a program of this environment in a session of its own: Ctrl-C at the terminal does not reach it."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(  # nosec B603 # the command is ours; no shell
                _program(command),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self._running.append(Service(name=name, process=process, log=log))

    def run(self, command: list[str]) -> None:
        """Runs a program of this environment to its end. Raises RuntimeError with its last line if it fails."""
        done = subprocess.run(  # nosec B603 # the command is ours; no shell
            _program(command),
            env=self._environment,
            capture_output=True,
            text=True,
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
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):  # nosec B310 # the address of a server that we started, on loopback
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


def _program(command: list[str]) -> list[str]:
    """The command as a program of this Python's environment, whatever PATH says."""
    return [str(Path(sys.executable).parent / command[0]), *command[1:]]


def _signal_group(service: Service, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(service.process.pid, number)
