"""Builds in processes of their own, one after another, each a fork of one process that has imported what a build needs."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.quality import QualityConfig
from tasks.workers import Workers

ROOT = Path(__file__).parent.parent.parent


def config_of(settings: dict[str, Any]) -> CorpusConfig:
    """The configuration with these settings, of which `quality` may be a dictionary."""
    return CorpusConfig(**settings | {"quality": QualityConfig(**settings.get("quality", {}))})


class ForkedBuilds:
    """`with ForkedBuilds(folder) as builds: process = builds.start(settings, workspace); code = builds.wait()`.

    A build is the leader of a session and a process group of its own, which its workers are in.
    """

    def __init__(self, folder: Path, variables: dict[str, str] | None = None) -> None:
        """`variables` are further ones of the environment."""
        self._said = folder / "said"
        self._variables = (variables or {}) | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
        }

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", "from forked_builds import serve; serve()"]
        self._server = subprocess.Popen(
            command, env=os.environ | self._variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def start(self, settings: dict[str, Any], workspace: Path) -> int:
        """Begins a build with these settings of CorpusConfig; returns its process id."""
        assert self._server.stdin and self._server.stdout
        request = {"settings": settings, "workspace": str(workspace), "said": str(self._said)}
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def wait(self) -> int:
        """The exit code of the build that was begun, when it has ended; of a killed one, less than 0."""
        assert self._server.stdout
        return int(self._server.stdout.readline())

    def last_line(self) -> str:
        """What the build said last."""
        lines = self._said.read_text().strip().splitlines()
        return lines[-1] if lines else ""


def group(leader: int) -> list[int]:
    """The processes of a process group that are there."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == leader:
                found.append(process.pid)
    return found


def serve() -> None:
    """Forks a build for each line of standard input; says its process id, and its exit code when it has ended."""
    for module in (
        "pandas",
        "tokenizers",
    ):  # pyarrow imports the first, and a build the second, only when it runs
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if not process:
            os.setsid()
            sys.exit(_build(**request))
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _build(settings: dict[str, Any], workspace: str, said: str) -> int:
    with Path(said).open("w") as file:
        os.dup2(file.fileno(), 2)
    config = config_of(settings)
    try:
        with Workers(config.workers or 1) as workers:
            build(config, Workspace.at(workspace), workers)
    except Exception:
        traceback.print_exc()
        return 1
    return 0
