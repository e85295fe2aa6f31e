"""The outbox of a training: what it tells MLflow is written into a journal at once, and shipped by a thread of its own.

    training --append--> journal on disk --thread, in order, in batches--> MLflow

So a store that is slow, hangs or is down costs the training nothing, and kill -9 loses nothing: what was not shipped is in the
journal, for the run when it goes on, or for whoever ships what it has left.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from storage.journal import Journal
from tasks.tracking.entries import Ended, Entry, Points, Saved, from_fields, to_fields
from tasks.tracking.store import one_line
from tasks.tracking.telling import MOST_POINTS_A_CALL, Teller

FLUSH_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 60.0  # between tries, of a store that is down for long
_PATIENCE_SECONDS = (
    20.0  # at the end of a run, without an answer; within what a cluster gives a process after SIGTERM
)
_UPLOAD_SECONDS = 600.0  # the same, while a checkpoint is on its way


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parcel:
    """Entries that are told together: several of points, or one other; and where in the journal they end."""

    entries: list[Entry]
    end_bytes: int


def ship(journal: Journal, teller: Teller, before: Callable[[Entry], None] = lambda entry: None) -> None:
    """Tells all that is untold, in order, and notes it; `before` hears of each parcel's first entry. Raises what the store raises."""
    for parcel in _parcels(_untold(journal)):
        if parcel.entries:
            before(parcel.entries[0])
            teller.tell(parcel.entries)
        journal.mark_told(parcel.end_bytes)


def _untold(journal: Journal) -> Iterator[tuple[Entry | None, int]]:
    """The entries that have not been told, None for a damaged one, and where in the journal each ends."""
    for line in journal.untold():
        entry = from_fields(line.entry)
        if entry is None:
            print(
                f"{journal.path}: a line is damaged and is left out, before byte {line.end_bytes}",
                file=sys.stderr,
            )
        yield entry, line.end_bytes


def _parcels(entries: Iterable[tuple[Entry | None, int]]) -> Iterator[_Parcel]:
    points, values, end_bytes = list[Entry](), 0, 0
    for entry, end in entries:
        if points and (not isinstance(entry, Points) or values + len(entry.values) > MOST_POINTS_A_CALL):
            yield _Parcel(entries=points, end_bytes=end_bytes)
            points, values = [], 0
        end_bytes = end
        if isinstance(entry, Points):
            points.append(entry)
            values += len(entry.values)
        else:
            yield _Parcel(entries=[entry] if entry else [], end_bytes=end_bytes)
    if points:
        yield _Parcel(entries=points, end_bytes=end_bytes)


