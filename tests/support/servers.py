"""Servers on loopback that hold corpora: a web server that can be made to fail in every way, S3, Cloud Storage, the Hub."""

import contextlib
import hashlib
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class WebServer:
    """Files by path, what was asked for, and what is to go wrong: each fault is for one answer to a GET, in order.

    `wrong_for_ever` goes wrong whenever no other fault is left. Faults: a status; `cut` (half of what was announced), `reset`,
    `late cut` (when the half has arrived), `longer` (more than the listing says), `other range`, `silent`, `none`.
    """

    files: dict[str, bytes]
    faults: list[int | str] = field(default_factory=list)
    wrong_for_ever: int | str | None = None
    sends_parts: bool = True
    tells_size: bool = True
    tells_version: bool = True
    content_type: str = "application/octet-stream"
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def gets(self) -> list[str | None]:
        """The ranges of all GETs so far."""
        return [part for method, _, part in self.asked if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: WebServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        state, wanted = self.state, self.headers.get("Range")
        state.asked.append((self.command, self.path, wanted))
        path = unquote(urlsplit(self.path).path)
        if path in state.redirects:
            self.send_response(302)
            self.send_header("Location", state.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        fault: int | str | None = None
        if self.command == "GET":
            fault = state.faults.pop(0) if state.faults else state.wrong_for_ever
        if isinstance(fault, int) or path not in state.files:
            self.send_error(fault if isinstance(fault, int) else 404)
            return
        self._send(state.files[path], wanted, fault)

    def _send(self, content: bytes, wanted: str | None, fault: str | None) -> None:
        state, start, end = self.state, 0, len(content)
        if wanted and state.sends_parts and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)):
            start, end = int(match[1]), min(int(match[2] or end) + 1, end)
        body = content[start:end] + (b"more" if fault == "longer" else b"")
        self.send_response(206 if start else 200)
        if state.tells_version:
            self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        self.send_header("Content-Type", state.content_type)
        if start:
            first = start + 1 if fault == "other range" else start
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(content)}")
        if state.tells_size:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "GET":
            self._send_body(body, fault)

    def _send_body(self, body: bytes, fault: str | None) -> None:
        if fault == "silent":
            threading.Event().wait(1.0)
        if fault in ("cut", "late cut", "reset", "silent"):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            if fault == "late cut":
                threading.Event().wait(0.3)
            if fault == "reset":
                self.connection.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER of 0: RST, not FIN
                self.connection.close()
        elif self.state.tells_size:
            self.wfile.write(body)
        else:
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    def log_message(self, format: str, *args: object) -> None:
        pass


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away early is none of ours."""


@contextlib.contextmanager
def web_server(
    files: dict[str, bytes], handler: type[BaseHTTPRequestHandler] = _Handler
) -> Iterator[WebServer]:
    """A web server of these files, by path from the root."""
    state = WebServer(files)
    own = type("Handler", (handler,), {"state": state})
    http = _QuietServer(("127.0.0.1", 0), own)
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def files_below(folder: Path, prefix: str = "") -> dict[str, bytes]:
    """The files of a folder by their paths in it, with something before each."""
    return {
        f"{prefix}{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- object stores ----------------------------------------------------------------------------------------------------


class ObjectStore:
    """A store behind fsspec: `url` is its bucket's address."""

    def __init__(self, fs: Any, url: str) -> None:
        self.fs, self.url, self._bucket = fs, url, url.partition("://")[2]

    def put(self, files: dict[str, bytes]) -> None:
        """Stores files by key."""
        for key, content in files.items():
            self.fs.pipe_file(f"{self._bucket}/{key}", content)


@contextlib.contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An S3 server with one empty bucket; the environment leads here."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()  # its buckets are those of all servers in this process
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        fs = s3fs.S3FileSystem()
        fs.mkdir("corpora")
        yield ObjectStore(fs, "s3://corpora")
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


@contextlib.contextmanager
def gcs_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A Cloud Storage server with one empty bucket; the environment leads here."""
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="corpora")
    server.start()
    port = server._api._httpd.server_port
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks for the kind of bucket by gRPC
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
    import fsspec

    fsspec.config.set_conf_env(fsspec.config.conf)
    import gcsfs

    gcsfs.GCSFileSystem.clear_instance_cache()
    try:
        yield ObjectStore(gcsfs.GCSFileSystem(token="anon"), "gs://corpora")
    finally:
        server.stop()
        fsspec.config.conf.pop("gs", None)
        gcsfs.GCSFileSystem.clear_instance_cache()


_COMMIT = "0" * 40


class _Hub(_Handler):
    """The few endpoints of the Hugging Face Hub that reading one data set needs; its files are those of `state`."""

    api, resolved = "/api/datasets/owner/name", "/datasets/owner/name/resolve/main/"

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if match := re.match(rf"{self.api}/tree/\w+/?", path):
            self._tree(path[match.end() :])
        elif path.startswith(f"{self.api}/paths-info/"):
            self._paths_info()
        elif path.startswith(self.api):
            self._json({"id": "owner/name", "sha": _COMMIT, "siblings": []})
        elif path.startswith("/api/"):
            self.send_error(404)
        else:
            super()._answer()

    def do_POST(self) -> None:
        self._answer()

    def _entry(self, path: str) -> dict[str, Any]:
        content = self.state.files[self.resolved + path]
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _paths(self) -> list[str]:
        return [path.removeprefix(self.resolved) for path in self.state.files]

    def _tree(self, folder: str) -> None:
        self.state.asked.append(("LIST", folder, None))
        below = [path for path in self._paths() if not folder or path.startswith(folder + "/")]
        rest = {path: path.removeprefix(folder).lstrip("/") for path in below}
        found = [
            self._entry(path)
            for path in below
            if "/" not in rest[path] or "recursive=true" in self.path.lower()
        ]
        names = {rest[path].split("/")[0] for path in below if "/" in rest[path]}
        found += [
            {"type": "directory", "path": f"{folder}/{name}".lstrip("/"), "oid": "1"}
            for name in sorted(names)
        ]
        self._json(found)

    def _paths_info(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        wanted = (
            json.loads(body)["paths"] if body.startswith("{") else [unquote(body.rpartition("paths=")[2])]
        )
        found: list[dict[str, Any]] = []
        for path in wanted:
            if path in self._paths():
                found.append(self._entry(path))
            elif any(one.startswith(path + "/") for one in self._paths()):
                found.append({"type": "directory", "path": path, "oid": "1"})
        self._json(found)

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _ModelHub(_Hub):
    """The same for one model, which is fetched by its commit."""

    api, resolved = "/api/models/owner/name", f"/owner/name/resolve/{_COMMIT}/"

    def end_headers(self) -> None:
        self.send_header("X-Repo-Commit", _COMMIT)
        super().end_headers()


@contextlib.contextmanager
def hub_server(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, *, of_model: bool = False
) -> Iterator[WebServer]:
    """A Hub with one data set, `hf://datasets/owner/name`, or one model, `owner/name`; the environment leads here."""
    kind = _ModelHub if of_model else _Hub
    with web_server({kind.resolved + path: content for path, content in files.items()}, kind) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)  # both are read at its import
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        from huggingface_hub import HfFileSystem

        HfFileSystem.clear_instance_cache()
        yield server
        HfFileSystem.clear_instance_cache()
