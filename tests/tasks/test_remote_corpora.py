"""Data sets from corpora behind a network: the same bytes as from this disk, what is known is not fetched, nothing is left out."""

import io
import json
import lzma
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from servers import WebServer, files_below, gcs_server, hub_server, s3_server, web_server
from tiny_data import build_plainly, tiny_documents

from storage import network
from storage.datasets import Dataset, read_dataset
from storage.errors import NetworkError
from storage.files import sha256_file
from storage.forms import Reading
from storage.shards import Shard, find_shards, write_shard
from storage.workspace import Workspace
from tasks import ingest as ingest_module
from tasks.corpora import SHARDS_VAL_FRACTION, TEXT_VAL_FRACTION, CorpusConfig, decided, locate_shards
from tasks.ingest import (
    IngestedShard,
    RefusedShard,
    UnreachedShard,
    ingest,
    ingest_shard,
    refuse_bad_shards,
)
from tasks.plan import plan_dataset, refuse_full_disk
from tasks.recall import recall, remember
from tasks.verify import recorded_config
from tasks.workers import Workers

FRACTION = 0.3
SECRET = "s3cret"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow at once, in this process; workers wait as they do."""
    monkeypatch.setattr(network, "_WAITS_SECONDS", (0.0, 0.0))


@pytest.fixture(params=["s3", "gs", "hf"])
def place(
    request: pytest.FixtureRequest, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of the tiny corpus."""
    files = files_below(tiny_corpus, "tiny/")
    if request.param == "hf":
        with hub_server(files, monkeypatch):
            yield "hf://datasets/owner/name/tiny"
    else:
        with {"s3": s3_server, "gs": gcs_server}[request.param](monkeypatch) as store:
            store.put(files)
            yield f"{store.url}/tiny"


def jsonl(folder: Path) -> Path:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in tiny_documents())
    path = folder / "lines.jsonl.zst"
    path.write_bytes(zstandard.compress(lines.encode()))
    return path


def parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"text": tiny_documents()}), folder / "rows.parquet")
    return folder / "rows.parquet"


def archive(folder: Path, padding_bytes: int = 0) -> Path:
    """A tar of shards, whose first member is one."""
    path = folder / "urlsf_subset00.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(1, 4):
            shard = folder / f"urlsf_subset00-{number}_data.xz"
            texts = tiny_documents(40, seed=number)
            write_shard(shard, [(f"{index}.txt", text.encode()) for index, text in enumerate(texts)])
            tar.add(shard, shard.name)
            shard.unlink()
        padding = tarfile.TarInfo("padding.bin")
        padding.size = padding_bytes
        tar.addfile(padding, io.BytesIO(bytes(padding_bytes)))
    return path


def book(folder: Path) -> Path:
    path = folder / "book.txt"
    path.write_text("\n\n".join(tiny_documents(600)), encoding="utf-8")
    return path


def same_bytes(one: Dataset, other: Dataset) -> bool:
    return one.manifest.digest == other.manifest.digest and one.manifest.files == other.manifest.files


