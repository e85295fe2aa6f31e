"""A file is known again only if nothing about it moved, and only if it was settled when it was read."""

import os
import time
from pathlib import Path

import pytest

from storage.known_files import KnownFiles, RemoteSignature, Signature


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was written some seconds ago, as far as the clock tells."""
    path = tmp_path / "a.xz"
    path.write_bytes(b"content")
    later = time.time_ns() + 10 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)
    return path


def remembered(path: Path, store: Path, settings: str = "one") -> KnownFiles:
    known = KnownFiles(store, settings)
    known.remember(str(path), Signature.of(str(path)), [{"name": "a"}])
    known.save()
    return KnownFiles(store, settings)


def test_an_unchanged_file_is_known_again(settled: Path, tmp_path: Path) -> None:
    assert remembered(settled, tmp_path / "known.json").find(str(settled)) == [{"name": "a"}]


def test_other_settings_know_nothing_of_it(settled: Path, tmp_path: Path) -> None:
    remembered(settled, tmp_path / "known.json")
    assert KnownFiles(tmp_path / "known.json", "two").find(str(settled)) is None


def test_a_file_that_changed_a_moment_ago_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.xz"
    path.write_bytes(b"content")
    assert remembered(path, tmp_path / "known.json").find(str(path)) is None


@pytest.mark.parametrize("change", ["same size", "times set back", "another file", "gone"])
def test_any_change_is_noticed(change: str, settled: Path, tmp_path: Path) -> None:
    known = remembered(settled, tmp_path / "known.json")
    before = settled.stat()
    if change == "gone":
        settled.unlink()
    elif change == "another file":
        other = tmp_path / "other"
        other.write_bytes(b"content")
        other.rename(settled)
    else:
        time.sleep(0.02)
        settled.write_bytes(b"CONTENT")
    if change in ("times set back", "another file"):
        os.utime(settled, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known.find(str(settled)) is None


def test_a_file_that_changed_while_it_was_read_is_not_noted(settled: Path, tmp_path: Path) -> None:
    known, before = KnownFiles(tmp_path / "known.json", "one"), Signature.of(str(settled))
    settled.write_bytes(b"longer content")
    known.remember(str(settled), before, [{"name": "a"}])
    assert known.find(str(settled)) is None


def test_a_remote_file_is_known_by_size_and_version_and_not_without_one(tmp_path: Path) -> None:
    known, address = KnownFiles(tmp_path / "known.json", "one"), "https://host/a.xz"
    known.remember(address, RemoteSignature(5, '"v1"'), [{"name": "a"}])
    known.remember("s3://bucket/b.xz", RemoteSignature(5, None), [{"name": "b"}])
    assert known.find(address, RemoteSignature(5, '"v1"')) == [{"name": "a"}]
    for other in (RemoteSignature(6, '"v1"'), RemoteSignature(5, '"v2"'), RemoteSignature(5, None)):
        assert known.find(address, other) is None
    assert known.find("s3://bucket/b.xz", RemoteSignature(5, None)) is None


def test_addresses_that_differ_in_what_is_not_shown_are_two_files_and_no_secret_is_kept(
    tmp_path: Path,
) -> None:
    known, signature = KnownFiles(tmp_path / "known.json", "one"), RemoteSignature(5, '"v1"')
    known.remember("https://host/get?id=1&sign=s3cret", signature, [{"name": "a"}])
    known.save()
    assert known.find("https://host/get?id=1&sign=s3cret", signature) == [{"name": "a"}]
    assert known.find("https://host/get?id=2&sign=s3cret", signature) is None
    assert "s3cret" not in (tmp_path / "known.json").read_text()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"format": 99}', b'{"format": 1, "files": 3}', b"\xff\xfe"]
)
def test_a_damaged_store_knows_nothing_and_is_no_error(damage: bytes, settled: Path, tmp_path: Path) -> None:
    (tmp_path / "known.json").write_bytes(damage)
    assert KnownFiles(tmp_path / "known.json", "one").find(str(settled)) is None
