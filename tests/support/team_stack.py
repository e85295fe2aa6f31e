"""The team stack of `deploy/` on loopback: PostgreSQL, S3 (moto's), Prefect and MLflow with passwords, set up by its own scripts."""

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from programs import free_port

from flows.processes import Processes

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
BIN = Path(sys.executable).parent
BUCKET = "brickroad"


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs; the newest version's. Skips the test if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        pytest.skip("no PostgreSQL server on this machine (Debian: apt install postgresql)")
    return Path(on_path).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Every password of the stack, new each time; a test can ask of any text whether it has one."""

    postgres: str
    prefect_database: str
    mlflow_database: str
    prefect: str
    mlflow_admin: str
    mlflow_worker: str
    mlflow_session_key: str
    s3: str

    @classmethod
    def new(cls) -> "Secrets":
        """Random ones."""
        return cls(**{name: f"{name}-{secrets.token_hex(12)}" for name in cls.__slots__})

    def found_in(self, content: bytes) -> list[str]:
        """The names of those that stand in the content."""
        return [name for name in self.__slots__ if getattr(self, name).encode() in content]


class Postgres:
    """A PostgreSQL server of its own, run by another user where we are root, which it refuses."""

    def __init__(self, password: str) -> None:
        self.programs = postgres_programs()
        self.port = free_port()
        self.user = _unprivileged()
        self.folder = Path(tempfile.mkdtemp(prefix="brickroad-postgres-"))
        password_file = self.folder / "password"
        password_file.write_text(password)
        for path in (self.folder, password_file):
            if self.user:
                shutil.chown(path, self.user)
        self._run(
            "initdb", "--pgdata", self.folder / "data", "--username", "postgres", "--auth", "scram-sha-256",
            "--pwfile", password_file, "--encoding", "UTF8", "--locale", "C.UTF-8",
        )  # fmt: skip
        password_file.unlink()

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "log"

    def start(self) -> None:
        """Returns when it takes connections."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        self._run(
            "pg_ctl", "start", "--wait", "--pgdata", self.folder / "data", "--log", self.log, "-o", options
        )

    def stop(self) -> None:
        """Breaks all connections off."""
        self._run("pg_ctl", "stop", "--wait", "--mode", "fast", "--pgdata", self.folder / "data")

    def remove(self) -> None:
        """Stops it if it runs, and deletes everything."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self.programs / program, *map(str, arguments)],
            user=self.user,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"]},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


def _unprivileged() -> str | None:
    """The user to be, where we are root; None where we are not."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


