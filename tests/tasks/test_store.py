"""Builds that share a store: the same bytes, nothing made twice, nothing half visible; hosts that share no file system."""

import fnmatch
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import DaskCluster, ray_variables, running_ray
from servers import files_below, s3_server
from stores import KINDS, ROOT, BuildApart, build_with, empty_store
from tiny_data import build_plainly

from storage import network
from storage.datasets import Dataset, verify_dataset
from storage.errors import StoreError
from storage.forms import Reading
from storage.shards import find_shards
from storage.store import Store
from storage.workspace import Workspace
from tasks.engines.site import EngineError
from tasks.engines.start import EngineConfig
from tasks.quality import QualityConfig
from tasks.recall import recall


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow at once, in this process; workers wait as they do."""
    monkeypatch.setattr(network, "_WAITS_SECONDS", (0.0, 0.0))


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with empty_store(request.param, tmp_path, monkeypatch) as store:
        yield store


@pytest.fixture
def folder_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with empty_store("folder", tmp_path, monkeypatch) as store:
        yield store


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


def test_what_was_built_before_without_a_store_is_put_there(
    folder_store: Store, tiny_corpus: Path, tmp_path: Path
) -> None:
    build_plainly(tiny_corpus, Workspace.at(tmp_path / "first"))
    assert build_with(folder_store, tmp_path / "first", tiny_corpus).built_parts == 0
    assert build_with(folder_store, tmp_path / "second", tiny_corpus).built_parts == 0


def test_of_a_shard_more_one_part_is_made(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = next(tiny_corpus.glob("*-7_data.xz"))
    with s3_server(monkeypatch) as bucket:
        bucket.put(files_below(tiny_corpus, "tiny/"))
        bucket.fs.rm_file(f"corpora/tiny/{late.name}")
        store, corpus = Store.at(f"{bucket.url}/team"), f"{bucket.url}/tiny"
        build_with(store, tmp_path / "first", corpus)
        bucket.put({f"tiny/{late.name}": late.read_bytes()})
        second = build_with(store, tmp_path / "second", corpus)
        third = build_with(store, tmp_path / "third", corpus)
    assert (second.built_parts, second.reused_parts) == (1, 11)
    assert (third.built_parts, third.reused_parts) == (0, 12)
    alone = build_plainly(tiny_corpus, Workspace.at(tmp_path / "alone"))
    assert second.dataset.manifest.digest == third.dataset.manifest.digest == alone.manifest.digest


def test_texts_whose_tokens_are_here_do_not_come(
    folder_store: Store, tiny_corpus: Path, tmp_path: Path
) -> None:
    late = next(tiny_corpus.glob("*-7_data.xz"))
    late.rename(tmp_path / late.name)
    learnt = build_plainly(tiny_corpus, Workspace.at(tmp_path / "learnt"), tokenizer="bpe:300")
    tokenizer = str(learnt.path / "tokenizer.json")
    build_with(folder_store, tmp_path / "first", tiny_corpus, tokenizer=tokenizer)
    build_with(folder_store, tmp_path / "second", tiny_corpus, tokenizer=tokenizer)
    (tmp_path / late.name).rename(late)
    second = build_with(folder_store, tmp_path / "second", tiny_corpus, tokenizer=tokenizer)
    alone = build_plainly(tiny_corpus, Workspace.at(tmp_path / "alone"), tokenizer=tokenizer)
    assert same_bytes(second.dataset, alone)
    texts = list((tmp_path / "second" / "documents").glob("*.parquet"))
    assert (second.built_parts, len(texts)) == (1, 1), (
        "the data set that was fetched has the tokens of the others"
    )


def test_of_a_remote_corpus_that_others_know_no_shard_is_read(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    store = Store.at(str(tmp_path / "store"))
    with s3_server(monkeypatch) as bucket:
        bucket.put(files_below(tiny_corpus, "tiny/"))
        shards = find_shards(f"{bucket.url}/tiny")
        build_with(store, tmp_path / "first", f"{bucket.url}/tiny")
        recalled = recall(shards, tmp_path / "second", Reading(), store, f"{bucket.url}/tiny")
        assert (len(recalled.known), recalled.unknown) == (12, [])
        for path in (tmp_path / "store" / "documents").glob("*.parquet"):
            path.unlink()
        recalled = recall(shards, tmp_path / "second", Reading(), store, f"{bucket.url}/tiny")
        assert (recalled.known, len(recalled.unknown)) == ([], 12), "what the store has lost is made again"


@pytest.mark.parametrize("kind", ["folder", "s3"])
@pytest.mark.parametrize("seen", ["documents/*.json", "datasets/*/train.bin", "datasets/*/manifest.json"])
def test_a_build_that_was_killed_leaves_nothing_half_and_the_next_goes_on(
    kind: str, seen: str, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with empty_store(kind, tmp_path, monkeypatch) as store:
        building = BuildApart(store, tmp_path / "first", tiny_corpus)
        while building.is_running() and not fnmatch.filter(store.listed(seen.partition("/")[0]), seen):
            time.sleep(0.001)
        building.kill()
        there = {key: size for key, (size, _) in store.listed("documents").items()}
        records = [key for key in there if key.endswith(".json")]
        for key in records:
            facts = json.loads(store.read(key) or b"")
            assert facts["file_bytes"] == there[key.removesuffix(".json") + ".parquet"]
        next_one = build_with(store, tmp_path / "second", tiny_corpus)
        third = build_with(store, tmp_path / "third", tiny_corpus)
    assert (next_one.reused_parts, next_one.built_parts) == (len(records), 12 - len(records))
    alone = build_plainly(tiny_corpus, Workspace.at(tmp_path / "alone"))
    assert next_one.dataset.manifest.digest == third.dataset.manifest.digest == alone.manifest.digest
    assert third.built_parts == 0


def test_two_builds_at_once_do_not_disturb_each_other(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with empty_store("s3", tmp_path, monkeypatch) as store:
        builds = [BuildApart(store, tmp_path / name, tiny_corpus) for name in ("first", "second")]
        digests = {one.ended()["digest"] for one in builds}
        third = build_with(store, tmp_path / "third", tiny_corpus)
    assert digests == {third.dataset.manifest.digest}
    assert third.built_parts == 0
    assert not [line for _, _, wrong in verify_dataset(third.dataset) for line in wrong]


def test_stored_text_that_is_damaged_in_the_store_is_named(
    folder_store: Store, tiny_corpus: Path, tmp_path: Path
) -> None:
    build_with(folder_store, tmp_path / "first", tiny_corpus)
    path = min((Path(folder_store.address) / "documents").glob("*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"^{path}: its bytes are not those that were stored; delete it"):
        build_with(folder_store, tmp_path / "second", tiny_corpus, name="other", tokenizer="bpe:300")
    assert not list((tmp_path / "second" / "datasets").rglob("manifest.json"))


def test_quality_steps_with_a_store(folder_store: Store, tiny_corpus: Path, tmp_path: Path) -> None:
    settings = {"quality": QualityConfig(minimum_characters=400)}
    alone = build_plainly(tiny_corpus, Workspace.at(tmp_path / "alone"), **settings)
    build_with(folder_store, tmp_path / "first", tiny_corpus)
    found = build_with(folder_store, tmp_path / "second", tiny_corpus, **settings)
    assert found.dataset.manifest.digest == alone.manifest.digest
    assert found.built_parts == 0
    assert alone.manifest.left_out


AFAR: dict[str, dict[str, object]] = {
    "characters": {},
    "byte pairs": {"tokenizer": "bpe:300"},
    "documents left out": {"quality": QualityConfig(minimum_characters=400)},
}


@pytest.mark.parametrize("kind", AFAR)
def test_dask_workers_with_workspaces_of_their_own_make_the_same_bytes(
    kind: str,
    dask_cluster: DaskCluster,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = build_plainly(tiny_corpus, Workspace.at(tmp_path / "alone"), **AFAR[kind])
    with s3_server(monkeypatch) as bucket:
        bucket.put(files_below(tiny_corpus, "tiny/"))
        store, corpus = Store.at(f"{bucket.url}/team"), f"{bucket.url}/tiny"
        hosts = tmp_path / "host 1", tmp_path / "host 2"
        engine = dask_cluster.start_hosts(*hosts)
        built = build_with(store, tmp_path / "builder", corpus, engine, **AFAR[kind])
        second = build_with(store, tmp_path / "second", corpus)
        sent = [key for key in store.listed("tokens") if key.endswith(".json")]
    assert same_bytes(built.dataset, alone)
    assert len(sent) == 12
    texts = [len(list((host / "documents").glob("*.parquet"))) for host in hosts]
    assert min(texts) > 0
    if kind == "characters":
        assert not list((tmp_path / "builder" / "documents").glob("*.parquet")), "it stays where it was made"
    assert not [path for host in hosts for path in host.glob(".*.partial")]
    assert (second.built_parts, second.reused_parts) == (0, 12)


def test_a_dask_host_that_is_killed_costs_what_it_was_at(
    dask_cluster: DaskCluster, folder_store: Store, tiny_corpus: Path, tmp_path: Path
) -> None:
    engine = dask_cluster.start_hosts(tmp_path / "host 1", tmp_path / "host 2")

    def kill_when_it_has_begun() -> None:
        while not folder_store.listed("documents"):
            time.sleep(0.005)
        dask_cluster.running[1].kill()

    killer = threading.Thread(target=kill_when_it_has_begun)
    killer.start()
    built = build_with(folder_store, tmp_path / "builder", tiny_corpus, engine)
    killer.join()
    assert dask_cluster.running[1].wait(30) == -signal.SIGKILL
    assert same_bytes(built.dataset, build_plainly(tiny_corpus, Workspace.at(tmp_path / "alone")))


def test_a_dask_worker_that_does_not_reach_the_store_is_refused_by_name(
    dask_cluster: DaskCluster,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    engine = dask_cluster.start_hosts(tmp_path / "host")  # before the environment leads to the server
    with (
        s3_server(monkeypatch) as bucket,
        pytest.raises(
            EngineError, match=r"^worker tcp://.* does not reach the store: s3://corpora/team: cannot be used"
        ),
    ):
        build_with(Store.at(f"{bucket.url}/team"), tmp_path / "builder", tiny_corpus, engine)
    assert not list((tmp_path / "builder").rglob("*.parquet"))


def test_a_dask_cluster_whose_hosts_share_the_workspace_writes_blocks_in_place(
    dask_cluster: DaskCluster, folder_store: Store, tiny_corpus: Path, tmp_path: Path
) -> None:
    workspace = tmp_path / "shared"
    built = build_with(folder_store, workspace, tiny_corpus, dask_cluster.start_hosts(workspace, workspace))
    assert built.built_parts == 12
    assert folder_store.listed("tokens") == {}
    assert len(folder_store.listed("documents")) == 24


@pytest.fixture
def ray_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineConfig]:
    """A Ray cluster of one host on loopback, whose workspace is `host`."""
    for name, value in ray_variables().items():
        monkeypatch.setenv(name, value)
    own = {"PYTHONPATH": str(ROOT), "BRICKROAD_WORKSPACE": str(tmp_path / "host")}
    with running_ray(os.environ | own) as (address, _):
        yield EngineConfig(engine="ray", address=address)


def test_ray_workers_with_a_workspace_of_their_own_make_the_same_bytes(
    ray_host: EngineConfig, folder_store: Store, tiny_corpus: Path, tmp_path: Path
) -> None:
    built = BuildApart(folder_store, tmp_path / "builder", tiny_corpus, ray_host).ended()
    alone = build_plainly(tiny_corpus, Workspace.at(tmp_path / "alone"))
    assert built == {"digest": alone.manifest.digest, "built": 12, "reused": 0}
    assert len(list((tmp_path / "host" / "documents").glob("*.parquet"))) == 12
    assert not list((tmp_path / "builder" / "documents").glob("*.parquet"))
