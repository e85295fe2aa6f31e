"""Stores on loopback and in folders, and builds that share one: in this process, or in one that may be killed."""

import json
import os
import signal
import subprocess
import sys
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
