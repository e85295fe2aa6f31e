"""A file that is there is whole, whatever stops its writer; errors of the disk name the path."""

import contextlib
import errno
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from bad_disks import fail_flush, small_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import files
from storage.files import (
    Together,
    atomic_file,
    canonical_json,
    crc32_file,
    exclusive_lock,
    fingerprint,
    link_or_copy,
    publish_folder,
    remove_partials,
    sha256_file,
    sha256_text,
    staged_folder,
    write_json,
    write_pieces,
)


def is_done(folder: Path) -> bool:
    return (folder / "done").is_file()


def everything_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    with atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert everything_below(tmp_path) == ["new", "new/a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(errno.EIO, "Input/output error")])
def test_a_failed_writer_leaves_what_was_there_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises((ValueError, KeyboardInterrupt, OSError)), atomic_file(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert everything_below(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_an_error_of_the_disk_names_the_path_and_leaves_nothing(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "rename")), full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json") as raised:
        write_json(tmp_path / "a.json", {"a": 1})
    assert raised.value.errno == errno.ENOSPC
    assert everything_below(tmp_path) == []


def test_a_full_disk_names_the_path_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "size=64k"):
        with (
            pytest.raises(OSError, match=r"No space left on device: .*a\.bin"),
            atomic_file(disk / "a.bin") as file,
        ):
            file.write(bytes(100_000))
        with pytest.raises(OSError, match=r"No space left on device: .*disk"), staged_folder(disk) as stage:
            (stage / "b.bin").write_bytes(bytes(100_000))
        assert everything_below(disk) == []
        write_json(disk / "small.json", {})


def test_a_read_only_disk_names_the_path(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "size=64k,ro"):
        with pytest.raises(OSError, match=r"Read-only file system: .*a\.bin"), atomic_file(disk / "a.bin"):
            pass
        with pytest.raises(OSError, match=r"Read-only file system: .*disk"), staged_folder(disk / "new"):
            pass
        with pytest.raises(OSError, match=r"Read-only file system: .*lock"), exclusive_lock(disk / ".lock"):
            pass


def test_a_folder_without_permission_names_the_path(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"a\.bin"), atomic_file(tmp_path / "a.bin"):
        pass


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with staged_folder(tmp_path) as stage:
        (stage / "done").write_text("1")
        assert not (tmp_path / "a").exists()
        publish_folder(stage, tmp_path / "a", is_done=is_done)
    assert everything_below(tmp_path) == ["a", "a/done"]
    with pytest.raises(ValueError, match="stop"), staged_folder(tmp_path) as stage:
        (stage / "done").write_text("2")
        raise ValueError("stop")
    assert everything_below(tmp_path) == ["a", "a/done"]


def test_a_finished_folder_is_kept_and_the_rest_of_a_removal_gives_way(tmp_path: Path) -> None:
    for text, expected in [("1", "1"), ("2", "1")]:
        with staged_folder(tmp_path) as stage:
            (stage / "done").write_text(text)
            publish_folder(stage, tmp_path / "a", is_done=is_done)
        assert (tmp_path / "a" / "done").read_text() == expected
    (tmp_path / "a" / "done").unlink()
    (tmp_path / "a" / "half removed").write_text("x")
    with staged_folder(tmp_path) as stage:
        (stage / "done").write_text("3")
        publish_folder(stage, tmp_path / "a", is_done=is_done)
    assert (tmp_path / "a" / "done").read_text() == "3"
    assert everything_below(tmp_path) == ["a", "a/done"]


def test_a_file_in_the_place_of_a_folder_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OSError, match="a"), staged_folder(tmp_path) as stage:
        publish_folder(stage, tmp_path / "a", is_done=is_done)
    assert (tmp_path / "a").read_text() == "mine"


# --- several files together -------------------------------------------------------------------------------------------


def test_files_get_their_names_together_after_all_are_on_the_disk(tmp_path: Path) -> None:
    together = Together()
    first, second = (together.open(tmp_path / "new" / name) for name in ("a.bin", "b.json"))
    first.write(b"first")
    second.write(b"second")
    assert not any(path.name in ("a.bin", "b.json") for path in tmp_path.rglob("*"))
    together.publish()
    together.discard()  # which is nothing after that
    assert everything_below(tmp_path) == ["new", "new/a.bin", "new/b.json"]
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"first"
    assert (tmp_path / "new" / "b.json").read_bytes() == b"second"


