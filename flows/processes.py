"""Child processes that end with us, however we end: started in sessions of their own, waited for, and left behind by none."""

import contextlib
import os
import shutil
import signal
import subprocess  # nosec B404 # programs of ours are started, each without a shell
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from tasks.interruption import end_with_parent

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_WRONG_INPUT = 2  # the exit code
_MOST_RESTARTS, _RESTARTS_WITHIN_SECONDS = 5, 300.0
_LONGEST_LOG_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A process of ours, the leader of its own process group, and where it writes its log."""

    name: str
    command: list[str]
    process: "subprocess.Popen[bytes]"
    log: Path
    ends: bool  # by itself, when its work is done
    at_our_death: signal.Signals  # what the system sends it when we are killed


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

    def start(
        self,
        name: str,
        command: list[str],
        *,
        ends: bool = False,
        at_our_death: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Starts a program of this environment in a session of its own: Ctrl-C at the terminal does not reach it."""
        log = self.logs / f"{name}.log"
        log.unlink(missing_ok=True)
        process = self._started(command, log, at_our_death)
        self._running.append(
            Service(
                name=name, command=command, process=process, log=log, ends=ends, at_our_death=at_our_death
            )
        )

    def _started(
        self, command: list[str], log: Path, at_our_death: signal.Signals
    ) -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            return subprocess.Popen(  # nosec B603 # the command is ours; no shell
                _program(command),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=partial(end_with_parent, at_our_death),
            )

    def wait_for_end(self, name: str) -> None:
        """Returns when a program that ends by itself has done its work. Raises as `wait_for` does if one fails."""
        deadline = time.monotonic() + _START_SECONDS
        service = next(service for service in self._running if service.name == name)
        while service.process.poll() is None:
            self._refuse_ended()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not end within {_START_SECONDS:.0f} s (see {service.log})")
            time.sleep(0.05)
        self._refuse_ended()
        self._running.remove(service)

    def wait_for(self, name: str, url: str) -> None:
        """Returns when a service answers. Raises RuntimeError if one ends or it takes too long, ValueError for what only the
        user can mend, which a program says by ending with 2.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self._refuse_ended()
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):  # nosec B310 # the address of a server that we started, on loopback
                return
            time.sleep(0.1)
        raise RuntimeError(
            f"{name} did not answer at {url} within {_START_SECONDS:.0f} s (see {self.logs}/{name}.log)"
        )

    def watch(self, ended: Callable[[str, int], None]) -> None:
        """Starts again what ends by itself, after `ended(name, code)`, and keeps logs short. Returns never but by an error:
        RuntimeError if one keeps ending."""
        restarts = list[float]()
        while True:
            self.shorten_logs()
            for number, service in enumerate(self._running):
                if (code := service.process.poll()) is None:
                    continue
                restarts = [each for each in restarts if each > time.monotonic() - _RESTARTS_WITHIN_SECONDS]
                if len(restarts) == _MOST_RESTARTS:
                    self._refuse_ended()
                restarts.append(time.monotonic())
                ended(service.name, code)
                _signal_group(service, signal.SIGKILL)  # children that outlived it
                process = self._started(service.command, service.log, service.at_our_death)
                self._running[number] = replace(service, process=process)
            time.sleep(1)

    def shorten_logs(self) -> None:
        """A log that is longer than 16 MiB begins anew; what it had lies beside it, as `.log.1`, until the next time.

        Its program goes on writing to the same file, wherever that ends.
        """
        for log in {service.log for service in self._running}:
            if log.stat().st_size > _LONGEST_LOG_BYTES:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)

    def _refuse_ended(self) -> None:
        for service in self._running:
            code = service.process.poll()
            if code == _WRONG_INPUT and service.ends:
                raise ValueError(service.log.read_text(encoding="utf-8").strip().splitlines()[-1])
            if code is not None and not (service.ends and code == 0):
                raise RuntimeError(f"{service.name} ended with code {code} (see {service.log})")


def _program(command: list[str]) -> list[str]:
    """The command as a program of this Python's environment, whatever PATH says."""
    return [str(Path(sys.executable).parent / command[0]), *command[1:]]


def _signal_group(service: Service, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(service.process.pid, number)
