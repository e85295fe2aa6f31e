"""The stored text of a shard: made once, noticed when damaged, and the same bytes however often its writer was killed."""

import errno
import json
import lzma
import multiprocessing
import os
import random
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from storage import documents
from storage.documents import (
    DocumentPart,
    DocumentRow,
    ingest_shard,
    join_document_rows,
    read_document_rows,
    read_part,
    read_texts,
    write_document_rows,
)
from storage.errors import DatasetError, ShardError
from storage.files import sha256_file
from storage.shards import Shard, find_shards, read_documents, sha256_text, write_shard


def make_shard(path: Path, count: int = 40, seed: int = 1) -> Shard:
    rng = random.Random(seed)
    words = ["brick", "road", "Öz", "東京", "home", "\n\n", "😀"]
    texts = [(f"{n:07d}.txt", " ".join(rng.choices(words, k=60)).encode()) for n in range(count)]
    write_shard(path, texts)
    return find_shards(str(path))[0]


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return make_shard(tmp_path / "a.xz")


def ingest(shard: Shard, folder: Path) -> DocumentPart:
    return ingest_shard(shard, folder, invalid_utf8="refuse")[0]


def contents(part: DocumentPart) -> list[tuple[str, bytes]]:
    return [(document.member, document.text.encode()) for document in read_texts(part)]


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


def test_stored_text_is_what_the_shard_holds(shard: Shard, tmp_path: Path) -> None:
    part = ingest(shard, tmp_path / "documents")
    expected = list(read_documents(shard))
    stored = list(read_texts(part))
    assert contents(part) == [(document.member, document.utf8) for document in expected]
    assert [document.sha256 for document in stored] == [sha256_text(document.utf8) for document in expected]
    assert [document.text_bytes for document in stored] == [len(document.utf8) for document in expected]
    assert part.documents == len(expected)
    assert part.text_bytes == sum(len(document.utf8) for document in expected)
    assert part.shard_sha256 == sha256_file(shard.path)


