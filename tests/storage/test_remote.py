"""Files behind a network: all of their bytes or an error of the network, whatever the server does, and no secret shown."""

import io
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import ObjectStore, WebServer, files_below, gcs_server, hub_server, s3_server, web_server

from storage import network, remote_streams
from storage.errors import CorpusError, NetworkError
from storage.network import is_remote, shown
from storage.remote import list_files
from storage.remote_streams import open_remote, read_remote
from storage.shards import Shard, find_shards, uncompressed_bytes

CONTENT = random.Random(1).randbytes(300_000)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow at once, and blocks are small."""
    monkeypatch.setattr(network, "_WAITS_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(remote_streams, "_FIRST_BLOCK_BYTES", 10_000)
    monkeypatch.setattr(remote_streams, "_LARGEST_BLOCK_BYTES", 40_000)
    monkeypatch.setattr(remote_streams, "_BEFORE_A_JUMP_BYTES", 1_000)


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server({"/folder/a b.txt": CONTENT}) as running:
        yield running


@pytest.fixture
def url(server: WebServer) -> str:
    return f"{server.url}/folder/a%20b.txt"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with s3_server(monkeypatch) as running:
        yield running


def only(location: str) -> Shard:
    (shard,) = find_shards(location)
    return shard


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://user:pass@host:8/a/b.txt?X-Signature=s3cret#x", "https://host:8/a/b.txt"),
        ("https://host?token=s3cret", "https://host"),
        ("https://us@er:pa@host/a@b", "https://host/a@b"),
        ("s3://key:secret@bucket/a?.txt", "s3://bucket/a?.txt"),
        ("hf://datasets/owner/name@v1/data/*.parquet", "hf://datasets/owner/name@v1/data/*.parquet"),
        ("other://host/a?b=c", "other://host/a"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, expected: str) -> None:
    assert is_remote(address)
    assert shown(address) == expected


def test_secrets_stay_in_the_environment(
    server: WebServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(network.ADDRESS_VARIABLE, "")
    assert network.kept_aside(f"{url}?token=s3cret") == url
    assert only(url).location == f"{url}?token=s3cret"
    assert network.with_secrets(url + "2") == url + "2"
    assert network.kept_aside("a/b?c") == "a/b?c"
    assert server.asked[-1][1].endswith("?token=s3cret")


@pytest.mark.parametrize("path", ["/data/a.xz", "a.xz", "~/a", "C:\\a", "a:b/c", "", "://x"])
def test_a_path_is_no_address(path: str) -> None:
    assert not is_remote(path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere://host/a", r"nowhere://host/a: .*no kind of address that is known"),
        ("https://127.0.0.1:1/", r"names no file, and a web server lists none"),
        (
            "smb://host/share/a",
            r"smb://host/share/a: smb:// needs a package that is not installed .*brickroad\[remote\]",
        ),
    ],
)
def test_an_address_that_stands_for_nothing_is_one_line(address: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as refused:
        find_shards(address)
    assert "\n" not in str(refused.value)


def test_a_path_imports_nothing_for_the_network(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    code = f"import sys; from tasks.corpora import find_shards; find_shards({str(tmp_path)!r}); print('fsspec' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert ran.stdout.strip() == "False"


# --- web servers ------------------------------------------------------------------------------------------------------


def test_a_file_of_a_web_server_is_one_shard_read_by_one_request(server: WebServer, url: str) -> None:
    shard = only(f"{url}?token=s3cret")
    assert (shard.name, shard.compressed_bytes) == ("a b.txt", len(CONTENT))
    assert server.gets() == []
    assert pickle.loads(pickle.dumps(shard)).read() == CONTENT
    assert server.gets() == [None]
    assert str(shard.refused("is bad")) == f"{url}: is bad"


def test_a_stream_is_one_request_and_can_jump(server: WebServer, url: str) -> None:
    with only(url).open() as file:
        assert file.read(6) == CONTENT[:6]
        file.seek(0)
        assert file.read() == CONTENT
        assert server.gets() == [None]
        file.seek(150_000)
        assert file.read(12) == CONTENT[150_000:150_012]
        assert server.gets()[1:] == ["bytes=149000-"]


@pytest.mark.parametrize("fault", ["cut", "reset", "longer", 500, 503, 429])
def test_what_can_heal_is_tried_again(fault: int | str, server: WebServer, url: str) -> None:
    shard = only(url)
    if fault != "longer":  # a listing that says less than what is there stays wrong
        server.faults = [fault, fault]
        assert shard.read() == CONTENT
    server.faults = [] if fault == "longer" else [fault, fault]
    with shard.open() as file:
        assert file.read() == CONTENT


def test_a_broken_stream_goes_on_where_it_broke(server: WebServer, url: str) -> None:
    shard, server.faults = only(url), ["late cut"]
    with shard.open() as file:
        assert file.read() == CONTENT
    assert [part is None for part in server.gets()] == [True, False]


def test_a_server_without_parts_is_read_again_from_its_start(server: WebServer, url: str) -> None:
    shard, server.sends_parts, server.faults = only(url), False, ["cut", "reset"]
    with shard.open() as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut", r"cannot be read \(.*run it again to go on"),
        ("reset", r"cannot be read \(.*run it again to go on"),
        (500, r"its server answers 500 .*run it again to go on"),
        (403, r"its server refuses to give it \(403\); its address may have expired"),
        (404, r"is not there \(404\)"),
        (418, r"its server answers 418"),
        ("longer", "changed while it was being read"),
    ],
)
@pytest.mark.parametrize("how", ["whole", "stream"])
def test_what_does_not_heal_is_an_error_of_the_network(
    how: str, fault: int | str, message: str, server: WebServer, url: str
) -> None:
    shard, server.wrong_for_ever = only(f"{url}?token=s3cret"), fault
    with pytest.raises(NetworkError, match=message) as failed, shard.open() as file:
        shard.read() if how == "whole" else file.read()
    assert str(failed.value).startswith(f"{url}: ")
    assert "\n" not in str(failed.value)
    assert "s3cret" not in repr(failed.value) + str(failed.value.__dict__)
    assert pickle.loads(pickle.dumps(failed.value)).can_heal == failed.value.can_heal
    tries = len(server.gets())
    if how == "stream" and fault in ("cut", "reset"):
        assert tries >= 4  # most got on by some bytes
    else:
        assert tries == (1 if fault in (403, 404, 418, "longer") else 4)


def test_a_server_that_breaks_off_for_ever_is_given_up(
    server: WebServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_streams, "_REQUESTS_A_FILE", 5)
    shard, server.wrong_for_ever = only(url), "cut"
    with shard.open() as file, pytest.raises(NetworkError, match="broke off 5 times"):
        file.read()


def test_silence_is_given_up(server: WebServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.remote._SILENCE_SECONDS", 0.1)
    shard, server.wrong_for_ever = only(url), "silent"
    with pytest.raises(NetworkError, match=r"(?i)time"):
        shard.read()


def test_nobody_listening_is_one_line() -> None:
    with pytest.raises(
        NetworkError, match=r"^http://127.0.0.1:1/a.txt: cannot be read .*again to go on"
    ) as failed:
        find_shards("http://user:s3cret@127.0.0.1:1/a.txt?sign=s3cret")
    assert "s3cret" not in str(failed.value)


def test_a_file_that_changed_is_not_read(server: WebServer, url: str) -> None:
    shard = only(url)
    server.files["/folder/a b.txt"] = CONTENT[::-1]
    with pytest.raises(NetworkError, match="changed while it was being read"):
        shard.read()


def test_a_file_that_changes_in_the_middle_is_not_put_together(server: WebServer, url: str) -> None:
    shard = only(url)
    with shard.open() as file:
        file.read(20_000)
        server.files["/folder/a b.txt"] = CONTENT[::-1]
        file.seek(200_000)
        with pytest.raises(NetworkError, match="changed while it was being read"):
            file.read()


def test_without_a_version_a_broken_stream_does_not_go_on(server: WebServer, url: str) -> None:
    server.tells_version = False
    shard, server.faults = only(url), ["late cut"]
    assert shard.version is None
    with shard.open() as file, pytest.raises(NetworkError, match="tells no version"):
        file.read()
    server.faults = ["cut"]
    assert shard.read() == CONTENT  # from its start


def test_another_range_than_asked_for_is_refused(server: WebServer, url: str) -> None:
    shard = only(url)
    server.faults = ["late cut", "other range"]
    with shard.open() as file, pytest.raises(NetworkError, match="changed"):
        file.read()


def test_a_server_that_tells_no_size_is_refused(server: WebServer, url: str) -> None:
    server.tells_size = False
    with pytest.raises(CorpusError, match="does not tell its size"):
        find_shards(url)


def test_more_than_was_announced_is_refused_without_a_length(server: WebServer, url: str) -> None:
    shard, server.tells_size, server.wrong_for_ever = only(url), False, "longer"
    with pytest.raises(NetworkError, match="sends more than the 300,000 bytes"):
        shard.read()


def test_a_web_page_is_no_corpus(server: WebServer, url: str) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(CorpusError, match="answers with a web page"):
        find_shards(url)


def test_a_redirect_is_followed_and_the_name_stays(server: WebServer) -> None:
    server.redirects["/latest/b.txt"] = "/folder/a%20b.txt?sign=s3cret"
    shard = only(f"{server.url}/latest/b.txt")
    assert shard.name == "b.txt"
    assert shard.read() == CONTENT


def test_redirects_without_end_are_one_line_without_secrets(server: WebServer) -> None:
    server.redirects["/a.txt"] = "/a.txt?sign=s3cret"
    with pytest.raises(NetworkError) as failed:
        find_shards(f"{server.url}/a.txt")
    assert "s3cret" not in str(failed.value)


def test_a_large_seek_without_parts_is_refused(
    server: WebServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_streams, "_SKIPPED_BYTES", 1_000)
    shard, server.sends_parts = only(url), False
    with shard.open() as file, pytest.raises(NetworkError, match="does not send parts"):
        file.seek(250_000)
        file.read(1)


# --- object stores ----------------------------------------------------------------------------------------------------


FILES = {
    "in/b-10.txt": b"ten",
    "in/b-2.txt": b"two",
    "in/deep/c.jsonl": b"{}",
    "in/.hidden.txt": b"hidden",
    "in/.git/x.txt": b"hidden",
    "in/readme.md": b"no shard",
    "in/empty.txt": b"",
    "other.txt": CONTENT,
}
SHARDS = ["b-2.txt", "b-10.txt", "deep/c.jsonl", "empty.txt"]


@pytest.fixture(params=["s3", "gs", "hf", "memory"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a bucket, or what stands for one, that holds FILES."""
    if request.param == "hf":
        with hub_server(FILES, monkeypatch):
            yield "hf://datasets/owner/name"
    elif request.param == "memory":
        import fsspec

        memory = ObjectStore(fsspec.filesystem("memory"), "memory://corpora")
        memory.put(FILES)
        yield memory.url
        memory.fs.rm("/corpora", recursive=True)
    else:
        with {"s3": s3_server, "gs": gcs_server}[request.param](monkeypatch) as running:
            running.put(FILES)
            yield running.url


