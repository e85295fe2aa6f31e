"""What `brickroad serve` counts, in Prometheus' text form."""

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from model.writing import Piece
from tasks.serving import Engine

_COMPLETIONS = "/v1/completions"


class Metrics:
    """The figures of one server."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "brickroad_requests", "Requests for completions by status", ["status"], registry=self._registry
        )
        self.seconds = Histogram(
            "brickroad_request_seconds",
            "Time until a request for completions was answered in full",
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=self._registry,
        )
        self.tokens = Counter("brickroad_tokens_written", "Tokens written", registry=self._registry)
        running = Gauge("brickroad_texts_running", "Texts being written", registry=self._registry)
        running.set_function(lambda: engine.running)
        waiting = Gauge("brickroad_texts_waiting", "Texts that wait", registry=self._registry)
        waiting.set_function(lambda: engine.waiting)

    def page(self) -> Response:
        """All of them, as they are now."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def counted(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        """The same pieces."""
        async for piece in pieces:
            self.tokens.inc(piece.tokens)
            yield piece

    def middleware(self, app: Any) -> Any:
        """The application with every request for completions counted and timed, streams until their end (an ASGI middleware)."""

        async def measured(scope: Any, receive: Any, send: Any) -> None:
            status = 499  # the client went away before there was one

            async def noted(message: Any) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            if scope.get("path") != _COMPLETIONS:
                await app(scope, receive, send)
                return
            began = time.monotonic()
            try:
                await app(scope, receive, noted)
            finally:
                self.requests.labels(str(status)).inc()
                self.seconds.observe(time.monotonic() - began)

        return measured
