"""Corpora by name: fetched once, in as many pieces as the network gives, and never other bytes than the catalogue's."""

import hashlib
import io
import lzma
import random
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_data import build_plainly

from storage.errors import CorpusError, ShardError
from storage.forms import ArchiveOfShards, Reading, read_archive, read_batches
from storage.shards import find_shards, write_shard
from storage.workspace import Workspace
from tasks import corpora
from tasks.corpora import (
    CATALOGUE,
    CatalogueEntry,
    CorpusConfig,
    download,
    locate_shards,
    refuse_incomplete,
)

CONTENT = b"".join(b"line %d of a book\n" % number for number in range(5_000))


class Server:
    """A web server on loopback that can cut connections, ignore ranges, and send other bytes; it logs what was asked."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.cut_after: int | None = None
        self.takes_ranges = True
        self.status = 200
        self.asked: list[str | None] = []
        state = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                state.asked.append(wanted)
                if state.status != 200:
                    self.send_error(state.status)
                    return
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.takes_ranges else 0
                body = state.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body[: state.cut_after])
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/book.txt"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def entry(server: Server) -> CatalogueEntry:
    return entry_for(server, CONTENT)


def entry_for(server: Server, content: bytes) -> CatalogueEntry:
    return CatalogueEntry(
        name="book",
        what="a book",
        licence="public domain",
        layout="text",
        bytes=len(content),
        url=server.url,
        sha256=hashlib.sha256(content).hexdigest(),
    )


# --- download ---------------------------------------------------------------------------------------------------------


def test_a_download_is_the_file_and_is_made_once(
    server: Server, entry: CatalogueEntry, tmp_path: Path
) -> None:
    for _ in range(2):
        path = download(entry, tmp_path / "corpora")
        assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == ["book.txt"]


def test_a_cut_download_says_where_and_goes_on_from_there(
    server: Server, entry: CatalogueEntry, tmp_path: Path
) -> None:
    server.cut_after = 30_000
    with pytest.raises(
        CorpusError, match=r"the connection ended at byte 30,000 of .*run it again to go on"
    ) as refused:
        download(entry, tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "book.txt").exists()
    with pytest.raises(CorpusError, match="ended at byte 60,000"):
        download(entry, tmp_path)
    server.cut_after = None
    assert download(entry, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=30000-", "bytes=60000-"]


def test_a_server_without_ranges_is_read_from_the_start(
    server: Server, entry: CatalogueEntry, tmp_path: Path
) -> None:
    server.cut_after, server.takes_ranges = 30_000, False
    with pytest.raises(CorpusError, match="ended at byte 30,000"):
        download(entry, tmp_path)
    server.cut_after = None
    assert download(entry, tmp_path).read_bytes() == CONTENT


def test_a_whole_download_that_was_killed_before_its_check_is_not_repeated(
    server: Server, entry: CatalogueEntry, tmp_path: Path
) -> None:
    (tmp_path / "book.txt.unfinished").write_bytes(CONTENT)
    assert download(entry, tmp_path).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"more", CONTENT * 50])
def test_other_bytes_are_refused_and_not_left(
    content: bytes, server: Server, entry: CatalogueEntry, tmp_path: Path
) -> None:
    server.content = content
    with pytest.raises(CorpusError, match="gave other bytes than the catalogue's sha256; not used"):
        download(entry, tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.content = CONTENT
    assert download(entry, tmp_path).read_bytes() == CONTENT


def test_a_server_that_sends_without_end_does_not_fill_the_disk(
    server: Server, entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def measured(path: Path) -> str:
        sizes.append(path.stat().st_size)
        return "other"

    monkeypatch.setattr(corpora, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(corpora, "sha256_file", measured)
    server.content = CONTENT * 20
    with pytest.raises(CorpusError, match="other bytes"):
        download(entry, tmp_path)
    assert sizes[0] <= len(CONTENT) + 1000


def test_a_damaged_beginning_is_refused_and_not_left(
    server: Server, entry: CatalogueEntry, tmp_path: Path
) -> None:
    (tmp_path / "book.txt.unfinished").write_bytes(b"x" * 30_000)
    with pytest.raises(CorpusError, match="other bytes"):
        download(entry, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_server_that_refuses_is_one_line_with_the_local_way(
    status: int, server: Server, entry: CatalogueEntry, tmp_path: Path
) -> None:
    server.status = status
    with pytest.raises(
        CorpusError, match=r"book: cannot be downloaded from http.*brickroad run PATH"
    ) as refused:
        download(entry, tmp_path)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_is_one_line_with_the_local_way(
    server: Server, entry: CatalogueEntry, tmp_path: Path
) -> None:
    server.close()
    with pytest.raises(CorpusError, match=r"book: .*refused.*brickroad run PATH") as refused:
        download(entry, tmp_path)
    assert "\n" not in str(refused.value)
    server.__init__()  # type: ignore[misc]  # for the fixture to close


def test_a_server_that_goes_silent_is_given_up(
    entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr(corpora, "_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = replace(entry, url=f"http://127.0.0.1:{silent.getsockname()[1]}/book.txt")
        with pytest.raises(CorpusError, match="timed out"):
            download(mute, tmp_path)


def test_a_full_disk_names_the_file(server: Server, entry: CatalogueEntry, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this machine")
    (tmp_path / "book.txt.unfinished").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*book\.txt\.unfinished"):
        download(entry, tmp_path)


# --- locating ---------------------------------------------------------------------------------------------------------


def catalogue_with(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> CorpusConfig:
    monkeypatch.setitem(CATALOGUE, entry.name, entry)
    return CorpusConfig(corpus=entry.name)


def test_a_text_by_name_is_one_shard_and_fetched_once(
    server: Server, entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = catalogue_with(entry, monkeypatch), Workspace.at(tmp_path)
    for _ in range(2):
        (shard,) = locate_shards(config, workspace)
        assert Path(shard.location).read_bytes() == CONTENT
        assert shard.name == "book.txt"
    assert len(server.asked) == 1
    assert [path.name for path in workspace.corpora.iterdir()] == ["book"]


def archive_of_shards(folder: Path) -> bytes:
    names = []
    for number in (1, 2, 10):
        names.append(f"urlsf_subset00-{number}_data.xz")
        write_shard(folder / names[-1], [(f"{number}.txt", b"text %d" % number)])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name in random.Random(0).sample(names, len(names)):
            tar.add(folder / name, f"openwebtext/{name}")
    return buffer.getvalue()


def archive_corpus(server: Server, content: bytes, monkeypatch: pytest.MonkeyPatch) -> CorpusConfig:
    server.content = content
    entry = replace(
        entry_for(server, content), layout="archive of shards", url=server.url.replace(".txt", ".tar.xz")
    )
    return catalogue_with(entry, monkeypatch)


def test_an_archive_by_name_is_one_file_that_holds_its_shards_and_is_fetched_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = archive_corpus(server, archive_of_shards(tmp_path / "made"), monkeypatch)
    workspace = Workspace.at(tmp_path / "workspace")
    (archive,) = locate_shards(config, workspace)
    assert archive.name == "book.tar.xz"
    with pytest.raises(ArchiveOfShards):
        next(read_batches(archive, Reading()))
    inner = {shard.member: shard for shard in read_archive(archive)}
    assert {member: next(read_batches(shard, Reading())).texts.utf8 for member, shard in inner.items()} == {
        f"openwebtext/urlsf_subset00-{n}_data.xz": b"text %d" % n for n in (1, 2, 10)
    }
    assert [path.name for path in workspace.corpora.iterdir()] == [
        "book"
    ]  # and no second copy of the archive
    assert sorted(path.name for path in (workspace.corpora / "book").iterdir()) == [
        "book.tar.xz",
        "fetched.json",
    ]
    assert locate_shards(config, workspace) == [archive]
    assert len(server.asked) == 1


@pytest.mark.parametrize("step", ["link_or_copy", "write_json"])
@pytest.mark.parametrize("layout", ["text", "archive of shards"])
def test_killed_before_its_record_a_corpus_is_not_downloaded_again(
    step: str, layout: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout == "text":
        content = CONTENT
        config = catalogue_with(entry_for(server, CONTENT), monkeypatch)
    else:
        content = archive_of_shards(tmp_path / "made")
        config = archive_corpus(server, content, monkeypatch)
    workspace = Workspace.at(tmp_path / "workspace")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(corpora, step, killed)
            with pytest.raises(KeyboardInterrupt):
                locate_shards(config, workspace)
    (shard,) = locate_shards(config, workspace)
    assert Path(shard.location).read_bytes() == content
    assert len(server.asked) == 1
    assert [path.name for path in workspace.corpora.iterdir()] == ["book"]


def test_a_folder_of_shards_that_an_earlier_version_unpacked_is_used_as_it_is(
    server: Server, entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = catalogue_with(entry, monkeypatch), Workspace.at(tmp_path / "workspace")
    folder = workspace.corpora / "book"
    archive_of_shards(folder)
    (folder / "fetched.json").write_text("{}")
    names = [shard.name for shard in locate_shards(config, workspace)]
    assert names == [f"urlsf_subset00-{n}_data.xz" for n in (1, 2, 10)]
    assert server.asked == []


def test_an_archive_that_is_not_whole_is_refused_whenever_it_is_read(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lzma.decompress(archive_of_shards(tmp_path / "made"))
    config = archive_corpus(server, lzma.compress(whole[:-10_000]), monkeypatch)
    workspace = Workspace.at(tmp_path / "workspace")
    for _ in range(2):
        (archive,) = locate_shards(config, workspace)
        with pytest.raises(ShardError, match="cut off"):
            list(read_archive(archive))
    assert len(server.asked) == 1


def test_a_folder_of_a_catalogue_s_name_is_the_folder(
    server: Server, entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = catalogue_with(entry, monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "mine.txt").write_text("mine")
    assert [shard.name for shard in locate_shards(config, Workspace.at())] == ["mine.txt"]
    assert server.asked == []


def test_the_first_shards_can_be_asked_for_alone(tiny_corpus: Path, tmp_path: Path) -> None:
    config = CorpusConfig(corpus=str(tiny_corpus), limit_shards=2)
    names = [shard.name for shard in locate_shards(config, Workspace.at(tmp_path / "workspace"))]
    assert names == ["urlsf_subset00-1_data.xz", "urlsf_subset00-2_data.xz"]


def test_the_first_shards_of_an_archive_can_be_asked_for_alone(tiny_corpus: Path, tmp_path: Path) -> None:
    """As in `--limit-shards 200` of OpenWebText, which is one archive: not all of it is to be read then."""
    archive = tmp_path / "tiny.tar"
    with tarfile.open(archive, "w") as tar:
        for shard in find_shards(str(tiny_corpus)):
            tar.add(shard.location, shard.name)
    dataset = build_plainly(archive, Workspace.at(tmp_path / "workspace"), limit_shards=2, val_fraction=0.3)
    assert [source.name for source in dataset.manifest.sources] == [
        "tiny.tar/urlsf_subset00-1_data.xz",
        "tiny.tar/urlsf_subset00-2_data.xz",
    ]


def test_a_corpus_that_is_neither_here_nor_known_says_so(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="kansas: no such file or folder, and no corpus of that name"):
        locate_shards(CorpusConfig(corpus="kansas"), Workspace.at(tmp_path))


# --- the catalogue and its settings -----------------------------------------------------------------------------------


def test_the_catalogue_says_what_a_download_must_be() -> None:
    assert set(CATALOGUE) >= {"stdlib-docs", "wizard-of-oz", "tiny-shakespeare", "openwebtext"}
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert entry.licence
        if entry.layout != "python":
            assert entry.url.startswith("https://")
            assert len(bytes.fromhex(entry.sha256)) == 32
            assert entry.bytes > 0
    assert CATALOGUE["openwebtext"].bytes == 12_880_027_468
    assert CATALOGUE["openwebtext"].shards == 20_610


def test_the_catalogue_s_book_is_the_one_beside_this_checkout(real_data: Path) -> None:
    content = (real_data / "wizard_of_oz.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == CATALOGUE["wizard-of-oz"].sha256
    assert len(content) == CATALOGUE["wizard-of-oz"].bytes


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("tokenizer", "words"),
        ("val_fraction", 0.0),
        ("val_fraction", 1.0),
        ("character_coverage", 0.0),
        ("character_coverage", 1.1),
        ("name", "../up"),
        ("name", ".hidden"),
        ("name", "a@b"),
        ("tolerate_bad_shards", -1),
        ("limit_shards", 0),
        ("workers", 0),
        ("memory_budget_bytes", 0),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_with_its_value(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting) as refused:
        CorpusConfig(**{setting: value})  # type: ignore[arg-type]
    assert str(value) in str(refused.value)


def test_the_settings_that_change_a_text_go_on_to_the_reader() -> None:
    assert CorpusConfig().reading == Reading()
    config = CorpusConfig(invalid_utf8="replace", text_column="body")
    assert config.reading == Reading(invalid_utf8="replace", text_column="body")


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ("stdlib-docs", "stdlib-docs"),
        ("../shared/data/owt-small", "owt-small"),
        ("/data/oz.tar.xz", "oz"),
        ("/data/*.xz", "corpus"),
        ("/data/my texts (new)/", "my-texts--new"),
        ("/", "corpus"),
    ],
)
def test_a_data_set_is_named_after_its_corpus(corpus: str, name: str) -> None:
    assert CorpusConfig(corpus=corpus).chosen_name == name
    assert CorpusConfig(corpus=corpus, name="mine").chosen_name == "mine"


def test_a_corpus_of_the_catalogue_must_be_as_large_as_it_is_known_to_be() -> None:
    whole = CATALOGUE["openwebtext"]
    config = CorpusConfig(corpus="openwebtext")
    refuse_incomplete(config, whole.shards, whole.documents)
    with pytest.raises(
        CorpusError, match=r"has 20,609 shards with 8,013,769 documents, and 20,610 with 8,013,769"
    ):
        refuse_incomplete(config, whole.shards - 1, whole.documents)
    with pytest.raises(CorpusError, match="fetch it again"):
        refuse_incomplete(config, whole.shards, whole.documents - 1)
    for part in (CorpusConfig(corpus="openwebtext", limit_shards=3), CorpusConfig(corpus="a folder")):
        refuse_incomplete(part, 3, 1_000)
