"""A store's objects appear whole and come back as they were, or the object is named; data sets are fetched block by block."""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from servers import s3_server
from stores import KINDS, ROOT, asking_for_keys, empty_store
from tiny_data import build_plainly

from storage import blocks, network, shared_datasets
from storage.blocks import file_facts
from storage.datasets import Dataset, read_dataset, verify_dataset
from storage.errors import NetworkError, NoSuchDatasetError, StoreError
from storage.files import crc32, write_json
from storage.manifests import digest_of
from storage.shared_datasets import SharedDataset, fetch_dataset, find_shared, put_dataset, shared_by_inputs
from storage.store import Store
from storage.workspace import Workspace

CONTENT = os.urandom(300_000)
INPUTS = "f" * 64


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow at once, and what is read at once is small."""
    monkeypatch.setattr(network, "_WAITS_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("storage.store.READ_BYTES", 100_000)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with empty_store(request.param, tmp_path, monkeypatch) as store:
        yield store


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store.at(str(tmp_path / "store"))


# --- objects ----------------------------------------------------------------------------------------------------------


def test_objects_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "below" / "copy"
    source.write_bytes(CONTENT)
    store.refuse_unusable()
    assert (store.size("a/b"), store.read("a/b"), store.listed("a")) == (None, None, {})
    store.put(source, "a/b")
    store.write("a/c/d", b"small")
    assert (store.size("a/b"), store.size("a"), store.read("a/c/d")) == (len(CONTENT), None, b"small")
    assert store.read("a/b", 10, 20) == CONTENT[10:20]
    store.fetch("a/b", copy, size=len(CONTENT), checksum=crc32(CONTENT))
    assert copy.read_bytes() == CONTENT
    assert {key: size for key, (size, _) in store.listed("a").items()} == {"a/b": len(CONTENT), "a/c/d": 5}
    store.delete("a/c/d")
    assert list(store.listed("a")) == ["a/b"]
    assert store.listed("") == store.listed("a"), "a probe leaves nothing"


def test_a_file_of_several_pieces_is_put_whole(store: Store, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    content = os.urandom(1 << 20) * 21
    source.write_bytes(content)
    store.put(source, "large")
    store.fetch("large", copy, size=len(content), checksum=crc32(content))
    assert copy.read_bytes() == content


def test_what_is_there_is_not_put_again(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"one")
    store.put(source, "key")
    source.write_bytes(b"two")
    store.put(source, "key")
    assert store.read("key") == b"one", "a name stands for its content"
    source.write_bytes(b"three")
    store.put(source, "key")
    assert store.read("key") == b"three", "another size is a damage"


@pytest.mark.parametrize("damage", ["other bytes", "cut", "cut at a request's end", "gone"])
def test_a_damaged_object_is_named_and_not_here(store: Store, tmp_path: Path, damage: str) -> None:
    wrong = {
        "other bytes": CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]),
        "cut": CONTENT[:-1],
        "cut at a request's end": CONTENT[:200_000],
    }
    if damage in wrong:
        store.write("a/b", wrong[damage])
    with pytest.raises(StoreError, match=rf"^{store.address}/a/b: .*build again with this store$"):
        store.fetch("a/b", tmp_path / "copy", size=len(CONTENT), checksum=crc32(CONTENT))
    assert not (tmp_path / "copy").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".copy")]


def test_a_store_travels_as_its_address(store: Store) -> None:
    store.write("a", b"content")
    again = pickle.loads(pickle.dumps(store))
    assert (again, again.read("a")) == (store, b"content")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://host/a", "is no store; name a folder"),
        ("s3://", "is no store; name a folder"),
        ("s3://key:s3cret@bucket/a", "leave user, password and query out"),
        ("hf://datasets/owner/name", "is no store; name a folder"),
    ],
)
def test_an_address_that_can_be_no_store_is_refused(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        Store.at(address)
    assert "s3cret" not in str(refused.value)


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Store.chosen() is None
    monkeypatch.setenv("BRICKROAD_STORE", f"file://{tmp_path}")
    assert Store.chosen() == Store.at(str(tmp_path))
    assert Store.chosen("s3://bucket/a/") == Store.at("s3://bucket/a")
    assert Store.chosen("") is None


def test_a_bucket_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch), pytest.raises(NetworkError) as refused:
        Store.at("s3://nowhere/team").refuse_unusable()
    reason = "cannot be used as a store: there is no bucket nowhere; make it, or name another"
    assert str(refused.value) == f"s3://nowhere/team: {reason}"


def test_a_wrong_key_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        s3_server(monkeypatch),
        asking_for_keys(),
        pytest.raises(NetworkError, match=r"^s3://corpora/team: .*403.*AWS_PROFILE") as refused,
    ):
        Store.at("s3://corpora/team").refuse_unusable()
    assert "a-secret-key" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"^{tmp_path}/mount: is no folder that is there; mount it"):
        Store.at(f"{tmp_path}/mount").refuse_unusable()
    assert not (tmp_path / "mount").exists()


# --- data sets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A data set whose files have many blocks."""
    whole = build_plainly(tiny_corpus, Workspace.at(tmp_path / "whole"))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 10_000)
    monkeypatch.setattr(shared_datasets, "BLOCK_BYTES", 10_000)
    monkeypatch.setattr(shared_datasets, "READ_BYTES", 4_000)
    files = {name: file_facts(whole.path / name) for name in whole.manifest.files}
    digest = digest_of(whole.manifest.dtype, whole.manifest.end_of_text, files)
    folder = whole.path.with_name(digest)
    shutil.copytree(whole.path, folder)
    manifest = replace(whole.manifest, files=files, digest=digest).sealed()
    write_json(folder / "manifest.json", asdict(manifest))
    return read_dataset(folder)


