"""Builds that share a store: the same bytes, nothing made twice, nothing half visible; hosts that share no file system."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import files_below, gcs_server, s3_server
from tiny_data import build_plainly

from storage import network
from storage.datasets import Dataset
from storage.store import Store
from storage.workspace import Workspace
from tasks.build import BuiltDataset, build_in_steps
from tasks.corpora import CorpusConfig
from tasks.engines.start import EngineConfig, started_workers
from tasks.steps import PlainSteps

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow at once, in this process; workers wait as they do."""
    monkeypatch.setattr(network, "_WAITS_SECONDS", (0.0, 0.0))


@pytest.fixture(params=["folder", "s3", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store."""
    if request.param == "folder":
        yield Store.at(str(tmp_path / "store"))
    else:
        with {"s3": s3_server, "gs": gcs_server}[request.param](monkeypatch) as bucket:
            yield Store.at(f"{bucket.url}/team")


def build_with(
    store: Store | None,
    workspace: Path,
    corpus: Path | str,
    engine: EngineConfig | None = None,
    **settings: object,
) -> BuiltDataset:
    config = CorpusConfig(corpus=str(corpus), **({"val_fraction": 0.1} | settings))  # type: ignore[arg-type]
    place = Workspace.at(workspace)
    return build_in_steps(
        config,
        place,
        PlainSteps(),
        lambda: started_workers(engine or EngineConfig(), place.root, 2, None, store),
        store,
    )


def same_bytes(one: Dataset, other: Dataset) -> bool:
    return one.manifest.digest == other.manifest.digest and one.manifest.files == other.manifest.files


def test_a_second_machine_reads_and_encodes_nothing(store: Store, tiny_corpus: Path, tmp_path: Path) -> None:
    alone = build_plainly(tiny_corpus, Workspace.at(tmp_path / "alone"))
    first = build_with(store, tmp_path / "first", tiny_corpus)
    second = build_with(store, tmp_path / "second", tiny_corpus)
    assert same_bytes(first.dataset, alone)
    assert same_bytes(second.dataset, alone)
    assert (first.built_parts, second.built_parts, second.reused_parts) == (12, 0, 12)
    assert not list((tmp_path / "second" / "documents").glob("*.parquet")), "no text came"
    assert sorted(one.name for one in second.dataset.path.iterdir()) == sorted(
        one.name for one in first.dataset.path.iterdir()
    )


@pytest.fixture
def dask_cluster(tmp_path: Path) -> Iterator[Callable[..., EngineConfig]]:
    """Starts a scheduler, and a worker a workspace, each with its own $BRICKROAD_WORKSPACE, as hosts have."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*workspaces: Path) -> EngineConfig:
        ready = tmp_path / "scheduler.json"
        scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        worker = ["worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"]
        for workspace, (kind, *options) in [(None, scheduler), *((one, worker) for one in workspaces)]:
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            environment |= {"BRICKROAD_WORKSPACE": str(workspace)} if workspace else {}
            running.append(
                subprocess.Popen(
                    [*command, "--scheduler-file", str(ready)],
                    env=environment,
                    cwd=tmp_path,
                    stderr=subprocess.DEVNULL,
                )
            )
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.2)
        return EngineConfig(engine="dask", address=json.loads(ready.read_text())["address"])

    yield start
    for process in running:
        process.terminate()
    for process in running:
        process.wait(30)


@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_dask_workers_with_workspaces_of_their_own_make_the_same_bytes(
    tokenizer: str,
    dask_cluster: Callable[..., EngineConfig],
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = build_plainly(tiny_corpus, Workspace.at(tmp_path / "alone"), tokenizer=tokenizer)
    with s3_server(monkeypatch) as bucket:
        bucket.put(files_below(tiny_corpus, "tiny/"))
        store = Store.at(f"{bucket.url}/team")
        hosts = tmp_path / "host 1", tmp_path / "host 2"
        engine = dask_cluster(*hosts)
        built = build_with(store, tmp_path / "builder", f"{bucket.url}/tiny", engine, tokenizer=tokenizer)
    assert built.dataset.manifest.digest == alone.manifest.digest
    assert sum(len(list((host / "documents").glob("*.parquet"))) for host in hosts) >= 12
    if tokenizer == "char":
        assert not list((tmp_path / "builder" / "documents").glob("*.parquet")), (
            "the text stays where it was made"
        )
