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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked_builds import ForkedBuilds, group

SHIM = Path(__file__).with_name("faulty_writes.c")
LIMIT_SECONDS = 60  # a build that takes longer hangs
_VARIES = re.compile(r"[0-9a-f]{8,}|[0-9]{6}")


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one kind: an operation on paths below the workspace that fit a pattern."""

    operation: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Fault:
    """How the n-th call of a kind fails: with an error, after half of a write, and all later calls of any kind too."""

    calls: Calls
    number: int
    error_number: int = 0
    is_short: bool = False
    is_for_good: bool = False

    def __str__(self) -> str:
        how = f"{errno.errorcode.get(self.error_number, 'no error')}{', half written' * self.is_short}"
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


class FaultyBuilds:
    """Builds of one corpus in one workspace, which is empty before each: `with builds.started(): builds.run(fault)`."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """`settings` are those of CorpusConfig."""
        self.workspace = folder / "workspace"
        self._settings, self._log = settings, folder / "log"
        (folder / "control").write_bytes(bytes(ctypes.sizeof(_Control)))
        with (folder / "control").open("r+b") as file:
            self._control = _Control.from_buffer(mmap.mmap(file.fileno(), 0))
        shim = folder / "faulty_writes.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, SHIM, "-ldl"], check=True)
        variables = {
            "LD_PRELOAD": str(shim),
            "FAULTS_BELOW": str(self.workspace),
            "FAULTS_CONTROL": str(folder / "control"),
            "FAULTS_LOG": str(self._log),
        }
        self._builds = ForkedBuilds(folder, variables)

    def started(self) -> ForkedBuilds:
        """What makes the builds, to be entered before the first and left after the last."""
        return self._builds

    def counted(self) -> Counter[Calls]:
        """How many calls of each kind a build makes that meets no fault."""
        self._log.write_bytes(b"")
        self._control.is_logging = 1
        ended = self.run(None)
        self._control.is_logging = 0
        assert ended.code == 0, ended.said
        lines = (line.split(" ", 1) for line in self._log.read_text().splitlines())
        return Counter(Calls(operation, _VARIES.sub("*", path)) for operation, path in lines)

    def run(self, fault: Fault | None) -> Ended:
        """One build in an empty workspace."""
        shutil.rmtree(self.workspace, ignore_errors=True)
        self._arm(fault)
        process = self._builds.start(self._settings, self.workspace)
        limit = threading.Timer(LIMIT_SECONDS, os.killpg, (process, signal.SIGKILL))
        limit.start()
        code = self._builds.wait()
        limit.cancel()
        return Ended(code, self._builds.last_line(), self._control.struck, group(process))

    def _arm(self, fault: Fault | None) -> None:
        self._control.fail_at = self._control.matched = self._control.struck = 0
        if fault:
            for name in ("error_number", "is_short", "is_for_good"):
                setattr(self._control, name, getattr(fault, name))
            self._control.operation = fault.calls.operation.encode()
            self._control.pattern = fault.calls.pattern.encode()
            self._control.fail_at = fault.number
