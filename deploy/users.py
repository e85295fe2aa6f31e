"""MLflow's user `brickroad`, whose name the workers write under: made, or given the password that is set now.

Wants MLFLOW_TRACKING_URI, MLFLOW_ADMIN_PASSWORD and MLFLOW_WORKER_PASSWORD.
"""

import base64
import json
import os
import sys
import urllib.error
import urllib.request

WORKER = "brickroad"


def ensure(server: str, admin_password: str, password: str) -> str:
    """Makes the user, or sets the password of the one that is there; says which."""
    known = _ask(server, admin_password, "POST", "create", {"username": WORKER, "password": password})
    if known != "RESOURCE_ALREADY_EXISTS":
        return "made"
    _ask(server, admin_password, "PATCH", "update-password", {"username": WORKER, "password": password})
    return "given its password"


def _ask(server: str, admin_password: str, method: str, action: str, body: dict[str, str]) -> str | None:
    """None if it is done, or the error's code if there is such a user already."""
    login = base64.b64encode(f"admin:{admin_password}".encode()).decode()
    request = urllib.request.Request(
        f"{server.rstrip('/')}/api/2.0/mlflow/users/{action}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Basic {login}"},
        method=method,
    )
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        answer = error.read().decode(errors="replace")
        if "RESOURCE_ALREADY_EXISTS" in answer:
            return "RESOURCE_ALREADY_EXISTS"
        raise RuntimeError(
            f"MLflow at {server} answers {error.code} ({answer.splitlines()[0][:200]})"
        ) from None
    return None


def main() -> None:
    """One clear line, and exit 1 if it could not be done."""
    try:
        done = ensure(
            os.environ["MLFLOW_TRACKING_URI"],
            os.environ["MLFLOW_ADMIN_PASSWORD"],
            os.environ["MLFLOW_WORKER_PASSWORD"],
        )
    except KeyError as error:
        sys.exit(f"error: {error.args[0]} is not set")
    except (RuntimeError, OSError) as error:
        sys.exit(f"error: the user {WORKER} could not be made: {error}")
    print(f"the user {WORKER} of MLflow is {done}")


if __name__ == "__main__":
    main()
