"""Stores on loopback and in folders, and builds that share one: in this process, or in one that may be killed."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import gcs_server, s3_server

from storage.store import Store
from storage.workspace import Workspace
from tasks.build import BuiltDataset, build_in_steps
from tasks.corpora import CorpusConfig
from tasks.engines.start import EngineConfig, started_workers
from tasks.steps import PlainSteps

ROOT = Path(__file__).parents[2]
KINDS = ("folder", "s3", "gs")


@contextmanager
def empty_store(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store of one of KINDS with nothing in it; the environment leads there."""
    if kind == "folder":
        (folder / "store").mkdir()
        yield Store.at(str(folder / "store"))
    else:
        with {"s3": s3_server, "gs": gcs_server}[kind](monkeypatch) as bucket:
            yield Store.at(f"{bucket.url}/team")


@contextmanager
def asking_for_keys() -> Iterator[None]:
    """Has moto's S3 server refuse who it does not know: the keys that the tests have are none of its users'."""
    address = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    asked = [
        urllib.request.Request(address, data=after, headers={"Content-Type": "text/plain"}, method="POST")
        for after in (b"0", b"inf")  # requests that need no key
    ]
    urllib.request.urlopen(asked[0]).close()
    try:
        yield
    finally:
        urllib.request.urlopen(asked[1]).close()


def build_with(
    store: Store | None,
    workspace: Path,
    corpus: Path | str,
    engine: EngineConfig | None = None,
    **settings: object,
) -> BuiltDataset:
    """A build of two workers with a store."""
    config = CorpusConfig(corpus=str(corpus), **({"val_fraction": 0.1} | settings))  # type: ignore[arg-type]
    place, on = Workspace.at(workspace), engine or EngineConfig()
    return build_in_steps(
        config, place, PlainSteps(), lambda: started_workers(on, place.root, 2, None, store), store
    )


class BuildApart:
    """The same in a process of its own, with its workers."""

    def __init__(
        self, store: Store, workspace: Path, corpus: Path | str, engine: EngineConfig | None = None
    ) -> None:
        on = [engine.engine, engine.address or ""] if engine else []
        self._process = subprocess.Popen(
            [sys.executable, __file__, store.address, str(workspace), str(corpus), *on],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """All of its processes at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def ended(self) -> dict[str, Any]:
        """What it came to."""
        said, _ = self._process.communicate(timeout=300)
        assert self._process.returncode == 0
        found: dict[str, Any] = json.loads(said)
        return found


class DaskCluster:
    """A scheduler on loopback, and a worker a workspace, each with its own $BRICKROAD_WORKSPACE, as hosts have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *workspaces: Path) -> EngineConfig:
        """Begins all of them; gives the engine of builds."""
        ready = self._folder / "scheduler.json"
        self._begin("scheduler", ready, {}, "--port", "0")
        for workspace in workspaces:
            environment = {"BRICKROAD_WORKSPACE": str(workspace), "PYTHONPATH": str(ROOT)}
            self._begin("worker", ready, environment, "--nthreads", "1", "--no-nanny")
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.2)
        return EngineConfig(engine="dask", address=json.loads(ready.read_text())["address"])

    def _begin(self, kind: str, ready: Path, environment: dict[str, str], *options: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(ready)]
        command += ["--host", "127.0.0.1", "--no-dashboard", *options]
        self.running.append(
            subprocess.Popen(
                command, env=os.environ | environment, cwd=self._folder, stderr=subprocess.DEVNULL
            )
        )


@contextmanager
def running_dask(folder: Path) -> Iterator[DaskCluster]:
    """A cluster to be started, whose processes end with the body."""
    cluster = DaskCluster(folder)
    try:
        yield cluster
    finally:
        for process in cluster.running:
            process.kill()  # a worker that has just begun, and whose scheduler is gone, hears no SIGTERM
            process.wait()


if __name__ == "__main__":
    where, place, shards, *on = sys.argv[1:]
    engine = EngineConfig(engine=on[0], address=on[1]) if on else None  # type: ignore[arg-type]  # it asks itself
    built = build_with(Store.at(where), Path(place), shards, engine)
    print(
        json.dumps(
            {
                "digest": built.dataset.manifest.digest,
                "built": built.built_parts,
                "reused": built.reused_parts,
            }
        )
    )