def test_what_was_normalised_is_counted(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.xz", [("a", b"\xef\xbb\xbfone\r\ntwo\r\n"), ("b", b"\xff"), ("c", b"")])
    part, _ = ingest_shard(
        find_shards(str(tmp_path / "a.xz"))[0], tmp_path / "documents", invalid_utf8="replace"
    )
    assert (part.byte_order_marks, part.crlf_line_ends, part.invalid_utf8_documents) == (1, 2, 1)
    assert contents(part) == [("a", b"one\ntwo\n"), ("b", "\ufffd".encode()), ("c", b"")]


def test_many_batches_are_one_part_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard(tmp_path / "a.xz")
    monkeypatch.setattr(documents, "_BATCH_TEXT_BYTES", 500)
    assert contents(ingest(shard, tmp_path)) == [(d.member, d.utf8) for d in read_documents(shard)]


def test_a_second_ingest_reuses_the_first_wherever_the_shard_lies(shard: Shard, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    part, reused = ingest_shard(shard, folder, invalid_utf8="refuse")
    assert not reused
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    moved = shard.path.rename(tmp_path / "other name.xz")
    again, reused = ingest_shard(find_shards(str(moved))[0], folder, invalid_utf8="refuse")
    assert reused
    assert again == part
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_another_reading_of_the_same_bytes_is_another_part(shard: Shard, tmp_path: Path) -> None:
    ingest(shard, tmp_path / "documents")
    _, reused = ingest_shard(shard, tmp_path / "documents", invalid_utf8="replace")
    assert not reused


@pytest.mark.parametrize(
    "damage", ["no record", "empty record", "not json", "other fields", "a list", "cut", "longer", "gone"]
)
def test_a_part_that_is_not_whole_is_made_again(damage: str, shard: Shard, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    part = ingest(shard, folder)
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
            "not json": '{"settings": {',
            "other fields": '{"settings": {}, "a": 1}',
            "a list": "[]",
        }
        record.write_text(text[damage])
    assert read_part(part.path) is None
    again, reused = ingest_shard(shard, folder, invalid_utf8="refuse")
    assert not reused
    assert again == part
    assert files_of(folder) == before


def test_any_flipped_byte_of_stored_text_is_noticed(tmp_path: Path) -> None:
    """Parquet's page checksums miss flips in its headers and footer; some of them would lose documents in silence."""
    part = ingest(make_shard(tmp_path / "a.xz", count=5), tmp_path)
    whole = part.path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        part.path.write_bytes(flipped)
        with pytest.raises(
            DatasetError, match="stored text is missing or damaged; delete this file"
        ) as refused:
            list(read_texts(part))
        assert str(part.path) in str(refused.value)


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "tar cut"])
def test_a_bad_shard_leaves_nothing_behind(how: str, shard: Shard, tmp_path: Path) -> None:
    content = bytearray(shard.path.read_bytes())
    content[len(content) // 2] ^= how == "flipped"
    cut = {
        "cut": content[:-1],
        "flipped": content,
        "empty": b"",
        "tar cut": lzma.compress(lzma.decompress(shard.path.read_bytes())[:5000]),
    }
    shard.path.write_bytes(cut[how])
    with pytest.raises(ShardError, match=r"a\.xz"):
        ingest(find_shards(str(shard.path))[0], tmp_path / "documents")
    assert not list((tmp_path / "documents").iterdir())


def test_a_shard_that_changes_while_it_is_read_is_refused(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_shard(tmp_path / "b.xz", seed=2)

    def read_then_change(*arguments: object, **options: object) -> object:
        yield from read_documents(*arguments, **options)  # type: ignore[arg-type]
        shard.path.write_bytes(other.path.read_bytes())

    monkeypatch.setattr(documents, "read_documents", read_then_change)
    with pytest.raises(ShardError, match="changed while it was being read"):
        ingest(shard, tmp_path / "documents")
    assert not list((tmp_path / "documents").iterdir())


def test_threads_that_store_the_same_shard_at_once_all_succeed(shard: Shard, tmp_path: Path) -> None:
    parts: list[DocumentPart] = []
    threads = [
        threading.Thread(target=lambda: parts.append(ingest(shard, tmp_path / "documents"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parts) == 4
    assert len(set(parts)) == 1
    assert len(list((tmp_path / "documents").iterdir())) == 2
    assert len(contents(parts[0])) == 40


def test_killed_at_random_moments_it_leaves_nothing_half_done_and_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    shard = make_shard(tmp_path / "a.xz", count=4000)
    began = time.monotonic()
    ingest(shard, tmp_path / "undisturbed")
    seconds = time.monotonic() - began
    expected, folder = files_of(tmp_path / "undisturbed"), tmp_path / "documents"
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["storage.documents"])
    options = {"target": ingest_shard, "args": (shard, folder), "kwargs": {"invalid_utf8": "refuse"}}
    rng = random.Random(1)
    ended: Counter[int | None] = Counter()
    for _ in range(12):
        child = processes.Process(**options)
        child.start()
        time.sleep(rng.random() * (seconds + 0.1))
        child.kill()
        child.join()
        ended[child.exitcode] += 1
        for path in folder.glob("*.parquet") if folder.exists() else []:
            if part := read_part(path):
                assert len(list(read_texts(part))) == 4000
                path.with_suffix(".json").unlink()  # so that the next one has work to be killed in
    assert ended[-9] > 0
    first, second = processes.Process(**options), processes.Process(**options)
    for child in (first, second):
        child.start()
    for child in (first, second):
        child.join()
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert {name: digest for name, digest in files_of(folder).items() if not name.startswith(".")} == expected


def test_a_full_disk_names_the_path_and_leaves_nothing(tmp_path: Path) -> None:
    rng, disk = random.Random(0), tmp_path / "disk"
    write_shard(tmp_path / "a.xz", [("a.txt", rng.randbytes(300_000).hex().encode())])
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("this machine lets us mount nothing")
    try:
        with pytest.raises(OSError, match=r"No space left on device: .*disk/documents"):
            ingest(find_shards(str(tmp_path / "a.xz"))[0], disk / "documents")
        assert not list((disk / "documents").iterdir())
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_disk_that_fails_at_any_flush_leaves_nothing_that_counts(
    nth: int, shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, flush, flushes = tmp_path / "documents", os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal flushes
        flushes += 1
        if flushes == nth:
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=f"Input/output error: .*{folder}"):
        ingest(shard, folder)
    assert not list(folder.glob("*.partial")) + list(folder.glob(".*"))
    monkeypatch.undo()
    assert contents(ingest(shard, folder)) == [(d.member, d.utf8) for d in read_documents(shard)]


# --- rows -------------------------------------------------------------------------------------------------------------


def row(number: int) -> DocumentRow:
    return DocumentRow(
        split="val" if number % 7 == 0 else "train",
        member=f"{number}.txt",
        sha256=number.to_bytes(32, "big"),
        text_bytes=number,
        token_start=10 * number,
        token_count=3,
    )


def test_rows_are_placed_after_the_tokens_of_the_parts_before(tmp_path: Path) -> None:
    for part in range(3):
        write_document_rows(tmp_path / f"{part}.parquet", [row(part * 10 + n) for n in range(part)])
    befores = [{"train": 0, "val": 0}, {"train": 100, "val": 7}, {"train": 2000, "val": 90}]
    parts = [(f"s-{n}.xz", tmp_path / f"{n}.parquet", before) for n, before in enumerate(befores)]
    join_document_rows(tmp_path / "all.parquet", parts)  # type: ignore[arg-type]
    rows = list(read_document_rows(tmp_path / "all.parquet"))
    assert [(r["shard"], r["member"], r["token_start"]) for r in rows] == [
        ("s-1.xz", "10.txt", 200),
        ("s-2.xz", "20.txt", 2200),
        ("s-2.xz", "21.txt", 300),
    ]
    assert [r["split"] for r in rows] == ["train", "train", "val"]


def test_row_groups_of_any_size_hold_every_row_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_ROWS_A_GROUP", 10)
    sizes = [0, 3, 10, 7, 25, 0, 1]
    rows = [row(n) for n in range(sum(sizes))]
    parts, at = [], 0
    for number, size in enumerate(sizes):
        write_document_rows(tmp_path / f"{number}.parquet", rows[at : at + size])
        parts.append((f"s-{number}.xz", tmp_path / f"{number}.parquet", {"train": 0, "val": 0}))
        at += size
    for name in ("one", "two"):
        join_document_rows(tmp_path / name, parts)  # type: ignore[arg-type]
    found = list(read_document_rows(tmp_path / "one"))
    assert [r["member"] for r in found] == [r.member for r in rows]
    assert [r["shard"] for r in found] == [f"s-{n}.xz" for n, size in enumerate(sizes) for _ in range(size)]
    assert sha256_file(tmp_path / "one") == sha256_file(tmp_path / "two")


def test_the_record_tells_the_facts_and_no_path(shard: Shard, tmp_path: Path) -> None:
    part = ingest(shard, tmp_path / "documents")
    text = part.path.with_suffix(".json").read_text()
    assert json.loads(text)["documents"] == 40
    assert str(tmp_path) not in text