def fetched(shared: SharedDataset, place: Workspace) -> Dataset:
    total, *sizes = fetch_dataset(shared, place, INPUTS)
    assert sum(sizes) == total
    return read_dataset(place.datasets / shared.name / shared.digest)


def wrong_with(dataset: Dataset) -> list[str]:
    return [line for _, _, wrong in verify_dataset(dataset) for line in wrong]


def test_a_data_set_is_fetched_block_by_block(store: Store, dataset: Dataset, tmp_path: Path) -> None:
    assert len(dataset.manifest.files["train.bin"].block_sha256) > 3
    put_dataset(dataset, INPUTS, store)
    place = Workspace.at(tmp_path / "other")
    shared = find_shared(store, f"tiny@{dataset.manifest.digest[:6]}")
    assert shared == find_shared(store, "tiny") == shared_by_inputs(store, "tiny", INPUTS)
    found = fetched(shared, place)
    assert wrong_with(found) == []
    assert found.manifest == dataset.manifest
    assert found.token_file("train").open().tolist() == dataset.token_file("train").open().tolist()
    assert (found.path / "report.html").read_bytes() == (dataset.path / "report.html").read_bytes()
    assert list(fetch_dataset(shared, place)) == [], "it is here"
    assert not list(place.root.rglob("*.partial"))


def test_what_is_not_in_the_store_is_said(store: Store, dataset: Dataset) -> None:
    put_dataset(dataset, INPUTS, store)
    for reference in ("tiny@0bad", "other", "../tiny", "/tiny", "tin"):
        with pytest.raises(
            NoSuchDatasetError, match=f"^{reference}: no such data set in the store {store.address}$"
        ):
            find_shared(store, reference)


def test_the_newest_of_a_name_is_found(store: Store) -> None:
    for digest in ("b" * 32, "c" * 32, "a" * 32):
        store.write(f"datasets/web/{digest}/manifest.json", b"{}")
        time.sleep(1.1)  # S3 tells whole seconds
    store.write(f"datasets/web2/{'d' * 32}/manifest.json", b"{}")
    assert find_shared(store, "web").digest == "a" * 32
    assert find_shared(store, "web@c").digest == "c" * 32


