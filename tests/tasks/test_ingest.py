"""The one pass over a shard: its text stored once and whole, its characters counted, whatever stops or disturbs it."""

import errno
import hashlib
import io
import json
import lzma
import multiprocessing
import random
import shutil
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bad_disks import fail_flush, small_disk
from tiny_data import build_plainly

from model.tokenizer import CharacterCounts
from storage.documents.parts import DocumentPart, read_part, read_texts
from storage.files import sha256_file
from storage.forms import Reading, read_batches
from storage.shards import Shard, find_shards, write_shard
from storage.tokens import split_of
from storage.workspace import Workspace
from tasks import ingest as ingest_module
from tasks.characters import PartCharacters, SplitCounts, count_part
from tasks.ingest import (
    IngestedShard,
    RefusedShard,
    ingest,
    ingest_shard,
    ingest_shards,
    refuse_bad_shards,
)
from tasks.recall import recall
from tasks.workers import Workers

FRACTION = 0.3


def make_shard(path: Path, count: int = 40, seed: int = 1) -> Shard:
    rng = random.Random(seed)
    words = ["brick", "road", "Öz", "東京", "home", "\n\n", "😀"]
    texts = [(f"{n:07d}.txt", " ".join(rng.choices(words, k=60)).encode()) for n in range(count)]
    write_shard(path, texts)
    return find_shards(str(path))[0]


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return make_shard(tmp_path / "a.xz")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2) as running:
        yield running


