"""Connections of `brickroad serve`: one whose other end does nothing is closed, since uvicorn would keep it for ever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE_SECONDS = 20.0  # for a request's head, for its body, and for a reader who does not read
_LAST_PATIENCE_SECONDS = 3.0  # for that reader when the server is being stopped


class Connection(H11Protocol):
    """One connection. The pure Python parser is taken wherever there is another: it bounds the head, at 64 kB."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._until_head: asyncio.TimerHandle | None = None
        self._until_read: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has come, and has a while to say what for."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """A part of a head or of a body."""
        super().data_received(data)
        if self._is_answering():
            _cancel(self._until_head)
            self._until_head = None
        elif self._until_head is None:  # the next request on the same connection
            self._expect_head()

    def pause_writing(self) -> None:
        """The reader is behind."""
        super().pause_writing()
        self._expect_reading(PATIENCE_SECONDS)

    def resume_writing(self) -> None:
        """The reader has read."""
        super().resume_writing()
        _cancel(self._until_read)
        self._until_read = None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        _cancel(self._until_head)
        _cancel(self._until_read)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server is being stopped: what has not been asked in full is not answered any more."""
        super().shutdown()
        if self._is_answering() and self.cycle.more_body:
            self.transport.abort()
        elif self._until_read is not None:
            _cancel(self._until_read)
            self._expect_reading(_LAST_PATIENCE_SECONDS)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._until_head = self.loop.call_later(PATIENCE_SECONDS, self.timeout_keep_alive_handler)

    def _expect_reading(self, seconds: float) -> None:
        # Closing would wait for the reader, too.
        self._until_read = self.loop.call_later(seconds, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
