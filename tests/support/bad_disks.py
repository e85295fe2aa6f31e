"""Disks that fail, for real where it can be: a small one that gets full, and one whose flush to the platter breaks."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own at `folder`; needs root and the right to mount."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("this machine lets us mount nothing")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fail_flush(monkeypatch: pytest.MonkeyPatch, nth: int, error_number: int) -> None:
    """The n-th flush from now on fails with this error, and no other does."""
    flush, flushes = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal flushes
        flushes += 1
        if flushes == nth:
            raise OSError(error_number, os.strerror(error_number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
