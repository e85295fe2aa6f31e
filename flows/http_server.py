"""The HTTP side of `brickroad serve`: routes, who may ask, how much may be sent, and what is counted."""

import asyncio
import contextlib
import hmac
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from flows.completions import ApiError, Completion, CompletionRequest, texts_of
from flows.connections import PATIENCE_SECONDS
from flows.metrics import Metrics
from model.writing import Piece
from tasks.loading import LoadedModel
from tasks.pages import render_page
from tasks.serving import Engine, Overloaded, TimedOut, WritingFailed

T = TypeVar("T")

_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]"}
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_DRAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is served, and to whom."""

    name: str
    model: LoadedModel
    engine: Engine
    api_key: str | None
    is_loopback: bool


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class BodyTooLarge(Exception):
    """More was sent than may be."""


def build_app(served: Served) -> FastAPI:
    """The application. FastAPI's own pages are off: they load scripts from elsewhere."""
    metrics = Metrics(served.engine)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(_guard(served))])
    _answer_errors(app)
    _add_looks(app, served, metrics)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        _require_json(request)
        asked = CompletionRequest.read(await _body(request, served.engine.limits.body_bytes))
        _require_model(asked.model, served)
        completion = Completion(
            model=served.name,
            texts=texts_of(asked, served.model, served.engine.limits),
            choices_a_prompt=asked.n,
            context=served.model.network.config.block_size,
        )
        pieces = metrics.counted(served.engine.write(completion.texts))
        if asked.stream:
            first = await _unless_gone(request, anext(pieces))  # its errors are answers with a status
            return StreamingResponse(
                _events(asked, completion, first, pieces),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )
        return JSONResponse(await _unless_gone(request, _whole(completion, pieces)))

    app.add_middleware(metrics.middleware)
    return app


def _add_looks(app: FastAPI, served: Served, metrics: Metrics) -> None:
    card = {"id": served.name, "object": "model", "created": 0, "owned_by": "brickroad"}
    page = render_page(
        "serve.html",
        model=served.name,
        limits=served.engine.limits,
        block_size=served.model.network.config.block_size,
        has_key=served.api_key is not None,
    )

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})

    @app.get("/health")
    async def health() -> JSONResponse:
        is_ready = served.engine.is_ready
        facts = {"status": "ready" if is_ready else "stopping", "model": served.name}
        return JSONResponse(facts, status_code=200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics_page() -> Response:
        return metrics.page()

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [card]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        _require_model(name, served)
        return JSONResponse(card)


def _guard(served: Served) -> Any:
    """Who may ask: on loopback only those who call us by a name of loopback, and with a key only those who have it."""

    async def guard(request: Request) -> None:
        host = request.headers.get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if served.is_loopback and name not in _LOOPBACK_NAMES:  # a name that leads here is DNS rebinding
            raise ApiError(403, "this server answers to localhost and 127.0.0.1 only", code="wrong_host")
        if served.api_key is None or request.url.path in ("/", "/health"):
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), served.api_key.encode()):
            raise ApiError(
                401, "the key is missing or wrong: Authorization: Bearer KEY", code="invalid_api_key"
            )

    return guard


def _require_json(request: Request) -> None:
    """Any other type could be sent by the page of a stranger in a browser of this machine, without asking us before."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "send Content-Type: application/json")


def _require_model(name: str, served: Served) -> None:
    if name != served.name:
        raise ApiError(
            404,
            f"the model {name[:200]!r} is not here; {served.name!r} is",
            param="model",
            code="model_not_found",
        )


async def _body(request: Request, most_bytes: int) -> bytes:
    """The request's body. Raises BodyTooLarge before more than `most_bytes` of it are in memory, however it comes.

    ApiError for one that does not come to its end, ClientGone if its client goes instead.
    """
    if int(request.headers.get("content-length", 0)) > most_bytes:
        raise BodyTooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most_bytes:
                    raise BodyTooLarge
    except TimeoutError:
        message = f"the body did not come to its end within {PATIENCE_SECONDS:g} seconds"
        raise ApiError(408, message, code="timeout") from None
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work, which is given up when the client goes away. The request's body must have been read."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for each in (working, gone):
            each.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _whole(completion: Completion, pieces: AsyncIterator[Piece]) -> dict[str, Any]:
    async for piece in pieces:
        completion.add(piece)
    return completion.whole()


async def _events(
    asked: CompletionRequest, completion: Completion, first: Piece, rest: AsyncIterator[Piece]
) -> AsyncIterator[str]:
    """A stream of server-sent events. What goes wrong on the way is an event, too: the status has been sent."""
    try:
        piece: Piece | None = first
        while piece is not None:
            completion.add(piece)
            if piece.text or piece.ending:
                yield _event(completion.chunk(piece, asked.stream_options))
            piece = await anext(rest, None)
    except WritingFailed as error:
        yield _event(ApiError(500, str(error)).as_json())
    else:
        if asked.stream_options.include_usage:
            yield _event(completion.last_chunk())
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _answer_errors(app: FastAPI) -> None:
    """Every error is OpenAI's JSON with one clear line."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return JSONResponse(error.as_json(), status_code=error.status, headers=headers)

    @app.exception_handler(Overloaded)
    async def overloaded(request: Request, error: Overloaded) -> JSONResponse:
        body = ApiError(503, f"{error}; send it again later", code="overloaded").as_json()
        return JSONResponse(body, status_code=503, headers={"Retry-After": "1"})

    @app.exception_handler(TimedOut)
    async def timed_out(request: Request, error: TimedOut) -> JSONResponse:
        return JSONResponse(ApiError(504, str(error), code="timeout").as_json(), status_code=504)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        body = ApiError(
            error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}"
        ).as_json()
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(BodyTooLarge)
    async def too_large(request: Request, error: BodyTooLarge) -> Response:
        return _too_large(request)

    @app.exception_handler(ClientGone)
    async def client_gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)  # as nginx counts it; nobody reads it

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        message = str(error) if isinstance(error, WritingFailed) else "the server failed; its log says where"
        return JSONResponse(ApiError(500, message).as_json(), status_code=500)


def _too_large(request: Request) -> Response:
    """413 at once. What is still being sent is thrown away for a while: closing on it could take the answer from the client."""
    body = json.dumps(ApiError(413, "the body is too large", code="body_too_large").as_json()).encode()

    async def answer() -> AsyncIterator[bytes]:
        yield body
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while (await request.receive()).get("more_body"):
                    pass

    headers = {"Content-Length": str(len(body)), "Connection": "close"}
    return _Unwatched(answer(), status_code=413, headers=headers, media_type="application/json")


class _Unwatched(StreamingResponse):
    """A stream that reads the request itself: Starlette's own watch for a client that goes away would read it, too."""

    async def listen_for_disconnect(self, receive: Any) -> None:
        await asyncio.Event().wait()