def test_the_last_name_is_never_there_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    flush, rename = os.fsync, Path.rename

    def noted_flush(descriptor: int) -> None:
        events.append("flush")
        flush(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        events.append(Path(target).name)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_flush)
    monkeypatch.setattr(Path, "rename", noted_rename)
    together = Together()
    for name in ("z", "a", "m"):
        together.open(tmp_path / name).write(b"x")
    together.publish()
    assert events == ["flush", "flush", "flush", "z", "a", "m", "flush"]  # the last is the folder's


def test_files_that_are_discarded_leave_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    together = Together()
    for name in ("a", "b"):
        together.open(tmp_path / name).write(b"new")
    together.discard()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert everything_below(tmp_path) == ["a"]


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_flush_that_fails_names_where_and_publishes_no_part_of_the_files(
    nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_flush(monkeypatch, nth, errno.EIO)
    together = Together()
    for name in ("a", "b"):
        together.open(tmp_path / name).write(b"new")
    with pytest.raises(OSError, match=f"Input/output error: .*{tmp_path}"):
        together.publish()
    together.discard()
    assert everything_below(tmp_path) in ([], ["a", "b"])


def test_a_full_disk_publishes_none_of_the_files(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "size=64k"):
        together = Together()
        together.open(disk / "a").write(b"small")
        together.open(disk / "b").write(bytes(60_000))
        last = together.open(disk / "c")
        with pytest.raises(OSError, match="No space left on device"):
            last.write(bytes(100_000))
        together.discard()
        assert everything_below(disk) == []
        together = Together()
        together.open(disk / "small").write(b"x" * 1000)
        big = together.open(disk / "big")
        for _ in range(16):
            with contextlib.suppress(OSError):
                big.write(bytes(4000))
        with pytest.raises(OSError, match=r"No space left on device: .*disk/big"):
            together.publish()  # what Python had kept in memory does not fit
        together.discard()
        assert everything_below(disk) == []


def test_two_writers_of_the_same_names_leave_whole_files_of_one_of_them_each(tmp_path: Path) -> None:
    writers = [Together(), Together()]
    for number, together in enumerate(writers):
        for name in ("a", "b"):
            together.open(tmp_path / name).write(b"%d" % number * 5)
    for together in writers:
        together.publish()
    assert everything_below(tmp_path) == ["a", "b"]
    assert [(tmp_path / name).read_bytes() for name in ("a", "b")] == [b"11111", b"11111"]


# --- checksums --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 23, 24, 25, 1000])
def test_checksums_of_a_file_are_those_of_its_bytes(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_READ_BYTES", 24)
    data = random.Random(size).randbytes(size)
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    assert crc32_file(tmp_path / "a") == zlib.crc32(data)
    assert sha256_text(data) == sha256_text(memoryview(data)) == hashlib.sha256(data).digest()


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000])
def test_much_data_is_written_whole_in_pieces(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WRITTEN_BYTES", 64)
    data, written = random.Random(size).randbytes(size), io.BytesIO()
    write_pieces(written, np.frombuffer(data, np.uint8).data)
    assert written.getvalue() == data


def test_a_read_error_names_the_file() -> None:
    path = Path("/proc/self/mem")
    if not path.exists():
        pytest.skip("no /proc on this machine")
    for read in (sha256_file, crc32_file):
        with pytest.raises(OSError, match=r"/proc/self/mem"):
            read(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)  # other work on the machine must not fail it
@given(value=JSON)
def test_a_fingerprint_survives_being_written_and_read(value: object) -> None:
    assert fingerprint(json.loads(json.dumps(value))) == fingerprint(value)
    assert json.loads(canonical_json(value)) == value


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})


def test_a_link_takes_the_place_of_what_was_there_even_of_itself(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    target.write_bytes(b"old and longer")
    for _ in range(2):
        link_or_copy(source, target)
        assert target.read_bytes() == source.read_bytes() == b"new"


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".a.bin.1234.partial").write_text("x")
    (tmp_path / ".stage.1234.partial" / "inner").mkdir(parents=True)
    (tmp_path / ".stage.1234.partial" / ".b.partial").write_text("x")
    (tmp_path / "kept.txt").write_text("x")
    assert remove_partials(tmp_path) >= 2
    assert everything_below(tmp_path) == ["kept.txt", "sub"]
    assert remove_partials(tmp_path / "nowhere") == 0


def test_a_lock_keeps_others_out_until_it_is_left(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with exclusive_lock(tmp_path / ".lock") as waited:
            order.append(f"second, waited: {waited}")

    with exclusive_lock(tmp_path / ".lock") as waited:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.2)
        order.append(f"first, waited: {waited}")
    thread.join()
    assert order == ["first, waited: False", "second, waited: True"]


def test_the_lock_of_a_killed_process_blocks_nobody(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from storage.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", program, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    with exclusive_lock(tmp_path / ".lock") as waited:
        assert waited is False
