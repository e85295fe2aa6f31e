"""Corpora behind a network: the file systems of `https://`, `s3://`, `gs://`, `hf://`, and what they list.

The one door to fsspec and to what stands behind it; it is imported only when a location asks for it.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from storage.errors import CorpusError
from storage.network import patiently, scheme_of, shown

WEB = ("http", "https")
_WILDCARD = re.compile(r"[*?\[]")
_VERSION_KEYS = ("generation", "blob_id", "xet_hash", "ETag", "etag")
_CONNECT_SECONDS = 20.0
_SILENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file as its server lists it. `name` is its path below what was listed; `version` changes whenever its content
    does, and is None if the server tells nothing that surely would."""

    location: str
    name: str
    size: int
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What there is at an address: `kind` is file, folder or pattern."""

    kind: str
    files: list[RemoteFile]


def list_files(location: str) -> Listing:
    """The files at an address: one file, all below a folder, or what matches a pattern; in no order.

    A web server lists nothing: there it is one file. Raises CorpusError if the address can stand for nothing, and
    NetworkError if the server does not answer, refuses, or has nothing there.
    """
    fs = file_system(location)
    if scheme_of(location) in WEB:
        return Listing(kind="file", files=[_web_file(fs, location)])
    fs.invalidate_cache()
    path = path_in(fs, location)
    info = patiently(location, lambda: _info(fs, path, location))
    if info and info["type"] == "file":
        folder, kind, infos = str(info["name"]).rpartition("/")[0], "file", [info]
    elif info:
        folder, kind = str(info["name"]).rstrip("/"), "folder"
        infos = patiently(location, lambda: list(fs.find(folder, detail=True).values()))
    else:
        folder, kind = _fixed_part(path), "pattern"
        infos = patiently(location, lambda: list(fs.glob(path, detail=True).values()))
    files = [
        _remote_file(f"{scheme_of(location)}://{info['name']}", info["name"].removeprefix(f"{folder}/"), info)
        for info in infos
        if info["type"] == "file" and not info["name"].endswith("/")
    ]
    return Listing(kind=kind, files=files)


def path_in(fs: Any, location: str) -> str:
    """What a file system calls a location."""
    return str(fs._strip_protocol(location))


def file_system(location: str) -> Any:
    """The file system of an address. Raises CorpusError if there is none, or its package is not installed."""
    scheme, options = scheme_of(location), dict[str, Any]()
    try:
        import fsspec

        if scheme in WEB:
            options = {"encoded": True, "client_kwargs": _web_settings()}
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise CorpusError(
            f"{shown(location)}: {scheme}:// needs a package that is not installed ({error}); "
            "install it: pip install 'brickroad[remote]'"
        ) from None
    except ValueError:
        raise CorpusError(
            f"{shown(location)}: {scheme}:// is no kind of address that is known; there are https://, s3://, gs://, hf://"
        ) from None


def web_address(location: str) -> str:
    """The address as it is, but for characters that no address may have; a signature stays what was signed."""
    return quote(location.partition("#")[0], safe="%/:=&?~+!$,;'@()*[]")


def version_of(info: dict[str, Any]) -> str | None:
    """What changes whenever the content does. A weak tag of a web server need not, nor does a time of whole seconds."""
    tag = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), None)
    if tag is None or tag.startswith("W/"):
        return None
    modified = info.get("LastModified")  # of S3: content that came back is another version
    return f"{tag} {int(modified.timestamp())}" if modified else tag


def _web_settings() -> dict[str, Any]:
    """Bytes as they are stored, proxies as the environment says, and no limit but on silence: a file may take hours."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
    return {"timeout": timeout, "trust_env": True, "auto_decompress": False, "read_bufsize": 1 << 20}


def _web_file(fs: Any, location: str) -> RemoteFile:
    name = unquote(urlsplit(location).path.rpartition("/")[2])
    if not name:
        raise CorpusError(f"{shown(location)}: names no file, and a web server lists none; name one file")
    info = patiently(location, lambda: fs.info(web_address(location)))
    if info.get("mimetype") == "text/html" and not name.lower().endswith((".html", ".htm")):
        raise CorpusError(f"{shown(location)}: its server answers with a web page; name the file itself")
    return _remote_file(location, name, info)


def _info(fs: Any, path: str, location: str) -> dict[str, Any] | None:
    """What is at a path; None if that is nothing, and it may be meant as a pattern."""
    try:
        return dict(fs.info(path))
    except FileNotFoundError:
        if _WILDCARD.search(location):
            return None
        raise


def _fixed_part(path: str) -> str:
    """The folder before the first wildcard."""
    parts = path.split("/")
    return "/".join(parts[: next(index for index, part in enumerate(parts) if _WILDCARD.search(part))])


def _remote_file(location: str, name: str, info: dict[str, Any]) -> RemoteFile:
    if info.get("size") is None:
        raise CorpusError(
            f"{shown(location)}: its server does not tell its size, and a cut transfer would look whole; "
            "fetch it, and name the file"
        )
    return RemoteFile(location=location, name=name, size=int(info["size"]), version=version_of(info))
