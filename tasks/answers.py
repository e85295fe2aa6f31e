"""What Prefect and MLflow know, asked without their libraries, which take seconds to import: their databases read-only, or their APIs."""

import base64
import json
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

_PATIENCE_SECONDS = 2.0


class Unanswered(Exception):
    """Nothing to know from there; its text says why, in one line. `status` is that of HTTP, if there was an answer."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class Database:
    """A database of one of them in the workspace. Whatever it is asked, nothing in it changes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query; none if there is no database yet. Unanswered if it is of another version, or locked."""
        if not self.path.is_file():
            return []
        address = f"file:{quote(str(self.path))}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE_SECONDS)) as connection:
                connection.row_factory = sqlite3.Row
                return connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise Unanswered(f"{self.path}: {error}") from None


class Api:
    """The API of one of them. `login` is user:password, if it wants one."""

    def __init__(
        self, address: str, login: str | None = None, patience_seconds: float = _PATIENCE_SECONDS
    ) -> None:
        parts = urlsplit(address)
        if "@" in parts.netloc:  # a login within the address: it is not to be shown
            own, _, host = parts.netloc.rpartition("@")
            login, parts = login or own, parts._replace(netloc=host)
        self.address = urlunsplit(parts).rstrip("/")
        self._login = login
        self._patience_seconds = patience_seconds

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What it says as JSON, to a GET, or to a POST of the body. Unanswered if it does not, or cannot be understood."""
        answer, _ = self._answer(path, body)
        try:
            return json.loads(answer)
        except ValueError as error:
            raise Unanswered(f"{self.address}: {error}") from None

    def text(self, path: str) -> str:
        """What it says to a GET, as text. Unanswered if it does not."""
        return self._answer(path)[0].strip()

    def seconds_ahead(self, path: str) -> float | None:
        """How far its clock is ahead of ours, to a second or so, by the date of an answer; None if that has none."""
        date = self._answer(path)[1]
        return parsedate_to_datetime(date).timestamp() - time.time() if date else None

    def _answer(self, path: str, body: dict[str, Any] | None = None) -> tuple[str, str | None]:
        """Text and date of an answer."""
        headers = {"content-type": "application/json"}
        if self._login:
            headers["authorization"] = f"Basic {base64.b64encode(self._login.encode()).decode()}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(f"{self.address}{path}", data, headers)
            with urllib.request.urlopen(request, timeout=self._patience_seconds) as response:  # nosec B310 # the address of the user's own server
                return response.read().decode(), response.headers.get("date")
        except urllib.error.HTTPError as error:
            raise Unanswered(f"{self.address}: {error.code} {error.reason}", error.code) from None
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Unanswered(f"{self.address}: {reason}") from None

    def is_there(self, path: str) -> bool:
        """Whether something answers, be it that it wants a password."""
        try:
            with urllib.request.urlopen(f"{self.address}{path}", timeout=self._patience_seconds):  # nosec B310 # the address of the user's own server
                return True
        except urllib.error.HTTPError as error:
            return error.code in (401, 403)
        except (OSError, ValueError):
            return False