def test_a_damaged_block_is_named_and_nothing_has_a_name_here(
    folder_store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    put_dataset(dataset, INPUTS, folder_store)
    shared, place = find_shared(folder_store, "tiny"), Workspace.at(tmp_path / "other")
    path = Path(folder_store.place(shared.file("train.bin")))
    content = bytearray(path.read_bytes())
    content[25_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"^{path}: its bytes differ in block 2 of 64 MiB"):
        list(fetch_dataset(shared, place))
    assert not place.datasets.exists()
    content[25_000] ^= 1
    path.write_bytes(content)
    assert wrong_with(fetched(shared, place)) == []


def test_rows_that_a_killed_upload_has_left_give_way(
    folder_store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    shared = SharedDataset(store=folder_store, name="tiny", digest=dataset.manifest.digest)
    folder_store.write(
        shared.file("documents.parquet"), bytes(dataset.manifest.files["documents.parquet"].bytes)
    )
    put_dataset(dataset, INPUTS, folder_store)
    assert wrong_with(fetched(shared, Workspace.at(tmp_path / "other"))) == []


@pytest.mark.parametrize("edit", [b'"train.bin": {', b'"end_of_text": '])
def test_a_manifest_that_was_edited_is_refused(
    folder_store: Store, dataset: Dataset, tmp_path: Path, edit: bytes
) -> None:
    put_dataset(dataset, INPUTS, folder_store)
    path = Path(folder_store.place(find_shared(folder_store, "tiny").file("manifest.json")))
    content = path.read_bytes()
    path.write_bytes(
        content.replace(edit, edit.replace(b"train", b"../train") if b"train" in edit else edit + b"1")
    )
    assert path.read_bytes() != content
    with pytest.raises(StoreError, match=r"manifest\.json: was edited or damaged"):
        list(fetch_dataset(find_shared(folder_store, "tiny"), Workspace.at(tmp_path / "other")))


@pytest.mark.parametrize("digest", ["../../elsewhere", "", "A" * 32])
def test_what_a_store_says_of_a_digest_is_no_path(folder_store: Store, digest: str) -> None:
    folder_store.write(f"datasets/tiny/by-inputs/{INPUTS}", digest.encode())
    with pytest.raises(NoSuchDatasetError, match="is no data set's name"):
        shared_by_inputs(folder_store, "tiny", INPUTS)


def test_a_disk_that_cannot_hold_it_is_told_before_anything_comes(
    folder_store: Store, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_dataset(dataset, INPUTS, folder_store)
    small = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)
    with pytest.raises(OSError, match="this data set needs") as refused:
        list(fetch_dataset(find_shared(folder_store, "tiny"), Workspace.at(tmp_path / "other")))
    assert refused.value.errno == errno.ENOSPC


_KILLED = """
import os, signal, sys
from pathlib import Path
from storage import blocks, shared_datasets
from storage.store import Store
from storage.workspace import Workspace
blocks.BLOCK_BYTES = shared_datasets.BLOCK_BYTES = 10_000
shared_datasets._READERS = 1
shared = shared_datasets.find_shared(Store.at(sys.argv[1]), "tiny")
coming = shared_datasets.fetch_dataset(shared, Workspace.at(sys.argv[2]))
for _ in range(4):  # how many bytes it has, and three blocks
    next(coming)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_fetch_that_was_killed_goes_on(folder_store: Store, dataset: Dataset, tmp_path: Path) -> None:
    put_dataset(dataset, INPUTS, folder_store)
    shared, place = find_shared(folder_store, "tiny"), Workspace.at(tmp_path / "other")
    command = [sys.executable, "-c", _KILLED, folder_store.address, str(place.root)]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    assert not place.datasets.exists()
    path = Path(folder_store.place(shared.file("train.bin")))
    content = path.read_bytes()
    path.write_bytes(bytes(30_000) + content[30_000:])  # whoever reads these blocks again will know
    assert wrong_with(fetched(shared, place)) == []
