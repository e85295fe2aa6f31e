"""A Prefect server for one run, where none is running: it survives Ctrl-C at the terminal, and ends with the run.

Prefect starts such a server by itself, but in the terminal's process group: Ctrl-C ended it before the run that needed
it to save and to report, which then waited for it for minutes; and a run that was killed left it behind.
"""

import atexit
import os
import socket
from importlib.util import find_spec
from pathlib import Path

from flows.console import say, waiting
from flows.environment import prepare
from flows.processes import Processes
from storage.errors import NetworkError
from storage.network import shown
from storage.workspace import Workspace
from tasks.answers import Api, Unanswered

_LOOPBACK = "127.0.0.1"
_READY_SECONDS = 20.0
_LATER_UI = f"http://{_LOOPBACK}:4200"  # where `brickroad up` shows this run


def prefect_ready(workspace: Path | None, debug: bool) -> Workspace:
    """The workspace, when a Prefect server answers: the one that runs, else one of our own until this process ends."""
    place = Workspace.at(workspace)
    if debug:
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "DEBUG"
    if address := prepare(place):
        _refuse_unusable(address)
        return place
    say("[dim]No Prefect server is running: starting one for this run (brickroad up keeps one).[/dim]")
    address = f"http://{_LOOPBACK}:{_free_port()}/api"
    processes = Processes(place.root / "logs", os.environ | {"PREFECT_UI_ENABLED": "false"})
    # Registered before Prefect is imported, so called after Prefect's own: it sends its last records when we exit.
    atexit.register(processes.stop)
    processes.start("prefect-server-of-a-run", _server_command(address))
    os.environ["PREFECT_API_URL"] = address  # before Prefect is imported: it reads its settings then
    os.environ.setdefault(
        "PREFECT_UI_URL", _LATER_UI
    )  # for links in MLflow: ours has no pages, and will be gone
    with waiting("starting"):
        import tasks.training  # noqa: F401  # torch, Prefect and MLflow take seconds to import: meanwhile it starts

        processes.wait_for("prefect-server-of-a-run", f"{address}/health")
    return place


def _refuse_unusable(address: str) -> None:
    """Raises NetworkError if the server that runs cannot be used: its database is down, or the password is another."""
    from prefect.settings import PREFECT_API_AUTH_STRING

    api = Api(address, PREFECT_API_AUTH_STRING.value(), patience_seconds=_READY_SECONDS)
    try:
        api.text("/ready")
        api.ask("/admin/version")  # without a login, /ready is answered too
    except Unanswered as error:
        if error.status in (401, 403):
            reason = "Prefect refuses the user or the password; set PREFECT_API_AUTH_STRING to user:password"
            raise NetworkError(shown(address), reason) from None
        if error.status:
            reason = (
                f"Prefect answers {error.status}, and its database does not; start that, then run this again"
            )
        else:
            reason = f"Prefect does not say whether it is ready ({error}); look whether its database runs, then run this again"
        raise NetworkError(shown(address), reason, True) from None


def _server_command(address: str) -> list[str]:
    """The server as one process; `prefect server start` would be two, of which only the first ends with us."""
    spec = find_spec("prefect")
    assert spec is not None
    assert spec.origin is not None
    _, _, port = address.removesuffix("/api").rpartition(":")
    return [
        "python", "-m", "uvicorn", "--app-dir", str(Path(spec.origin).parent.parent), "--factory",
        "prefect.server.api.server:create_app", "--host", _LOOPBACK, "--port", port, "--log-level", "error",
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])