def nowhere_below(folder: Path, text: str) -> bool:
    return not any(text.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


# --- the same data set ------------------------------------------------------------------------------------------------


def test_a_folder_of_an_object_store_gives_the_data_set_of_the_disk(
    place: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    local = build_plainly(tiny_corpus, Workspace.at(tmp_path / "local"))
    far = build_plainly(place, Workspace.at(tmp_path / "far"))
    assert same_bytes(local, far)
    assert local.manifest.fingerprint == far.manifest.fingerprint
    assert local.manifest.name == far.manifest.name == "tiny"
    assert local.manifest.sources == far.manifest.sources
    assert far.manifest.build["config"]["corpus"] == place
    assert same_bytes(far, build_plainly(f"{place}/*.xz", Workspace.at(tmp_path / "glob"), name="tiny"))


@pytest.mark.parametrize("make", [jsonl, parquet, archive, book])
def test_a_file_of_a_web_server_gives_the_data_set_of_the_disk(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    (tmp_path / "corpus").mkdir()
    path = make(tmp_path / "corpus")
    local = build_plainly(path, Workspace.at(tmp_path / "local"), val_fraction=None)
    with web_server(files_below(path.parent, "/some/")) as server:
        workspace = Workspace.at(tmp_path / "far")
        address = f"{server.url.replace('//', f'//user:{SECRET}@')}/some/{path.name}?sign={SECRET}"
        far = build_plainly(address, workspace, val_fraction=None)
        assert same_bytes(local, far)
        assert local.manifest.fingerprint == far.manifest.fingerprint
        assert local.manifest.val_fraction == far.manifest.val_fraction
        assert recorded_config(far).corpus == f"{server.url}/some/{path.name}"
        assert nowhere_below(workspace.root, SECRET)
        before = len(server.gets())
        assert build_plainly(address, workspace, val_fraction=None) == far
        assert len(server.gets()) == before


def test_what_is_known_is_listed_once_and_not_fetched(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_server(files_below(tiny_corpus, "tiny/"), monkeypatch) as server:
        workspace = Workspace.at(tmp_path)
        built = build_plainly("hf://datasets/owner/name/tiny", workspace)
        assert len(server.gets()) == 12
        server.asked.clear()
        assert build_plainly("hf://datasets/owner/name/tiny", workspace) == built
        assert server.gets() == []
        assert len([one for one in server.asked if one[0] == "LIST"]) <= 2
        changed = files_below(tiny_corpus, "tiny/")["tiny/urlsf_subset00-1_data.xz"]
        server.files["/datasets/owner/name/resolve/main/tiny/urlsf_subset00-2_data.xz"] = changed
        again = build_plainly("hf://datasets/owner/name/tiny", workspace)
        assert again.manifest.digest != built.manifest.digest


def test_a_server_that_tells_no_version_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with web_server(files_below(jsonl(tmp_path / "corpus").parent, "/")) as server:
        server.tells_version = False
        for _ in range(2):
            server.asked.clear()
            build_plainly(f"{server.url}/lines.jsonl.zst", Workspace.at(tmp_path / "workspace"))
            assert server.gets()


def test_the_val_fraction_is_that_of_the_form(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    files = files_below(book(tmp_path / "corpus").parent, "/") | files_below(
        jsonl(tmp_path / "corpus").parent, "/"
    )
    with web_server(files) as server:
        workspace = Workspace.at(tmp_path / "workspace")
        for name, fraction in (("book.txt", TEXT_VAL_FRACTION), ("lines.jsonl.zst", SHARDS_VAL_FRACTION)):
            config = CorpusConfig(corpus=f"{server.url}/{name}")
            assert config.chosen_val_fraction == fraction
            assert config.chosen_name == name.split(".")[0]
            for _ in range(2):
                server.asked.clear()
                assert decided(config, locate_shards(config, workspace), workspace).val_fraction == fraction
            assert server.gets() == []  # it was told the first time


def test_a_plan_is_made_from_afar(place: str, tiny_corpus: Path, tmp_path: Path) -> None:
    here = plan_dataset(CorpusConfig(corpus=str(tiny_corpus)), Workspace.at(tmp_path))
    far = plan_dataset(CorpusConfig(corpus=place), Workspace.at(tmp_path))
    assert (far.shards, far.compressed_bytes) == (here.shards, here.compressed_bytes)
    assert far.text_bytes == pytest.approx(here.text_bytes, rel=0.01)


def test_a_disk_that_is_too_small_is_noticed_from_afar(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bad_disks import small_disk

    with s3_server(monkeypatch) as store, small_disk(tmp_path / "disk", "size=200k") as disk:
        store.put(files_below(tiny_corpus, "tiny/"))
        config = CorpusConfig(corpus=f"{store.url}/tiny")
        with pytest.raises(OSError, match="this data set needs about"):
            refuse_full_disk(config, find_shards(config.corpus), Workspace.at(disk))


# --- large files ------------------------------------------------------------------------------------------------------


def test_a_large_archive_streams_by_once(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    path = archive(tmp_path / "corpus", padding_bytes=ingest_module._IN_MEMORY_BYTES)
    with web_server({"/urlsf_subset00.tar": path.read_bytes()}) as server:
        far = build_plainly(f"{server.url}/urlsf_subset00.tar", Workspace.at(tmp_path / "far"))
        assert server.gets() == [None, None]  # its beginning, and all of it
        assert same_bytes(far, build_plainly(path, Workspace.at(tmp_path / "local")))
        assert list((tmp_path / "far" / "documents").glob("*.partial")) == []


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large, in this process."""
    monkeypatch.setattr(ingest_module, "_IN_MEMORY_BYTES", 0)


def stored(shard: Shard, folder: Path) -> IngestedShard:
    result = ingest_shard(shard, folder, Reading(), FRACTION)
    assert isinstance(result, IngestedShard)
    return result


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("make", [jsonl, parquet, book])
def test_a_large_file_comes_once_and_no_copy_stays(make: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    path = make(tmp_path / "corpus")
    stored(find_shards(str(path))[0], tmp_path / "local")
    with web_server(files_below(path.parent, "/")) as server:
        server.faults = ["none", "late cut"]  # it breaks off in the middle, not while its form is told
        result = stored(find_shards(f"{server.url}/{path.name}")[0], tmp_path / "far")
        assert result.part.shard_sha256 == sha256_file(path)
        assert {one.name: sha256_file(one) for one in (tmp_path / "far").iterdir()} == {
            one.name: sha256_file(one) for one in (tmp_path / "local").iterdir()
        }


@pytest.mark.usefixtures("large")
def test_a_large_file_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    path = book(tmp_path / "corpus")
    with web_server(files_below(path.parent, "/")) as server:
        shard, server.wrong_for_ever = find_shards(f"{server.url}/book.txt")[0], "cut"
        server.faults = ["none"]  # its form is told
        with pytest.raises(NetworkError):
            ingest_shard(shard, tmp_path / "far", Reading(), FRACTION)
    assert list((tmp_path / "far").iterdir()) == []


# --- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "reset", 403, 500, "longer"])
def test_trouble_with_the_network_is_never_a_bad_shard(fault: int | str, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with web_server(files_below(jsonl(tmp_path / "corpus").parent, "/")) as server:
        shard, server.wrong_for_ever = find_shards(f"{server.url}/lines.jsonl.zst")[0], fault
        with pytest.raises(NetworkError):
            ingest_shard(shard, tmp_path / "documents", Reading(), FRACTION)


def test_an_archive_that_breaks_off_is_trouble_with_the_network(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    path = archive(tmp_path / "corpus")
    with web_server(files_below(path.parent, "/")) as server, Workers(1) as workers:
        shards, server.wrong_for_ever = find_shards(f"{server.url}/{path.name}"), 403
        server.faults = ["none"]  # the worker reads it, and finds that it is an archive
        results = ingest(shards, tmp_path / "documents", Reading(), FRACTION, workers)
    assert isinstance(results[-1], UnreachedShard)
    with pytest.raises(NetworkError, match=r"refuses to give it \(403\)"):
        refuse_bad_shards(results, tolerated=100)


def test_a_shard_that_is_gone_stops_the_build_whatever_is_tolerated_and_the_rest_is_kept(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "documents"
    with s3_server(monkeypatch) as store, Workers(2) as workers:
        store.put(files_below(tiny_corpus, "tiny/"))
        shards = find_shards(f"{store.url}/tiny")
        store.fs.rm("corpora/tiny/urlsf_subset00-6_data.xz")
        recalled = recall(shards, folder, Reading())
        results = ingest(shards, folder, Reading(), FRACTION, workers)
        assert [type(result) for result in results] == [IngestedShard] * 5 + [UnreachedShard]
        remember(recalled, results, folder, Reading(), None)
        with pytest.raises(
            NetworkError, match=r"s3://corpora/tiny/urlsf_subset00-6_data.xz: is not there \(404\)"
        ):
            refuse_bad_shards(results, tolerated=100)
        assert [shard.name for shard in recall(shards, folder, Reading()).unknown] == [
            shard.name for shard in shards[5:]
        ]


def test_a_bad_shard_from_afar_is_a_bad_shard(tmp_path: Path) -> None:
    whole = lzma.compress(b"text" * 1000)
    with web_server({"/a.txt.xz": whole[:-5]}) as server:
        (shard,) = find_shards(f"{server.url}/a.txt.xz?sign={SECRET}")
        result = ingest_shard(shard, tmp_path, Reading(), FRACTION)
    assert isinstance(result, RefusedShard)
    assert result.place == f"{server.url}/a.txt.xz"
    assert "is cut off" in result.reason


def test_an_error_page_that_is_sent_as_data_is_refused_by_its_name(tmp_path: Path) -> None:
    server: WebServer
    with web_server({"/a.jsonl": b"<html><body>Please log in</body></html>"}) as server:
        result = ingest_shard(find_shards(f"{server.url}/a.jsonl")[0], tmp_path, Reading(), FRACTION)
    assert isinstance(result, RefusedShard)
    assert "is plain text, and its name says .jsonl" in result.reason


def test_a_finished_data_set_reads_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with web_server(files_below(jsonl(tmp_path / "corpus").parent, "/")) as server:
        built = build_plainly(f"{server.url}/lines.jsonl.zst", Workspace.at(tmp_path / "workspace"))
    assert read_dataset(built.path) == built
