"""The audit of pinned versions, by pip-audit itself against a source of advisories on loopback: what it says, and when it fails."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

AUDIT = Path(__file__).parent.parent / ".ci" / "audit.py"
ADVISORY = {
    "id": "PYSEC-2026-1",
    "summary": "it opens doors",
    "published": "2026-01-01T00:00:00Z",
    "aliases": ["CVE-2026-1"],
    "affected": [
        {
            "package": {"name": "left-door", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    """Knows of one package that has a vulnerability, as OSV answers."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known = asked["package"]["name"] == "left-door" and asked["version"] == "1.0"
        body = json.dumps({"vulns": [ADVISORY]} if known else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def source() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Advisories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


def audit(lock: Path, pins: str, address: str) -> tuple[int, str, str]:
    lock.write_text(pins)
    command = [sys.executable, AUDIT, lock, "--vulnerability-service", "osv", "--osv-url", address]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_a_known_vulnerability_fails_and_is_named(tmp_path: Path, source: str) -> None:
    code, words, _ = audit(tmp_path / "lock", "left-door==1.0\nright-door==1.0\n", source)
    assert code == 1
    assert words == "audit: left-door 1.0 has PYSEC-2026-1, fixed in 2.0\n"


def test_without_any_it_passes_and_says_of_how_many(tmp_path: Path, source: str) -> None:
    code, words, _ = audit(tmp_path / "lock", "left-door==2.0\nright-door==1.0\n", source)
    assert (code, words) == (0, "audit: 2 packages have no known vulnerability\n")


def test_want_of_network_is_said_in_one_line_and_fails_nothing(tmp_path: Path, source: str) -> None:
    nobody = source.rpartition(":")[0] + ":9/v1/query"
    code, words, errors = audit(tmp_path / "lock", "left-door==1.0\n", nobody)
    assert (code, words) == (0, "audit: NOT AUDITED: no source of advisories answers from here\n")
    assert not errors


def test_a_fault_of_the_audit_itself_fails(tmp_path: Path, source: str) -> None:
    code, words, errors = audit(tmp_path / "lock", "this is == no lock\n", source)
    assert code == 1
    assert not words
    assert errors
