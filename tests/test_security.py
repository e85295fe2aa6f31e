"""What docs/security.md claims: nothing of ours runs what it reads, names in archives reach no disk, secrets are written nowhere."""

import ast
import base64
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from sockets import listening_addresses, reachable_by_others
from tiny_data import build_plainly, tiny_documents

from storage.errors import ShardError
from storage.shards import write_shard
from storage.workspace import Workspace

ROOT = Path(__file__).parent.parent
MODULES = [
    path
    for package in ("flows", "tasks", "model", "storage")
    for path in sorted((ROOT / package).rglob("*.py"))
]
#: Of modules that make objects, or run programs, of bytes: who may use them, between processes of ours that it started itself.
EXECUTING = {
    "pickle": set[str](), "cPickle": set[str](), "_pickle": set[str](), "cloudpickle": set[str](), "dill": set[str](),
    "joblib": set[str](), "marshal": set[str](), "shelve": set[str](), "yaml": {"flows/deployment_file.py"}, "code": set[str](),
    "multiprocessing": {"tasks/workers.py"},
}  # fmt: skip
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
}
#: Between the processes of one training, which `tasks/launch.py` started.
OBJECTS = {"all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list"}
MAY_EXCHANGE_OBJECTS = {"model/ranks.py"}


def dangers(path: Path, root: Path = ROOT) -> list[str]:
    """What a file does that could run what it reads."""
    name, found = path.relative_to(root).as_posix(), []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        found += [one for one in modules if name not in EXECUTING.get(one.split(".")[0], {name})]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in CALLS else []
            # yaml.safe_load makes words, numbers, lists and mappings; the rest of yaml makes objects.
            found += [called] if called.startswith("yaml.") and called != "yaml.safe_load" else []
            told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            found += [called] if called == "np.load" and told.get("allow_pickle") != "False" else []
            found += [
                ast.unparse(keyword)
                for keyword in node.keywords
                if (keyword.arg in ("shell", "allow_pickle", "trust_remote_code"))
                and ast.unparse(keyword.value) != "False"
            ]
            if called.rpartition(".")[2] in OBJECTS and name not in MAY_EXCHANGE_OBJECTS:
                found.append(called)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_runs_what_it_reads(path: Path) -> None:
    assert dangers(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from dill import loads", "import multiprocessing.pool", "eval(text)", "exec(text)",
        "torch.load(path)", "torch.load(path, weights_only=True)", "np.load(path, allow_pickle=True)", "np.load(path)",
        "yaml.load(text)\nimport yaml", "subprocess.run(line, shell=True)", "os.system(line)",
        "distributed.broadcast_object_list(objects)", "f(trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_check_itself_finds_each_danger(line: str, tmp_path: Path) -> None:
    bad = tmp_path / "tasks" / "bad.py"
    bad.parent.mkdir()
    bad.write_text(line)
    assert dangers(bad, tmp_path)


def tar_of(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **pax: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.pax_headers = kind, link, pax
    made.size = 3 if kind == tarfile.REGTYPE else 0
    return made


def long_name_of_4_gb() -> bytes:
    """A GNU header that claims a name of 4 GB to follow."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 4 << 30
    return header.tobuf(tarfile.GNU_FORMAT) + b"a" * 4096


HOSTILE = {
    "up": tar_of(member("../../escaped.txt")),
    "up by pax": tar_of(member("fine.txt", path="../../escaped.txt")),
    "absolute": tar_of(member("/tmp/brickroad-escaped.txt")),
    "symbolic link": tar_of(member("link", tarfile.SYMTYPE, "../../")),
    "hard link": tar_of(member("link", tarfile.LNKTYPE, "/etc/passwd")),
    "device": tar_of(member("null", tarfile.CHRTYPE)),
    "block device": tar_of(member("disk", tarfile.BLKTYPE)),
    "pipe": tar_of(member("pipe", tarfile.FIFOTYPE)),
    "long name": long_name_of_4_gb(),
    "nul": tar_of(member("fine.txt", path="a\0b.txt")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_its_names_reach_no_disk(
    name: str, tiny_corpus: Path, workspace: Workspace, tmp_path: Path
) -> None:
    (tiny_corpus / "hostile.tar").write_bytes(HOSTILE[name])
    before = {path for path in tmp_path.rglob("*") if workspace.root not in path.parents}
    with pytest.raises(ShardError, match=r"hostile\.tar: "):
        build_plainly(tiny_corpus, workspace)
    assert {path for path in tmp_path.rglob("*") if workspace.root not in path.parents} == before
    assert not Path("/tmp/brickroad-escaped.txt").exists()
    for path in workspace.documents.iterdir():
        assert not path.is_symlink()
        own = path.name == "known-files.json"
        assert own or set(path.name.split("-")[0].split(".")[0]) <= set("0123456789abcdef"), (
            "named by a sha256"
        )


def test_odd_names_are_text_and_never_paths(workspace: Workspace, tmp_path: Path) -> None:
    names = ["a\nb", "C:\\windows\\x", "~root", "$(touch x)", "a" * 4000, "-rf", "con", "\x1b[2J"]
    folder = tmp_path / "odd"
    documents = zip(names * 5, tiny_documents(40), strict=True)
    write_shard(folder / "a.xz", [(name, text.encode()) for name, text in documents])
    dataset = build_plainly(folder, workspace, val_fraction=0.3)
    assert dataset.manifest.train.documents + dataset.manifest.val.documents == 40
    written = {path.name for path in tmp_path.rglob("*")}
    assert not any(name in written or name[:9] in written for name in names)


SECRETS = {
    "AWS_ACCESS_KEY_ID": "Xk71aSecret",
    "AWS_SECRET_ACCESS_KEY": "Xk72bSecret",
    "AWS_SESSION_TOKEN": "Xk73cSecret",
    "GOOGLE_API_KEY": "Xk74dSecret",
    "PREFECT_API_AUTH_STRING": "admin:Xk75eSecret",
    "MLFLOW_TRACKING_PASSWORD": "Xk76fSecret",
    "MLFLOW_TRACKING_TOKEN": "Xk77gSecret",
    "HF_TOKEN": "Xk78hSecret",
    "BRICKROAD_API_KEY": "Xk79iSecret",
}
USER, PASSWORD, TOKEN = "reader", "Xk80jSecret", "Xk81kSecret"


@pytest.fixture
def guarded(tiny_corpus: Path) -> Iterator[str]:
    """An address that gives a shard to those who have its password and its token."""
    right = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Guard(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tiny_corpus))

        def send_head(self) -> Any:
            if self.headers.get("authorization") != right or TOKEN not in self.path:
                return self.send_error(401)
            return super().send_head()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Guard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"127.0.0.1:{server.server_port}/urlsf_subset00-1_data.xz"
    yield f"http://{USER}:{PASSWORD}@{place}?token={TOKEN}"
    server.shutdown()
    server.server_close()


@pytest.mark.timeout(900)
def test_secrets_are_written_nowhere_and_the_server_of_a_run_is_on_loopback(
    guarded: str, workspace: Workspace, tmp_path: Path
) -> None:
    tiny = {
        "training.steps": "4", "training.batch_size": "4", "network.block_size": "16", "network.width": "16",
        "network.layers": "1", "network.heads": "2",
    }  # fmt: skip
    settings = [word for name, value in tiny.items() for word in ("--set", f"{name}={value}")]
    command = [Path(sys.executable).parent / "brickroad", "run", guarded, "--val-fraction", "0.4", *settings]
    told = tmp_path / "told"
    with told.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--workspace", workspace.root, "--json"],
            # The Prefect home of this session's flow tests is not to be that of a program of its own.
            env={name: value for name, value in os.environ.items() if name != "PREFECT_HOME"} | SECRETS,
            stdout=file,
            stderr=file,
        )
        seen = set[str]()
        while process.poll() is None:
            seen |= listening_addresses(psutil.Process(process.pid))
            time.sleep(0.2)
    assert process.returncode == 0, told.read_text()
    assert seen, "a Prefect server of its own"
    assert reachable_by_others(seen) == set()
    secrets = {value.rpartition(":")[2] for value in SECRETS.values()} | {PASSWORD, TOKEN}
    spelt = {secret.encode() for secret in secrets}
    for pair in (f"{USER}:{PASSWORD}", SECRETS["PREFECT_API_AUTH_STRING"]):
        spelt.add(base64.b64encode(pair.encode()).rstrip(b"="))
    files = [told, *(path for path in workspace.root.rglob("*") if path.is_file())]
    assert any(path.name == "mlflow.db" for path in files)
    assert any("prefect" in path.parts and path.suffix == ".db" for path in files)
    leaks = [(path, secret) for path in files for secret in spelt if secret in path.read_bytes()]
    assert leaks == []


def test_the_password_of_a_tracking_server_is_in_no_link_and_no_message(workspace: Workspace) -> None:
    from tasks.tracking import Tracker, TrackingError

    tracker = Tracker(workspace)
    tracker.uri = "http://reader:Xk82Secret@127.0.0.1:9"
    assert "Xk82Secret" not in tracker.run_url("a")
    with pytest.raises(TrackingError) as told:
        tracker.resume_run("0" * 32, {})
    assert "MLflow at http://127.0.0.1:9" in str(told.value)
    assert "Xk82Secret" not in str(told.value)


def test_an_address_of_prefect_is_told_without_its_password(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.environment import prepare

    monkeypatch.setenv("PREFECT_API_URL", "http://reader:Xk83Secret@127.0.0.1:9/api")
    prepare(workspace)
    told = capsys.readouterr().err
    assert "No Prefect server answers" in told
    assert "Xk83Secret" not in told