@pytest.fixture(params=["in memory", "read twice"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that is small enough for memory, and one that is not."""
    if request.param == "read twice":
        monkeypatch.setattr(ingest_module, "_IN_MEMORY_BYTES", 0)


def ingested(shard: Shard, folder: Path, reading: Reading | None = None) -> IngestedShard:
    result = ingest_shard(shard, folder, reading or Reading(), FRACTION)
    assert isinstance(result, IngestedShard)
    return result


def refused(shard: Shard, folder: Path, reading: Reading | None = None) -> RefusedShard:
    result = ingest_shard(shard, folder, reading or Reading(), FRACTION)
    assert isinstance(result, RefusedShard)
    return result


def contents(part: DocumentPart) -> list[tuple[str, bytes]]:
    return [pair for stored in read_texts(part) for pair in zip(stored.members, stored.texts, strict=True)]


def documents_of(shard: Shard) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for batch in read_batches(shard, Reading()):
        rest = io.BytesIO(batch.texts.utf8)
        found += [
            (member, rest.read(size))
            for member, size in zip(batch.texts.members, batch.texts.sizes.tolist(), strict=True)
        ]
    return found


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


# --- stored once ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("size")
def test_stored_text_is_what_the_shard_holds(shard: Shard, tmp_path: Path) -> None:
    result = ingested(shard, tmp_path / "documents")
    expected = documents_of(shard)
    assert len(expected) == 40
    assert contents(result.part) == expected
    assert result.part.documents == 40
    assert result.part.text_bytes == sum(len(text) for _, text in expected)
    assert result.part.longest_bytes == max(len(text) for _, text in expected)
    assert result.part.shard_sha256 == sha256_file(Path(shard.location))
    assert (result.name, result.compressed_bytes, result.reused) == ("a.xz", shard.compressed_bytes, False)


def test_a_shard_gives_the_same_bytes_whether_it_fits_into_memory_or_not(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingested(shard, tmp_path / "one")
    monkeypatch.setattr(ingest_module, "_IN_MEMORY_BYTES", 0)
    ingested(shard, tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_what_was_normalised_is_counted(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.xz", [("a", b"\xef\xbb\xbfone\r\ntwo\r\n"), ("b", b"\xff"), ("c", b"")])
    (shard,) = find_shards(str(tmp_path / "a.xz"))
    part = ingested(shard, tmp_path / "documents", Reading(invalid_utf8="replace")).part
    assert (part.byte_order_marks, part.crlf_line_ends, part.invalid_utf8_documents) == (1, 2, 1)
    assert contents(part) == [("a", b"one\ntwo\n"), ("b", "\ufffd".encode()), ("c", b"")]


def test_many_batches_are_one_part_in_order(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ingested(shard, tmp_path / "one").part
    monkeypatch.setattr("storage.forms._BATCH_TEXT_BYTES", 500)
    part = ingested(shard, tmp_path / "two").part
    assert contents(part) == contents(whole) == documents_of(shard)
    assert counted(PartCharacters.noted(part, FRACTION)) == counted(PartCharacters.noted(whole, FRACTION))


@pytest.mark.usefixtures("size")
def test_a_second_ingest_reuses_the_first_wherever_the_shard_lies(shard: Shard, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    first = ingested(shard, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    moved = Path(shard.location).rename(tmp_path / "other name.xz")
    again = ingested(find_shards(str(moved))[0], folder)
    assert again.reused
    assert again.name == "other name.xz"
    assert again.part == first.part
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_another_split_reuses_the_same_text(shard: Shard, tmp_path: Path) -> None:
    first = ingested(shard, tmp_path / "documents")
    again = ingest_shard(shard, tmp_path / "documents", Reading(), 0.5)
    assert isinstance(again, IngestedShard)
    assert again.reused
    assert again.part == first.part


@pytest.mark.parametrize("reading", [Reading(invalid_utf8="replace"), Reading(text_column="body")])
def test_another_reading_of_the_same_bytes_is_another_part(
    reading: Reading, shard: Shard, tmp_path: Path
) -> None:
    first = ingested(shard, tmp_path / "documents")
    other = ingested(shard, tmp_path / "documents", reading)
    assert not other.reused
    assert other.part.path != first.part.path


@pytest.mark.parametrize(
    "damage", ["no record", "empty record", "not json", "other fields", "a list", "cut", "longer", "gone"]
)
def test_a_part_that_is_not_whole_is_made_again(damage: str, shard: Shard, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    part = ingested(shard, folder).part
    record, before = part.path.with_suffix(".json"), files_of(folder)
    if damage == "no record":
        record.unlink()
    elif damage == "gone":
        part.path.unlink()
    elif damage in ("cut", "longer"):
        content = part.path.read_bytes()
        part.path.write_bytes(content[:-1] if damage == "cut" else content + b"x")
    else:
        text = {
            "empty record": "",
            "not json": '{"notes": {',
            "other fields": '{"notes": {}, "a": 1}',
            "a list": "[]",
        }
        record.write_text(text[damage])
    assert read_part(part.path) is None
    again = ingested(shard, folder)
    assert not again.reused
    assert again.part == part
    assert files_of(folder) == before


# --- characters -------------------------------------------------------------------------------------------------------


def plainly_counted(pairs: list[tuple[str, bytes]], fraction: float) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {"train": Counter(), "val": Counter()}
    for _, text in pairs:
        counts[split_of(hashlib.sha256(text).digest(), fraction)].update(text.decode())
    return counts


def as_counter(counts: CharacterCounts) -> Counter[str]:
    return Counter({chr(code_point): count for code_point, count in counts.pairs().tolist() if count})


def counted(part: PartCharacters | None) -> dict[str, Counter[str]]:
    assert part is not None
    counts = SplitCounts()
    counts.add(part)
    assert as_counter(counts.all) == as_counter(counts.train()) + as_counter(counts.val)
    return {"train": as_counter(counts.train()), "val": as_counter(counts.val)}


EDGE_TEXTS = [
    b"",
    b"a",
    "é".encode(),
    "\U0010ffff".encode(),
    b"\0",
    "東京 😀\r".encode(),
    b"odd",
    b"even",
    *(b"%d" % n for n in range(50)),
    ("x" * 300_001 + "é" * 70_000).encode(),
]


@pytest.mark.parametrize("fraction", [1e-9, 0.1, FRACTION, 0.5, 0.999999])
def test_noted_characters_are_those_that_a_plain_count_finds(
    fraction: float, shard: Shard, tmp_path: Path
) -> None:
    write_shard(tmp_path / "b.xz", [(str(n), text) for n, text in enumerate(EDGE_TEXTS)])
    for source in (shard, find_shards(str(tmp_path / "b.xz"))[0]):
        result = ingest_shard(source, tmp_path / f"documents-{fraction}", Reading(), fraction)
        assert isinstance(result, IngestedShard)
        expected = plainly_counted(contents(result.part), fraction)
        noted = PartCharacters.noted(result.part, fraction)
        assert counted(noted) == counted(count_part(result.part, fraction)) == expected
        assert noted is not None
        assert noted.documents == result.part.documents
        assert noted.val_documents == count_part(result.part, fraction).val_documents


def test_for_another_split_characters_are_counted_again(shard: Shard, tmp_path: Path) -> None:
    part = ingested(shard, tmp_path / "documents").part
    for fraction in (0.1, 0.31, 0.9):
        assert PartCharacters.noted(part, fraction) is None
        assert counted(count_part(part, fraction)) == plainly_counted(contents(part), fraction)
    assert counted(PartCharacters.noted(part, FRACTION)) == plainly_counted(contents(part), FRACTION)


def test_the_val_documents_that_are_counted_are_those_of_the_split(shard: Shard, tmp_path: Path) -> None:
    part = ingested(shard, tmp_path / "documents").part
    digests = [digest for stored in read_texts(part) for digest in stored.sha256]
    val = sum(split_of(digest, FRACTION) == "val" for digest in digests)
    assert 0 < val < 40
    for counts in (PartCharacters.noted(part, FRACTION), count_part(part, FRACTION)):
        assert counts is not None
        assert (counts.documents, counts.val_documents) == (40, val)


def test_counts_of_shards_add_up(tmp_path: Path) -> None:
    parts = [
        ingested(make_shard(tmp_path / f"{n}.xz", seed=n), tmp_path / "documents").part for n in range(3)
    ]
    total = SplitCounts()
    for part in parts:
        noted = PartCharacters.noted(part, FRACTION)
        assert noted is not None
        total.add(noted)
    expected = plainly_counted([pair for part in parts for pair in contents(part)], FRACTION)
    assert counted(total.as_part()) == expected
    assert total.documents == 120


# --- bad, changing, at once -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "tar cut"])
def test_a_bad_shard_leaves_nothing_behind(how: str, shard: Shard, tmp_path: Path) -> None:
    path = Path(shard.location)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= how == "flipped"
    bad = {
        "cut": content[:-1],
        "flipped": content,
        "empty": b"",
        "tar cut": lzma.compress(lzma.decompress(path.read_bytes())[:5000]),
    }
    path.write_bytes(bad[how])
    result = refused(find_shards(str(path))[0], tmp_path / "documents")
    assert (result.name, result.place) == ("a.xz", str(path))
    assert result.reason
    assert "\n" not in result.reason
    assert not list((tmp_path / "documents").iterdir())


def test_a_document_that_memory_has_no_room_for_refuses_the_shard_by_name(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.xz", [("a.txt", b"short"), ("b.txt", b"x" * 1001), ("c.txt", b"short")])
    (shard,) = find_shards(str(tmp_path / "a.xz"))
    result = ingest_shard(shard, tmp_path / "documents", Reading(), FRACTION, 1000)
    assert isinstance(result, RefusedShard)
    assert "member 'b.txt' has 1,001 bytes" in result.reason
    assert "--memory-budget" in result.reason
    assert not list((tmp_path / "documents").iterdir())
    assert isinstance(ingest_shard(shard, tmp_path / "documents", Reading(), FRACTION, 1001), IngestedShard)


def test_a_shard_that_is_longer_or_shorter_than_it_was_found_is_refused(shard: Shard, tmp_path: Path) -> None:
    path = Path(shard.location)
    content = path.read_bytes()
    for changed in (content + content, content[:-1], b""):
        path.write_bytes(changed)
        assert "changed while it was being read" in refused(shard, tmp_path / "documents").reason
    assert not (tmp_path / "documents").exists()


def test_a_shard_that_changes_while_it_is_read_is_refused(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_shard(tmp_path / "b.xz", seed=2)
    monkeypatch.setattr(ingest_module, "_IN_MEMORY_BYTES", 0)

    def read_then_change(*arguments: object, **options: object) -> object:
        yield from read_batches(*arguments, **options)  # type: ignore[arg-type]
        Path(shard.location).write_bytes(Path(other.location).read_bytes())

    monkeypatch.setattr(ingest_module, "read_batches", read_then_change)
    result = refused(shard, tmp_path / "documents")
    assert "changed while it was being read; run again when it is complete" in result.reason
    assert not list((tmp_path / "documents").iterdir())


def test_what_is_in_memory_cannot_change_any_more(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, digest = documents_of(shard), sha256_file(Path(shard.location))

    def change_then_read(*arguments: object, **options: object) -> object:
        Path(shard.location).write_bytes(b"something else")
        yield from read_batches(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest_module, "read_batches", change_then_read)
    part = ingested(shard, tmp_path / "documents").part
    assert contents(part) == expected
    assert part.shard_sha256 == digest


def test_threads_that_store_the_same_shard_at_once_all_succeed(shard: Shard, tmp_path: Path) -> None:
    results: list[IngestedShard] = []
    threads = [
        threading.Thread(target=lambda: results.append(ingested(shard, tmp_path / "documents")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len({result.part for result in results}) == 1
    assert len(list((tmp_path / "documents").iterdir())) == 2
    assert len(contents(results[0].part)) == 40


def test_killed_at_random_moments_it_leaves_nothing_half_done_and_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    shard = make_shard(tmp_path / "a.xz", count=4000)
    began = time.monotonic()
    ingested(shard, tmp_path / "undisturbed")
    seconds = time.monotonic() - began
    expected, folder = files_of(tmp_path / "undisturbed"), tmp_path / "documents"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tasks.ingest"])
    arguments = (shard, folder, Reading(), FRACTION)
    rng = random.Random(1)
    ended: Counter[int | None] = Counter()
    for _ in range(16):
        child = processes.Process(target=ingest_shard, args=arguments)
        child.start()
        time.sleep(rng.random() * (seconds + 0.1))
        child.kill()
        child.join()
        ended[child.exitcode] += 1
        for path in folder.glob("*.parquet") if folder.exists() else []:
            if part := read_part(path):
                assert len(contents(part)) == 4000
                path.with_suffix(".json").unlink()  # so that the next one has work to be killed in
    assert ended[-9] > 0
    first, second = (processes.Process(target=ingest_shard, args=arguments) for _ in range(2))
    for child in (first, second):
        child.start()
    for child in (first, second):
        child.join()
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert {name: digest for name, digest in files_of(folder).items() if not name.startswith(".")} == expected


def test_a_full_disk_names_the_path_and_leaves_nothing(tmp_path: Path) -> None:
    rng, disk = random.Random(0), tmp_path / "disk"
    write_shard(tmp_path / "a.xz", [("a.txt", rng.randbytes(300_000).hex().encode())])
    with small_disk(disk, "size=64k"):
        with pytest.raises(OSError, match=r"No space left on device: .*disk/documents"):
            ingested(find_shards(str(tmp_path / "a.xz"))[0], disk / "documents")
        assert not list((disk / "documents").iterdir())


@pytest.mark.parametrize("nth", range(1, 4))
def test_a_disk_that_fails_at_any_flush_leaves_nothing_that_counts(
    nth: int, shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "documents"
    fail_flush(monkeypatch, nth, errno.EIO)
    with pytest.raises(OSError, match=f"Input/output error: .*{folder}"):
        ingested(shard, folder)
    assert not list(folder.glob("*.partial")) + list(folder.glob(".*"))
    monkeypatch.undo()
    assert contents(ingested(shard, folder).part) == documents_of(shard)


def test_an_error_of_the_disk_is_no_refusal_of_the_shard(tmp_path: Path) -> None:
    """It may heal, and the shard is not at fault: it must not be left out as a bad one."""
    path = Path("/proc/self/mem")  # its first page cannot be read: EIO, which Python reports without a name
    if not path.exists():
        pytest.skip("no /proc on this machine")
    with pytest.raises(OSError, match=r"/proc/self/mem"):
        ingest_shard(Shard(location=str(path), name="mem", compressed_bytes=1), tmp_path, Reading(), FRACTION)


# --- archives ---------------------------------------------------------------------------------------------------------


def archive_of(path: Path, members: dict[str, bytes], compress: Callable[[bytes], bytes] = bytes) -> Shard:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.write_bytes(compress(buffer.getvalue()))
    return find_shards(str(path))[0]


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    """The bytes of twelve shards, as members of an archive."""
    shards = [make_shard(tmp_path / "made" / f"s-{n}.xz", count=5, seed=n) for n in range(12)]
    return {f"in/{shard.name}": Path(shard.location).read_bytes() for shard in shards}


@pytest.mark.usefixtures("size")
def test_an_archive_is_told_by_none_and_leaves_nothing(members: dict[str, bytes], tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.tar", members)
    assert ingest_shard(archive, tmp_path / "documents", Reading(), FRACTION) is None
    assert not list((tmp_path / "documents").rglob("*"))


@pytest.mark.parametrize("compress", [bytes, lzma.compress], ids=["tar", "tar.xz"])
def test_an_archive_becomes_its_shards_with_the_parts_that_they_have_by_themselves(
    compress: Callable[[bytes], bytes], members: dict[str, bytes], tmp_path: Path, workers: Workers
) -> None:
    archive = archive_of(tmp_path / "a.tar", members, compress)
    plain = find_shards(str(tmp_path / "made"))
    alone = ingest(plain, tmp_path / "one", Reading(), FRACTION, workers)
    found = ingest([archive], tmp_path / "two", Reading(), FRACTION, workers)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    good = refuse_bad_shards(found, tolerated=0)
    assert [item.name for item in good] == [f"a.tar/in/s-{n}.xz" for n in range(12)]  # in natural order
    expected = {item.part.shard_sha256: item for item in refuse_bad_shards(alone, tolerated=0)}
    for item in good:
        other = expected[item.part.shard_sha256]
        assert replace(item.part, path=other.part.path) == other.part
        assert item.compressed_bytes == other.compressed_bytes
    again = ingest([archive], tmp_path / "two", Reading(), FRACTION, workers)
    assert all(isinstance(item, IngestedShard) and item.reused for item in again)
    assert len(again) == 12


@pytest.mark.parametrize("name", ["openwebtext.tar.xz", "urlsf_subset00.tar"])
def test_a_real_archive_becomes_the_shards_beside_it(
    name: str, real_data: Path, tmp_path: Path, workers: Workers
) -> None:
    (archive,) = find_shards(str(real_data / "formats" / name))
    found = refuse_bad_shards(ingest([archive], tmp_path / "two", Reading(), FRACTION, workers), tolerated=0)
    assert len(found) == 3
    beside = {sha256_file(path): path.name for path in (real_data / "owt-small").glob("*.xz")}
    assert [Path(item.name).name for item in found] == [beside[item.part.shard_sha256] for item in found]


def test_a_bad_shard_of_an_archive_is_named_and_the_rest_goes_on(
    members: dict[str, bytes], tmp_path: Path, workers: Workers
) -> None:
    members["in/s-3.xz"] = members["in/s-3.xz"][:-1]
    archive = archive_of(tmp_path / "a.tar", members)
    found = ingest([archive], tmp_path / "documents", Reading(), FRACTION, workers)
    (bad,) = [item for item in found if isinstance(item, RefusedShard)]
    assert (bad.name, bad.place) == ("a.tar/in/s-3.xz", f"{archive.location}: in/s-3.xz")
    assert bad.location == archive.location
    assert "cut off" in bad.reason
    assert len(refuse_bad_shards(found, tolerated=1)) == 11


@pytest.mark.parametrize("compress", [bytes, lzma.compress], ids=["tar", "tar.xz"])
def test_an_archive_that_is_not_whole_is_refused_whole_and_the_rest_goes_on(
    compress: Callable[[bytes], bytes],
    members: dict[str, bytes],
    shard: Shard,
    tmp_path: Path,
    workers: Workers,
) -> None:
    archive = archive_of(tmp_path / "a.tar", members, compress)
    path = Path(archive.location)
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: len(content) * 2 // 3])
    found = ingest([*find_shards(str(path)), shard], tmp_path / "documents", Reading(), FRACTION, workers)
    bad, good = found
    assert isinstance(bad, RefusedShard)
    assert (bad.name, bad.place) == ("a.tar", str(path))
    assert "cut off" in bad.reason
    assert isinstance(good, IngestedShard)
    assert good.name == "a.xz"


def test_an_archive_in_an_archive_is_named_and_never_passed_over(
    members: dict[str, bytes], tmp_path: Path, workers: Workers
) -> None:
    inner = archive_of(tmp_path / "inner.tar", members, lzma.compress)
    outer = archive_of(tmp_path / "outer.tar", {"in.tar.xz": Path(inner.location).read_bytes()})
    (bad,) = ingest([outer], tmp_path / "documents", Reading(), FRACTION, workers)
    assert isinstance(bad, RefusedShard)
    assert bad.name == "outer.tar/in.tar.xz"
    assert "where texts are expected" in bad.reason


def test_bad_shards_and_good_ones_come_back_in_the_order_asked(tmp_path: Path, workers: Workers) -> None:
    shards = [make_shard(tmp_path / f"{n}.xz", count=3, seed=n) for n in range(4)]
    Path(shards[1].location).write_bytes(b"not xz, of whatever length")
    shards = find_shards(str(tmp_path))
    found = ingest(shards, tmp_path / "documents", Reading(), FRACTION, workers)
    assert [item.name for item in found] == ["0.xz", "1.xz", "2.xz", "3.xz"]
    assert [isinstance(item, IngestedShard) for item in found] == [True, False, True, True]


def test_files_that_were_read_are_known_until_they_change(
    tiny_corpus: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time_ns() + 10 * 10**9  # what changed in the last seconds would not be believed
    monkeypatch.setattr(time, "time_ns", lambda: later)
    shards = find_shards(str(tiny_corpus))
    assert len(recall(shards, workspace.documents, Reading()).unknown) == len(shards)
    first = build_plainly(tiny_corpus, workspace)
    recalled = recall(shards, workspace.documents, Reading())
    assert [item.name for item in recalled.known] == [shard.name for shard in shards]
    assert all(item.reused for item in recalled.known)
    write_shard(Path(shards[3].location), [("other.txt", b"another text")])
    recalled.known[5].part.path.unlink()
    changed = recall(shards, workspace.documents, Reading())
    assert [shard.name for shard in changed.unknown] == [shards[3].name, shards[5].name]
    assert len(recall(shards, workspace.documents, Reading(invalid_utf8="replace")).unknown) == len(shards)
    assert build_plainly(tiny_corpus, workspace).manifest.digest != first.manifest.digest


@pytest.mark.parametrize("name", ["openwebtext.tar.xz", "urlsf_subset00.tar"])
def test_an_archive_is_known_with_all_of_its_shards(
    name: str, real_data: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = real_data / "formats" / name
    later = time.time_ns() + 10 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)
    built = build_plainly(archive, workspace)
    recalled = recall(find_shards(str(archive)), workspace.documents, Reading())
    assert [item.name for item in recalled.known] == [source.name for source in built.manifest.sources]
    assert recalled.unknown == []


def test_a_normalisation_has_stored_text_of_its_own(shard: Shard, tmp_path: Path) -> None:
    plain = ingested(shard, tmp_path / "documents").part
    normalised = ingested(shard, tmp_path / "documents", Reading(normalisation="hugging-face")).part
    assert plain.path != normalised.path
    assert plain.normalised_documents == 0 < normalised.normalised_documents
    assert ingested(shard, tmp_path / "documents", Reading(normalisation="hugging-face")).part == normalised
    texts = [text for stored in read_texts(normalised) for text in stored.texts]
    assert all(text == text.strip() and b"\n\n\n" not in text for text in texts)


def test_text_stored_before_normalisations_is_found_again(shard: Shard, tmp_path: Path) -> None:
    part = ingested(shard, tmp_path / "documents").part
    assert part.path.stem.endswith("-36878a6d")  # the settings' hash of 0.1.0
    record = part.path.with_suffix(".json")
    facts = json.loads(record.read_bytes())
    del facts["normalised_documents"]
    record.write_text(json.dumps(facts))
    again = ingested(shard, tmp_path / "documents")
    assert again.reused
    assert again.part == part


def test_shards_stored_together_of_which_one_gets_no_name_are_whole_or_not_there(tmp_path: Path) -> None:
    shards = [make_shard(tmp_path / f"{seed}.xz", seed=seed) for seed in range(8)]
    parts = [ingested(shard, tmp_path / "apart").part for shard in shards]
    in_the_way = tmp_path / "together" / parts[4].path.name / "a folder that is not empty"
    in_the_way.mkdir(parents=True)
    with pytest.raises(OSError, match=parts[4].path.name):
        ingest_shards(shards, tmp_path / "together", Reading(), FRACTION)
    assert not list((tmp_path / "together").rglob("*.partial"))
    found = [read_part(tmp_path / "together" / part.path.name) for part in parts]
    assert [part is not None for part in found] == [True] * 4 + [False] * 4
    assert [contents(part) for part in found if part] == [contents(part) for part in parts[:4]]
    shutil.rmtree(in_the_way.parent)
    again = ingest_shards(shards, tmp_path / "together", Reading(), FRACTION)
    assert [one.reused for one in again if isinstance(one, IngestedShard)] == [True] * 4 + [False] * 4
    assert files_of(tmp_path / "together") == files_of(tmp_path / "apart")