class TeamStack:
    """The whole stack, up. `worker` are the variables of who trains on it; `operator` those of who keeps it."""

    def __init__(self, logs: Path) -> None:
        self.secrets = Secrets.new()
        self.postgres = Postgres(self.secrets.postgres)
        self.logs = logs
        self.s3_url, self.prefect_url, self.mlflow_url = (f"http://127.0.0.1:{free_port()}" for _ in range(3))
        self.operator = self._base() | {
            "PATH": f"{BIN}:{self.postgres.programs}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.postgres.port),
            "PREFECT_DATABASE_PASSWORD": self.secrets.prefect_database,
            "MLFLOW_DATABASE_PASSWORD": self.secrets.mlflow_database,
            "ARTIFACTS_BUCKET": BUCKET,
            "AWS_ENDPOINT_URL": self.s3_url,
            "AWS_ACCESS_KEY_ID": "brickroad",
            "AWS_SECRET_ACCESS_KEY": self.secrets.s3,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.worker = self._base() | {
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "PREFECT_API_AUTH_STRING": f"brickroad:{self.secrets.prefect}",
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLFLOW_TRACKING_USERNAME": "brickroad",
            "MLFLOW_TRACKING_PASSWORD": self.secrets.mlflow_worker,
        }
        self._s3 = Processes(logs, self.operator)
        self._servers: list[Processes] = []

    def _base(self) -> dict[str, str]:
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "MPLCONFIGDIR")
        return {name: os.environ[name] for name in kept if name in os.environ} | {
            "PREFECT_HOME": str(self.logs / "prefect-home"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }

    def start(self) -> None:
        """Everything in the order of compose.yaml."""
        self.postgres.start()
        self.start_storage()
        self.script("databases.sh", PGUSER="postgres", PGPASSWORD=self.secrets.postgres)
        self.script("migrate.sh")
        self.start_servers()
        self.script("register.sh", **self.registering())

    def registering(self) -> dict[str, str]:
        """What register.sh wants."""
        return self.worker | {
            "PATH": self.operator["PATH"],
            "MLFLOW_ADMIN_PASSWORD": self.secrets.mlflow_admin,
            "MLFLOW_WORKER_PASSWORD": self.secrets.mlflow_worker,
        }

    def start_storage(self) -> None:
        """The S3 server, without a bucket."""
        port = self.s3_url.rpartition(":")[2]
        self._s3.start("s3", ["moto_server", "-H", "127.0.0.1", "-p", port])
        self._s3.wait_for("s3", f"{self.s3_url}/moto-api/")

    def stop_storage(self) -> None:
        """With it all buckets are gone: moto keeps them in memory."""
        self._s3.stop()

    def start_servers(self) -> None:
        """Prefect and MLflow, with the settings of compose.yaml."""
        prefect_port, mlflow_port = (url.rpartition(":")[2] for url in (self.prefect_url, self.mlflow_url))
        for name, command, variables, health in (
            (
                "prefect",
                ["prefect", "server", "start", "--host", "127.0.0.1", "--port", prefect_port],
                {
                    "PGPASSWORD": self.secrets.prefect_database,
                    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://prefect@/prefect",
                    "PREFECT_SERVER_API_AUTH_STRING": f"brickroad:{self.secrets.prefect}",
                    "PREFECT_API_AUTH_STRING": f"brickroad:{self.secrets.prefect}",
                },
                f"{self.prefect_url}/api/ready",
            ),
            (
                "mlflow",
                [
                    "mlflow",
                    "server",
                    "--app-name",
                    "basic-auth",
                    "--workers",
                    "1",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    mlflow_port,
                    "--allowed-hosts",
                    f"127.0.0.1:{mlflow_port}",
                ],
                {
                    "PGPASSWORD": self.secrets.mlflow_database,
                    "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://mlflow@/mlflow",
                    "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
                    "MLFLOW_AUTH_CONFIG_PATH": str(DEPLOY / "mlflow-auth.ini"),
                    "MLFLOW_AUTH_ADMIN_PASSWORD": self.secrets.mlflow_admin,
                    "MLFLOW_FLASK_SERVER_SECRET_KEY": self.secrets.mlflow_session_key,
                },
                f"{self.mlflow_url}/health",
            ),
        ):
            processes = Processes(self.logs, self.operator | variables)
            self._servers.append(processes)
            processes.start(name, command)
            processes.wait_for(name, health)

    def stop_servers(self) -> None:
        """Prefect and MLflow; PostgreSQL and S3 go on."""
        for processes in self._servers:
            processes.stop()
        self._servers = []

    def remove(self) -> None:
        """Ends all of it."""
        self.stop_servers()
        self._s3.stop()
        self.postgres.remove()

    def script(self, name: str, *arguments: object, **variables: str) -> str:
        """Runs a script of `deploy/` as an operator does; returns what it says."""
        done = subprocess.run(
            [DEPLOY / name, *map(str, arguments)],
            env=self.operator | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def psql(self, database: str, statement: str) -> str:
        """What a statement answers, asked by the superuser."""
        return self._as_superuser(
            "psql", "--no-psqlrc", "--tuples-only", "--command", statement, database
        ).decode()

    def dump(self, database: str) -> bytes:
        """Everything in a database, as text."""
        return self._as_superuser("pg_dump", database)

    def _as_superuser(self, program: str, *arguments: str) -> bytes:
        variables = {"PGUSER": "postgres", "PGPASSWORD": self.secrets.postgres}
        command = [self.postgres.programs / program, *arguments]
        return subprocess.run(command, env=self.operator | variables, check=True, capture_output=True).stdout
