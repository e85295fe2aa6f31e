"""What tests of whole programs need: a free port, and an environment that leads to no Prefect server of theirs."""

import os
import socket


def free_port() -> int:
    """A port of loopback that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def without_prefect() -> dict[str, str]:
    """The environment, as it would be had no test of this session a Prefect server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
