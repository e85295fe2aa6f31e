"""A journal keeps whole lines, whatever ends its writer, and belongs to one holder at a time."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bad_disks import small_disk

from storage.errors import JournalHeldError
from storage.journal import Journal, list_journals

WRITER = """
import sys
from pathlib import Path
from storage.journal import Journal
journal = Journal(Path(sys.argv[1]))
number = sum(1 for _ in journal.lines())
while True:
    journal.append({"number": number, "filling": "x" * (number % 700)})
    number += 1
"""


def entries(journal: Journal) -> list[object]:
    return [line.entry for line in journal.lines()]


def test_what_was_told_is_not_untold_when_it_is_opened_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.jsonl")
    for number in range(5):
        journal.append({"number": number})
    told = [line for line in journal.untold() if line.entry and line.entry["number"] <= 2][-1]
    journal.mark_told(told.end_bytes)
    journal.sync()
    journal.close()
    again = Journal(tmp_path / "run.jsonl")
    assert [line.entry for line in again.untold()] == [{"number": 3}, {"number": 4}]
    assert not again.is_told
    assert list_journals(tmp_path) == [again.path]
    again.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("torn", [b'{"number": 1', b"\0" * 200_000, b'{"number": 1}'])
def test_a_torn_last_line_is_no_entry_and_the_next_begins_a_line(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"number":0}\n' + torn)
    journal = Journal(path)
    assert entries(journal) == [{"number": 0}]
    journal.append({"number": 9})
    assert path.read_bytes() == b'{"number":0}\n{"number":9}\n'


def test_a_damaged_line_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"number":0}\n\0\0\0\xff\n[]\n{"number":3}\n')
    assert entries(Journal(path)) == [{"number": 0}, None, None, {"number": 3}]


def test_a_note_of_more_than_there_is_is_corrected(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.jsonl")
    for number in range(2):
        journal.append({"number": number})
    journal.mark_told([line.end_bytes for line in journal.lines()][-1])
    journal.close()
    journal.path.write_bytes(b'{"number":0}\n')  # a power cut took what was not flushed
    again = Journal(journal.path)
    assert again.is_told
    again.append({"number": 7})
    again.close()
    assert [line.entry for line in Journal(journal.path).untold()] == [{"number": 7}]


def test_a_note_that_cannot_be_read_tells_all_again(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_bytes(b'{"number":0}\n')
    (tmp_path / "run.told.json").write_bytes(b"\0\0\0")
    assert [line.entry for line in Journal(tmp_path / "run.jsonl").untold()] == [{"number": 0}]


def test_one_holder_at_a_time_and_a_removed_one_is_begun_anew(tmp_path: Path) -> None:
    held = Journal(tmp_path / "run.jsonl")
    held.append({"number": 0})
    with pytest.raises(JournalHeldError, match=r"run\.jsonl: another process is writing it; wait"):
        Journal(held.path)
    threading.Timer(0.3, held.remove).start()
    after = Journal(held.path, wait_seconds=60)
    assert entries(after) == []
    after.append({"number": 1})
    after.close()
    assert entries(Journal(held.path)) == [{"number": 1}]


def test_kill_9_at_random_moments_leaves_whole_lines_in_order(tmp_path: Path) -> None:
    path, seed = tmp_path / "run.jsonl", random.Random(1)
    root = Path(__file__).parents[2]
    for _ in range(4):
        before = path.stat().st_size if path.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=root)
        while not path.exists() or path.stat().st_size == before:
            assert process.poll() is None
        time.sleep(seed.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = [line.entry for line in Journal(path).lines()]
        assert [line and line["number"] for line in lines] == list(range(len(lines)))


def test_a_full_disk_takes_whole_lines_or_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=64k") as disk:
        journal, written = Journal(disk / "run.jsonl"), 0
        with pytest.raises(OSError, match=r"No space left on device: .*run\.jsonl"):
            while True:
                journal.append({"number": written, "filling": "x" * 3000})
                written += 1
        assert written > 10
        assert len(entries(journal)) == written
        assert journal.path.read_bytes().endswith(b"\n")
        journal.close()
