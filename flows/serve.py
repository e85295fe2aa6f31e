"""`brickroad serve`: a model on an address, until a signal ends it."""

import json
import resource
import signal
import socket
import sys
from types import FrameType

import uvicorn

from flows.addresses import is_loopback
from flows.connections import Connection
from flows.console import Terminated, say, table
from flows.http_server import Served, build_app
from tasks.interruption import InterruptedByUser
from tasks.loading import LoadedModel
from tasks.serving import Engine, Limits

_STOP_SECONDS = 3.0  # that requests under way have to end by themselves
_CLOSE_SECONDS = 6  # after which their connections are cut
_MOST_FILES = 8192  # many systems give a program 1024, and a connection is one


def serve_until_stopped(
    name: str,
    model: LoadedModel,
    limits: Limits,
    listener: socket.socket,
    *,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Serves, and on SIGINT or SIGTERM ends what is under way within seconds. Raises InterruptedByUser then."""
    _allow_many_connections()
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    with Engine(model, limits) as engine:
        served = Served(name=name, model=model, engine=engine, api_key=api_key, is_loopback=is_loopback(host))
        server = Server(served)
        _announce(name, url, limits, has_key=api_key is not None)
        if as_json:  # at once: the end is a signal, and stdout is ours alone
            print(json.dumps({"url": url, "model": name}), file=sys.__stdout__, flush=True)
        try:
            server.run(sockets=[listener])
        except (KeyboardInterrupt, Terminated) as signalled:
            number = signal.SIGINT if isinstance(signalled, KeyboardInterrupt) else signal.SIGTERM
            raise InterruptedByUser("stopped; every request has its answer", number) from None


class Server(uvicorn.Server):
    """Uvicorn, which at a signal takes no more connections and waits; the texts under way end in that time."""

    def __init__(self, served: Served) -> None:
        self._engine = served.engine
        super().__init__(
            uvicorn.Config(
                build_app(served),
                http=Connection,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=_CLOSE_SECONDS,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._engine.stop(within_seconds=_STOP_SECONDS)
        super().handle_exit(sig, frame)


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _announce(name: str, url: str, limits: Limits, *, has_key: bool) -> None:
    table(
        "Serving, until Ctrl-C",
        {
            "model": name,
            "page": f"{url}/",
            "OpenAI's API": f"{url}/v1",
            "others": f"{url}/health, {url}/metrics",
            "at most": f"{limits.tokens:,} tokens a text, {limits.rows} texts at once and {limits.waiting} waiting, "
            f"{limits.seconds:g} s a request",
        },
    )
    key = ' -H "Authorization: Bearer $BRICKROAD_API_KEY"' if has_key else ""
    body = json.dumps({"model": name, "prompt": "The ", "max_tokens": 50})
    say("[bold]Try[/bold]")
    print(
        f"  curl {url}/v1/completions -H 'Content-Type: application/json'{key} -d '{body}'", file=sys.stderr
    )