def test_folders_globs_and_files_are_as_on_a_disk(place: str, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for corpus in (
        "in",
        "in/",
        "in/*.txt",
        "in/b-?.txt",
        "in/deep/*",
        "other.txt",
        "in/*/*.jsonl",
        "in/readme.md",
    ):
        local = find_shards(f"{tmp_path}/{corpus}")
        found = find_shards(f"{place}/{corpus}")
        assert [(one.name, one.compressed_bytes) for one in found] == [
            (one.name, one.compressed_bytes) for one in local
        ]
        assert [one.read() for one in found] == [one.read() for one in local]
    assert [one.name for one in find_shards(f"{place}/in")] == [
        "b-2.txt",
        "b-10.txt",
        "deep/c.jsonl",
        "empty.txt",
    ]


def test_a_stream_of_blocks_is_the_file_and_can_jump(place: str) -> None:
    shard = only(f"{place}/other.txt")
    with shard.open() as file:
        assert file.read(6) == CONTENT[:6]
        file.seek(0)
        assert file.read() == CONTENT
        file.seek(-100, io.SEEK_END)
        assert file.read(50) == CONTENT[-100:-50]


@pytest.mark.parametrize("corpus", ["in/nothing", "nothing.txt", "in/deep/nothing/"])
def test_what_is_not_there_is_named(corpus: str, place: str) -> None:
    with pytest.raises(NetworkError, match=r"is not there \(404\)"):
        find_shards(f"{place}/{corpus}")


def test_a_pattern_that_matches_nothing_is_named(place: str) -> None:
    with pytest.raises(CorpusError, match=r"in/\*\.zst: no file matches this pattern"):
        find_shards(f"{place}/in/*.zst")


def test_a_file_that_is_gone_or_shorter_by_now_is_an_error_of_the_network(place: str) -> None:
    shard = only(f"{place}/other.txt")
    for location, size in ((shard.location, len(CONTENT) + 5), (f"{place}/in/gone.txt", 5)):
        with pytest.raises(NetworkError):
            read_remote(location, size, None)
        with pytest.raises(NetworkError), open_remote(location, size, None) as file:
            file.read()


def test_versions_tell_contents_apart(store: ObjectStore) -> None:
    store.put({"in/a.txt": b"one"})
    before = only(f"{store.url}/in/a.txt").version
    assert before
    assert only(f"{store.url}/in/a.txt").version == before
    assert [file.version for file in list_files(f"{store.url}/in").files] == [before]
    store.put({"in/a.txt": b"two"})
    assert only(f"{store.url}/in/a.txt").version != before


def test_a_store_that_tells_no_version_has_none() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/corpora/a.txt", b"text")
    assert only("memory://corpora/a.txt").version is None


def test_blocks_of_two_versions_are_not_put_together(store: ObjectStore) -> None:
    store.put({"a.txt": CONTENT})
    with only(f"{store.url}/a.txt").open() as file:
        file.read(20_000)
        store.put({"a.txt": CONTENT[::-1]})
        with pytest.raises(NetworkError, match="changed while it was being read"):
            file.read()


def test_a_bucket_that_refuses_says_how_to_get_in(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(NetworkError, match=r"refuses to give it .*set AWS_PROFILE"):
        find_shards(f"{store.url}/a.txt")


def test_a_control_character_in_a_name_is_refused(store: ObjectStore) -> None:
    store.put({"in/a\x1b[2J.txt": b"text"})
    with pytest.raises(CorpusError, match="control characters"):
        find_shards(f"{store.url}/in")


def test_what_xz_expands_to_is_told_from_afar(store: ObjectStore, tiny_corpus: Path) -> None:
    store.put(files_below(tiny_corpus, "in/"))
    local, far = find_shards(str(tiny_corpus)), find_shards(f"{store.url}/in")
    assert [one.name for one in far] == [one.name for one in local]
    assert [uncompressed_bytes(one) for one in far] == [uncompressed_bytes(one) for one in local]
