"""The one thread that writes for all clients of a server: texts join the running batch, and leave it when they end."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Self

from model.writing import Piece, WritingBatch, WritingRequest
from tasks.loading import LoadedModel

_log = logging.getLogger(__name__)


class Overloaded(Exception):
    """There is no room for a request now: it may be sent again later."""


class TimedOut(Exception):
    """A request's time was over before anything of it was written."""


class WritingFailed(Exception):
    """The network could not go on; other requests may be fine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server does for its clients at most. ValueError for one below 1."""

    tokens: int = 1024  # that a text gets
    prompt_characters: int = 20_000  # of a prompt, or so many ids
    rows: int = 16  # texts written at once, and so those of one request
    waiting: int = 64  # texts beside them
    seconds: float = 120.0  # a request, its waiting included
    body_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) >= 1:
                raise ValueError(f"{each.name} is {getattr(self, each.name)}; a limit is at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One text that a client wants: the settings, and the ids that it continues."""

    request: WritingRequest
    prompt_ids: Sequence[int]


class Engine:
    """Owns the network, in a thread of its own; `with Engine(…) as engine` ends it.

    A text does not depend on the texts beside it. A request that has no room is refused at once. One whose time is over ends with
    what there is, or with TimedOut if that is nothing; one whose client has gone away leaves the batch with the next token.
    """

    def __init__(self, model: LoadedModel, limits: Limits) -> None:
        self.limits = limits
        self._model = model
        model.network.eval()
        self._changed = (
            threading.Condition()
        )  # guards what follows; reentrant, since a signal may call `stop`
        self._waiting: deque[_Line] = deque()
        self._running: dict[int, _Line] = {}  # by row of the batch
        self._batch = WritingBatch(model.network, model.tokenizer)
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="writing")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(within_seconds=0)
        self._thread.join()

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self._stop_at is None and self._thread.is_alive()

    @property
    def running(self) -> int:
        """How many texts are being written."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many texts wait for their turn."""
        return len(self._waiting)

    def stop(self, *, within_seconds: float) -> None:
        """Takes no more requests, and ends those under way when the time is over."""
        with self._changed:
            self._stop_at = time.monotonic() + within_seconds
            self._changed.notify()

    async def write(self, texts: Sequence[Text]) -> AsyncIterator[Piece]:
        """The pieces of one request's texts as they come; a piece's row is the place of its text. Closing it gives them up.

        Raises Overloaded, TimedOut, WritingFailed; ValueError for a value that cannot be meant.
        """
        client = self._accept(texts)
        unfinished = len(texts)
        try:
            while unfinished:
                event = await client.events.get()
                if isinstance(event, Exception):
                    raise event
                unfinished -= event.ending is not None
                yield event
        finally:
            client.has_gone = True

    def _accept(self, texts: Sequence[Text]) -> "_Client":
        client = _Client(deadline=time.monotonic() + self.limits.seconds)
        with self._changed:
            if not self.is_ready:
                raise Overloaded("the server is being stopped")
            under_way = len(self._waiting) + len(self._running)
            if under_way + len(texts) > self.limits.rows + self.limits.waiting:
                raise Overloaded(
                    f"{under_way} texts are under way, and there is no room for {len(texts)} more"
                )
            self._waiting.extend(_Line(client, place, text) for place, text in enumerate(texts))
            self._changed.notify()
        return client

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                self._end_and_begin()
                self._deliver(self._batch.step())
            except Exception as error:  # out of memory, say: told to those it concerns, and the rest go on
                _log.exception("a batch of %d texts failed", len(self._running))
                self._fail(WritingFailed(f"{type(error).__name__}: {error}"))

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._waiting and not self._running:
                if self._stop_at is not None:
                    return False
                self._changed.wait()
        return True

    def _end_and_begin(self) -> None:
        """Between two tokens: ends what nobody waits for or has had its time, and fills the free places."""
        now = time.monotonic()
        with self._changed:
            for row, line in [*self._running.items()]:
                if self._is_over(line, now):
                    del self._running[row]
                    self._break_off(line, self._batch.end(row))
            for line in [line for line in self._waiting if self._is_over(line, now)]:
                self._waiting.remove(line)
                self._break_off(line, "")
            while self._waiting and len(self._running) < self.limits.rows:
                self._begin(self._waiting.popleft())

    def _is_over(self, line: "_Line", now: float) -> bool:
        stop_at = now + 1 if self._stop_at is None else self._stop_at
        return line.client.has_gone or now >= min(line.client.deadline, stop_at)

    def _break_off(self, line: "_Line", rest: str) -> None:
        if line.client.has_written:
            line.client.tell(Piece(row=line.place, text=rest, tokens=0, ending="length"))
        elif self._stop_at is not None:
            line.client.tell(Overloaded("the server is being stopped"))
        else:
            line.client.tell(TimedOut(f"{self.limits.seconds:g} seconds were over before its turn came"))

    def _begin(self, line: "_Line") -> None:
        try:
            row = self._batch.begin(line.text.request, line.text.prompt_ids)
        except ValueError as error:
            line.client.tell(error)
        else:
            self._running[row] = line

    def _deliver(self, pieces: Iterable[Piece]) -> None:
        """Tells each client all its pieces of a step at once: every telling wakes the loop, and both want the interpreter."""
        told: dict[asyncio.AbstractEventLoop, list[tuple[_Client, Piece]]] = {}
        try:
            for piece in pieces:
                line = self._running[piece.row]
                if piece.ending is not None:
                    del self._running[piece.row]
                line.client.has_written = True
                theirs = Piece(row=line.place, text=piece.text, tokens=piece.tokens, ending=piece.ending)
                told.setdefault(line.client.loop, []).append((line.client, theirs))
        finally:  # a step may fail half-way: those that ended in it are not among the running any more
            for loop, events in told.items():
                _tell(loop, events)

    def _fail(self, error: Exception) -> None:
        for line in self._running.values():
            line.client.tell(error)
        self._running.clear()
        self._batch = WritingBatch(self._model.network, self._model.tokenizer)


@dataclass(slots=True, kw_only=True)
class _Client:
    """Who waits for a request, in an event loop of another thread."""

    deadline: float
    has_gone: bool = False  # set by the loop, read by the thread
    has_written: bool = False
    events: "asyncio.Queue[Piece | Exception]" = field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def tell(self, event: Piece | Exception) -> None:
        _tell(self.loop, [(self, event)])


def _tell(loop: asyncio.AbstractEventLoop, events: "Sequence[tuple[_Client, Piece | Exception]]") -> None:
    def hand_over() -> None:
        for client, event in events:
            client.events.put_nowait(event)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there any more
        loop.call_soon_threadsafe(hand_over)


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """A text in the queue or in the batch, and whose it is."""

    client: _Client
    place: int  # among the client's texts
    text: Text