class Outbox:
    """Takes entries at once, and ships them in the background until it is closed.

    On a full disk entries stay in memory and are shipped from there: the training goes on, and the next checkpoint decides.
    """

    def __init__(self, journal: Journal, teller: Teller) -> None:
        self._journal = journal
        self._teller = teller
        self._unwritten = deque[Entry]()
        self._lock = threading.Lock()  # of what is written; shipping reads, and waits for nobody
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"outbox of {teller.run_id}", daemon=True)
        self._is_disk_failing = False
        self._failing_tries = 0
        self._has_told_in_this_try = False
        self._failure: str | None = None
        self._deadline = 0.0

    def put(self, entry: Entry) -> None:
        """Takes an entry; never raises and never waits for the store."""
        with self._lock:
            self._unwritten.append(entry)
            self._write()
            if self._thread.ident is None:
                self._thread.start()
        if not isinstance(entry, Points):
            self._wake.set()

    def secure(self) -> None:
        """Returns when all entries are on the disk, so that a power cut leaves them there."""
        with self._lock:
            self._write()
            if not self._unwritten:
                try:
                    self._journal.sync()
                except OSError as error:
                    self._say_disk_fails(error)

    def close(self) -> None:
        """Ships the rest, as long as the store answers; what it has not heard then stays in the journal, and is named."""
        if self._thread.ident is None:
            self._journal.close()
            return
        self._deadline = time.monotonic() + _PATIENCE_SECONDS
        self._closing.set()
        self._wake.set()
        while self._thread.is_alive() and time.monotonic() < self._deadline:
            self._thread.join(min(0.2, max(0.0, self._deadline - time.monotonic())))
        if self._thread.is_alive():
            self._given_up.set()
            self._wake.set()
            reason = self._failure or f"no answer in {_PATIENCE_SECONDS:.0f} s"
            print(
                f"MLflow at {self._teller.store.place} has not heard all of run {self._teller.run_id} ({reason}); the rest is in "
                f"{self._journal.path}, and is told by the next brickroad train or brickroad up",
                file=sys.stderr,
            )
            if self._unwritten:
                print(
                    f"{len(self._unwritten)} entries of it found no room on the disk, and are lost with this process",
                    file=sys.stderr,
                )

    def _run(self) -> None:
        while not self._given_up.is_set():
            self._wake.wait(self._pause_seconds())
            self._wake.clear()
            is_last, self._has_told_in_this_try = self._closing.is_set(), False
            try:
                ship(self._journal, self._teller, self._hope)
                self._ship_unwritten()
            except (
                Exception
            ) as error:  # whatever a store or a way to its artifacts raises: it is said, and tried again
                self._say_store_fails(error)
                continue
            self._say_store_answers()
            if is_last:
                self._finish()
                return
        self._journal.close()

    def _pause_seconds(self) -> float:
        if not self._failing_tries:
            return FLUSH_SECONDS
        longest = 1.0 if self._closing.is_set() else _LONGEST_PAUSE_SECONDS
        return min(longest, 2.0 ** min(self._failing_tries - 1, 10))

    def _finish(self) -> None:
        """All is told: of a run that has ended no journal is needed, unless something in it was refused."""
        if self._teller.refused:
            print(
                f"{self._teller.refused} entries were refused; they are in {self._journal.path}",
                file=sys.stderr,
            )
            self._journal.close()
        else:
            self._journal.remove()

    def _hope(self, entry: Entry) -> None:
        """What comes next gets its time, if the store has answered until now: in a try after a failing one that is not known
        before its first parcel."""
        has_answered = self._has_told_in_this_try or not self._failing_tries
        self._has_told_in_this_try = True  # should this parcel fail, the try is over
        if not has_answered:
            return
        seconds = _UPLOAD_SECONDS if isinstance(entry, Saved) else _PATIENCE_SECONDS
        self._deadline = time.monotonic() + seconds

    def _write(self) -> None:
        try:
            while self._unwritten:
                self._journal.append(to_fields(self._unwritten[0]))
                self._unwritten.popleft()
            self._is_disk_failing = False
        except OSError as error:
            self._say_disk_fails(error)

    def _ship_unwritten(self) -> None:
        """What the disk had no room for is told from memory. Should there be room meanwhile, it is told twice, which is once."""
        with self._lock:
            self._write()
            waiting = list(self._unwritten)
        for parcel in _parcels((entry, 0) for entry in waiting):
            self._hope(parcel.entries[0])
            self._teller.tell(parcel.entries)
            with self._lock:
                for entry in parcel.entries:
                    if self._unwritten and self._unwritten[0] is entry:
                        self._unwritten.popleft()

    def _say_disk_fails(self, error: OSError) -> None:
        if not self._is_disk_failing:
            print(
                f"{self._journal.path}: {error.strerror}; the training goes on, and MLflow is told from memory",
                file=sys.stderr,
            )
        self._is_disk_failing = True

    def _say_store_fails(self, error: Exception) -> None:
        self._failing_tries += 1
        self._failure = one_line(error)
        if self._failing_tries == 1:
            print(
                f"MLflow at {self._teller.store.place} does not take what is told ({self._failure}); the training goes on, and "
                f"tells it later from {self._journal.path}",
                file=sys.stderr,
            )

    def _say_store_answers(self) -> None:
        if self._failing_tries:
            print(f"MLflow at {self._teller.store.place} takes it again", file=sys.stderr)
        self._failing_tries, self._failure = 0, None


def is_empty(journal: Journal) -> bool:
    """Whether nothing stands in it."""
    return next(journal.lines(), None) is None


def is_over(journal: Journal) -> bool:
    """Whether the last that a run has told is its end."""
    last = None
    for line in journal.lines():
        last = from_fields(line.entry) or last
    return isinstance(last, Ended)


def last_sign_ms(journal: Journal) -> int:
    """When a run told its last point; now, if it told none."""
    last_ms = None
    for line in journal.lines():
        entry = from_fields(line.entry)
        if isinstance(entry, Points):
            last_ms = entry.at_ms
    return last_ms or int(time.time() * 1000)
