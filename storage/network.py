"""What holds for every file behind a network: how its address is shown, and what is done when it does not come.

An address may hold secrets, and a network fails in dozens of ways. Here each failure becomes a NetworkError with its place,
its reason and the way out, after as many tries as can help.
"""

import os
import re
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from storage.errors import CorpusError, NetworkError

T = TypeVar("T")
Doing = Literal["read", "written"]

ADDRESS_VARIABLE = "BRICKROAD_ADDRESS"
#: Schemes in which `?` is a wildcard and no query begins; of any other one the query is taken for a signature.
_WITHOUT_QUERY = ("s3", "s3a", "gs", "gcs", "hf", "memory")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ADDRESS_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")

_WAITS_SECONDS = (0.5, 2.0, 8.0)  # before the second try, the third, the fourth
_PATIENCE_SECONDS = 60.0  # some file systems try again by themselves; no further try begins after this
_GO_ON = "run it again to go on: what was read before is kept"
_CREDENTIALS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for a public bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or FSSPEC_GS_TOKEN=anon for a public bucket",
    "hf": "set HF_TOKEN if the repository is private or gated",
}


def is_remote(location: str) -> bool:
    """Whether a location is an address (`https://…`, `s3://…`), not a path on this machine."""
    return _ADDRESS.match(location) is not None


def shown(location: str) -> str:
    """An address without its secrets: no user, no password, no query. What is shown and recorded is always this."""
    scheme, _, rest = location.partition("://")
    end = re.search(r"[/?#]", rest)
    authority, path = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    if scheme_of(location) not in _WITHOUT_QUERY:
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    return f"{scheme}://{authority.rpartition('@')[2]}{path}"


def kept_aside(location: str) -> str:
    """The address without its secrets, to be recorded; they stay in the environment, where `with_secrets` finds them."""
    if not is_remote(location) or shown(location) == location:
        return location
    os.environ[ADDRESS_VARIABLE] = location
    return shown(location)


def with_secrets(location: str) -> str:
    """The address as $BRICKROAD_ADDRESS has it, if that is the same one."""
    whole = os.environ.get(ADDRESS_VARIABLE, "")
    return whole if is_remote(whole) and shown(whole) == location else location


def scheme_of(location: str) -> str:
    """What stands before `://`."""
    return location.partition("://")[0].lower()


class Trouble(Exception):
    """What we see ourselves to be wrong with an answer."""

    def __init__(self, reason: str, *, can_heal: bool = True) -> None:
        super().__init__(reason)
        self.can_heal = can_heal


def patiently(location: str, action: Callable[[], T], doing: Doing = "read") -> T:
    """The result of an action, tried again after growing waits where that can help. Raises NetworkError.

    Whatever a file system raises is taken for trouble of the network or of the server: there are dozens of kinds.
    """
    began = time.monotonic()
    for wait in (*_WAITS_SECONDS, None):
        try:
            return action()
        except (NetworkError, CorpusError):
            raise
        except Exception as error:
            reason, can_heal = _explained(location, error, doing)
            if wait is None or not can_heal or time.monotonic() - began > _PATIENCE_SECONDS:
                raise NetworkError(shown(location), reason, can_heal) from None
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def is_beyond_the_end(error: Exception) -> bool:
    """Whether a server says that a file ends before the part that was asked for begins."""
    return 416 in (_status(error), _status(error.__cause__) if error.__cause__ else None)


def _explained(location: str, error: Exception, doing: Doing) -> tuple[str, bool]:
    """Why, with the way out, and whether trying again can help."""
    if isinstance(error, Trouble):
        return f"{error}; {_GO_ON}" if error.can_heal else str(error), error.can_heal
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    status = _status(error) or _status(cause)
    kinds = {type(error).__name__, type(cause).__name__}
    is_forbidden = isinstance(error, PermissionError) or str(error).startswith(
        "Forbidden: "
    )  # gcsfs says no more
    if status in (401, 403) or is_forbidden or "NoCredentialsError" in kinds:
        scheme = {"s3a": "s3", "gcs": "gs"}.get(scheme_of(location), scheme_of(location))
        way = _CREDENTIALS.get(scheme, "its address may have expired, or want a user and a password")
        verb = "give" if doing == "read" else "take"
        return f"its server refuses to {verb} it ({status or 'no access'}); {way}", False
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and cause is error):
        return f"is not there ({status or 404}); name a file or folder that is", False
    if isinstance(error, FileNotFoundError):  # what fsspec makes of any failure to ask a web server for facts
        error = cause
    reason = _clean(str(error)) or type(error).__name__
    if status is not None:
        can_heal = status >= 500 or status in (408, 425, 429)
        return f"its server answers {status} ({reason})" + (f"; {_GO_ON}" if can_heal else ""), can_heal
    can_heal = not any("Certificate" in kind for kind in kinds)
    return f"cannot be {doing} ({reason}); {_GO_ON}", can_heal


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error tells of, in the ways of aiohttp, gcsfs, httpx and botocore."""
    response = getattr(error, "response", None)
    of_boto = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    found: tuple[Any, ...] = (
        getattr(error, "status", None),
        # aiohttp says `code` 400 of a response that was cut.
        getattr(error, "code", None) if type(error).__module__.startswith("gcsfs") else None,
        getattr(response, "status_code", None),
        of_boto.get("HTTPStatusCode"),
    )
    return next((int(one) for one in found if str(one).isdecimal() and int(one) >= 400), None)


def _clean(text: str) -> str:
    """The first line of a message, its addresses without their secrets."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return _ADDRESS_IN_TEXT.sub(lambda match: shown(match[0]), line)
