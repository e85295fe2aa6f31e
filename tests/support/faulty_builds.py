"""Builds in processes of their own on a disk that fails at a chosen call (faulty_writes.c), one after another."""

import ctypes
import errno
import mmap
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked_builds import ForkedBuilds, group

SHIM = Path(__file__).with_name("faulty_writes.c")
LIMIT_SECONDS = 60  # a build that takes longer hangs
_VARIES = re.compile(r"[0-9a-f]{8,}|[0-9]{6}|(?<=/\.tmp)[A-Za-z0-9]{6}")


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one kind: an operation on paths below the workspace that fit a pattern."""

    operation: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Fault:
    """How the n-th call of a kind fails: with an error, after half of a write, and all later calls of any kind too; or with a
    signal, whose number is then less than 0, instead of an error."""

    calls: Calls
    number: int
    error_number: int = 0
    is_short: bool = False
    is_for_good: bool = False

    def __str__(self) -> str:
        killed = f"signal {-self.error_number}" if self.error_number < 0 else "no error"
        how = f"{errno.errorcode.get(self.error_number, killed)}{', half written' * self.is_short}"
        return f"{self.calls.operation} {self.calls.pattern} {self.number}: {how}{', for good' * self.is_for_good}"


def faults_at(calls: Calls, number: int) -> list[Fault]:
    """All the ways in which a call can fail: a disk that is full for a moment or for good, or broken; a partial write."""
    faults = [
        Fault(calls, number, errno.ENOSPC),
        Fault(calls, number, errno.EIO, is_for_good=True),
    ]
    if calls.operation == "write":
        faults += [
            Fault(calls, number, errno.ENOSPC, is_short=True, is_for_good=True),
            Fault(calls, number, is_short=True),
        ]
    return faults


class _Control(ctypes.Structure):
    """What faulty_writes.c calls `struct control`."""

    _fields_ = (
        ("matched", ctypes.c_long),
        ("struck", ctypes.c_long),
        ("fail_at", ctypes.c_long),
        ("error_number", ctypes.c_int),
        ("is_short", ctypes.c_int),
        ("is_for_good", ctypes.c_int),
        ("is_logging", ctypes.c_int),
        ("operation", ctypes.c_char * 16),
        ("pattern", ctypes.c_char * 256),
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """How a build ended: its exit code, the last line it said, whether the fault struck, and processes that it left."""

    code: int
    said: str
    struck: int
    left: list[int]


class FaultyDisk:
    """Has processes that are started with its `variables` meet faults at calls below a folder."""

    def __init__(self, folder: Path, below: Path) -> None:
        self._log = folder / "log"
        (folder / "control").write_bytes(bytes(ctypes.sizeof(_Control)))
        with (folder / "control").open("r+b") as file:
            self._control = _Control.from_buffer(mmap.mmap(file.fileno(), 0))
        shim = folder / "faulty_writes.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, SHIM, "-ldl"], check=True)
        self.variables = {
            "LD_PRELOAD": str(shim),
            "FAULTS_BELOW": str(below),
            "FAULTS_CONTROL": str(folder / "control"),
            "FAULTS_LOG": str(self._log),
        }

    @property
    def struck(self) -> int:
        """How many calls have failed, or written less, since it was armed."""
        return int(self._control.struck)

    def counted(self, run: Callable[[], None]) -> Counter[Calls]:
        """How many calls of each kind are made while something runs."""
        self._log.write_bytes(b"")
        self._control.is_logging = 1
        run()
        self._control.is_logging = 0
        lines = (line.split(" ", 1) for line in self._log.read_text().splitlines())
        return Counter(Calls(operation, _VARIES.sub("*", path)) for operation, path in lines)

    def arm(self, fault: Fault | None) -> None:
        """From now on there is this fault, or none."""
        self._control.fail_at = self._control.matched = self._control.struck = 0
        if fault:
            for name in ("error_number", "is_short", "is_for_good"):
                setattr(self._control, name, getattr(fault, name))
            self._control.operation = fault.calls.operation.encode()
            self._control.pattern = fault.calls.pattern.encode()
            self._control.fail_at = fault.number


class FaultyBuilds:
    """Builds of one corpus in one workspace, which is empty before each: `with builds.started(): builds.run(fault)`."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """`settings` are those of CorpusConfig."""
        self.workspace = folder / "workspace"
        self._settings = settings
        self._disk = FaultyDisk(folder, self.workspace)
        self._builds = ForkedBuilds(folder, self._disk.variables)

    def started(self) -> ForkedBuilds:
        """What makes the builds, to be entered before the first and left after the last."""
        return self._builds

    def counted(self) -> Counter[Calls]:
        """How many calls of each kind a build makes that meets no fault; but for those that take files away, without which
        nothing can be swept up."""

        def build() -> None:
            ended = self.run(None)
            assert ended.code == 0, ended.said

        counted = self._disk.counted(build)
        return Counter({calls: count for calls, count in counted.items() if calls.operation != "unlink"})

    def run(self, fault: Fault | None) -> Ended:
        """One build in an empty workspace."""
        shutil.rmtree(self.workspace, ignore_errors=True)
        self._disk.arm(fault)
        process = self._builds.start(self._settings, self.workspace)
        limit = threading.Timer(LIMIT_SECONDS, os.killpg, (process, signal.SIGKILL))
        limit.start()
        code = self._builds.wait()
        limit.cancel()
        return Ended(code, self._builds.last_line(), self._disk.struck, group(process))
