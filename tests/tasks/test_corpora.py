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

from storage.errors import CorpusError, ShardError
from storage.shards import read_documents, write_shard
from storage.workspace import Workspace
from tasks import corpora
from tasks.corpora import CATALOGUE, CatalogueEntry, CorpusConfig, download, locate_shards

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
        assert shard.path.read_bytes() == CONTENT
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


def test_an_archive_by_name_is_unpacked_to_its_shards_in_order(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = archive_of_shards(tmp_path / "made")
    config = catalogue_with(
        replace(entry_for(server, server.content), layout="archive of shards"), monkeypatch
    )
    workspace = Workspace.at(tmp_path / "workspace")
    shards = locate_shards(config, workspace)
    assert [next(read_documents(shard)).utf8 for shard in shards] == [b"text 1", b"text 2", b"text 10"]
    assert [path.name for path in workspace.corpora.iterdir()] == ["book"]  # the archive is not kept
    assert locate_shards(config, workspace) == shards
    assert len(server.asked) == 1


def test_killed_while_unpacking_it_unpacks_again_without_downloading_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = archive_of_shards(tmp_path / "made")
    config = catalogue_with(
        replace(entry_for(server, server.content), layout="archive of shards"), monkeypatch
    )
    workspace = Workspace.at(tmp_path / "workspace")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for step in ("write_json", "_unpack"):
        with monkeypatch.context() as patch:
            patch.setattr(corpora, step, killed)
            with pytest.raises(KeyboardInterrupt):
                locate_shards(config, workspace)
    assert len(locate_shards(config, workspace)) == 3
    assert len(server.asked) == 1


def test_a_text_that_was_killed_before_its_record_is_not_downloaded_again(
    server: Server, entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = catalogue_with(entry, monkeypatch), Workspace.at(tmp_path)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpora, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            locate_shards(config, workspace)
    (shard,) = locate_shards(config, workspace)
    assert shard.path.read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_an_archive_that_is_not_whole_leaves_no_corpus(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lzma.decompress(archive_of_shards(tmp_path / "made"))
    server.content = lzma.compress(whole[:-10_000])
    config = catalogue_with(
        replace(entry_for(server, server.content), layout="archive of shards"), monkeypatch
    )
    workspace = Workspace.at(tmp_path / "workspace")
    for _ in range(2):
        with pytest.raises(ShardError, match="cut off"):
            locate_shards(config, workspace)


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
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_with_its_value(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting) as refused:
        CorpusConfig(**{setting: value})  # type: ignore[arg-type]
    assert str(value) in str(refused.value)


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
