"""The same bytes from this machine's processes, Dask and Ray; a killed process costs its call alone; bad clusters are named."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from clusters import DaskCluster, ray_variables, running_ray
from tiny_data import build_plainly

from storage.files import sha256_file
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.engines.site import EngineError
from tasks.engines.start import EngineConfig, started_workers

FILES = ("train.bin", "val.bin", "tokenizer.json", "documents.parquet")
ROOT = Path(__file__).parent.parent.parent
BUILDER = str(ROOT / "tests" / "support" / "builds_on_a_cluster.py")
RAY_ENVIRONMENT = (  # of a cluster that this process does not start itself
    {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    | {"PYTHONPATH": str(ROOT)}
    | ray_variables()
)


def config_of(corpus: Path) -> CorpusConfig:
    return CorpusConfig(corpus=str(corpus), val_fraction=0.1)


def hashes(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in FILES}


@pytest.fixture
def ray_cluster() -> Iterator[tuple[str, psutil.Process]]:
    """A cluster that is running, and its first process."""
    with running_ray(RAY_ENVIRONMENT) as cluster:
        yield cluster


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_the_bytes_are_the_same_on_an_engine_though_a_worker_is_killed(
    engine: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    expected = build_plainly(tiny_corpus, Workspace.at(tmp_path / "threads"))
    place = Workspace.at(tmp_path / engine)
    with started_workers(EngineConfig(engine=engine), place.root, 2, None) as workers:  # type: ignore[arg-type]
        victim = workers.run(os.getpid)
        killer = threading.Timer(1.0, os.kill, (victim, signal.SIGKILL))
        killer.start()
        assert list(workers.map(time.sleep, [(4.0,)] * 2)) == [None, None], "one of them was in the victim"
        killer.join()
        assert not psutil.pid_exists(victim) or psutil.Process(victim).status() == psutil.STATUS_ZOMBIE
        dataset = build(config_of(tiny_corpus), place, workers)
        pids = workers.process_ids()
    assert hashes(dataset.path) == hashes(expected.path)
    assert dataset.manifest.digest == expected.manifest.digest
    _, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=30)
    assert not alive, "no process outlives the build"


def test_a_running_dask_cluster_is_used_and_left_running(
    tiny_corpus: Path, tmp_path: Path, dask_cluster: DaskCluster
) -> None:
    engine = dask_cluster.start({}, {})
    for number in range(2):
        place = Workspace.at(tmp_path / str(number))
        with started_workers(engine, place.root, None, None) as workers:
            found = build(config_of(tiny_corpus), place, workers)
    assert found.manifest.digest == build_plainly(tiny_corpus, Workspace.at(tmp_path / "x")).manifest.digest


def test_a_running_ray_cluster_is_used_though_a_worker_is_killed_and_left_running(
    tiny_corpus: Path, tmp_path: Path, ray_cluster: tuple[str, psutil.Process]
) -> None:
    address, cluster = ray_cluster
    expected = build_plainly(tiny_corpus, Workspace.at(tmp_path / "threads"))
    for number in range(2):
        with subprocess.Popen(
            [sys.executable, BUILDER, "ray", address, str(tiny_corpus), str(tmp_path / str(number))],
            env=RAY_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as builder:
            assert builder.stdin
            assert builder.stdout
            victim = psutil.Process(int(builder.stdout.readline()))
            assert victim in cluster.children(recursive=True)
            builder.stdin.write("\n")
            builder.stdin.flush()
            assert builder.stdout.readline() == "at work\n"
            victim.kill()
            said, _ = builder.communicate(timeout=120)
        assert builder.returncode == 0
        assert said.split()[-2:] == [expected.manifest.digest, "1"], "one call was made again"
        assert cluster.is_running()


def test_a_dask_worker_with_another_program_is_refused_by_name(
    tmp_path: Path, dask_cluster: DaskCluster
) -> None:
    other = tmp_path / "other"
    for package in ("model", "storage", "tasks"):
        shutil.copytree(ROOT / package, other / package)
    with (other / "tasks" / "encode.py").open("a") as file:
        file.write("# another one\n")
    engine = dask_cluster.start({"PYTHONPATH": str(other)})
    with (
        pytest.raises(EngineError, match=r"worker tcp://.* has brickroad .*; here is brickroad"),
        started_workers(engine, tmp_path / "workspace", None, None),
    ):
        pass


def test_a_wrong_address_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.engines import on_dask

    monkeypatch.setattr(on_dask, "_CONNECT_SECONDS", 1)
    engine = EngineConfig(engine="dask", address="tcp://127.0.0.1:9")
    with (
        pytest.raises(EngineError, match=r"^tcp://127\.0\.0\.1:9: no Dask scheduler answers there .*$"),
        started_workers(engine, tmp_path, None, None),
    ):
        pass


def test_what_cannot_be_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose threads, dask or ray"):
        EngineConfig(engine="spark")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is of a cluster"):
        EngineConfig(address="tcp://host:8786")
    with (
        pytest.raises(ValueError, match="a running cluster has limits of its own"),
        started_workers(EngineConfig(engine="ray", address="host:6379"), tmp_path, None, 1 << 30),
    ):
        pass


def test_threads_are_the_default(tmp_path: Path) -> None:
    with started_workers(EngineConfig(), tmp_path, 1, None) as workers:
        assert workers.run(os.getpid) in workers.process_ids()
