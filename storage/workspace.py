"""Where everything lies: one folder, and one method for each kind of thing in it."""

import json
import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from storage.files import exclusive_lock

WORKSPACE_VARIABLE = "BRICKROAD_WORKSPACE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The folder that holds all that brickroad makes. Deleting it forgets everything."""

    root: Path

    @classmethod
    def at(cls, path: str | Path | None = None) -> "Workspace":
        """The workspace at `path`, else at $BRICKROAD_WORKSPACE, else at ./workspace."""
        chosen = path or os.environ.get(WORKSPACE_VARIABLE) or "workspace"
        return cls(root=Path(chosen).expanduser().absolute())

    @property
    def corpora(self) -> Path:
        """Downloaded and packed corpora, by name."""
        return self.root / "corpora"

    @property
    def documents(self) -> Path:
        """Stored text: one Parquet file and one record a shard, named by the shard's sha256."""
        return self.root / "documents"

    @property
    def tokens(self) -> Path:
        """Encoded parts of data sets that are being built."""
        return self.root / "tokens"

    @property
    def datasets(self) -> Path:
        """Finished data sets: <name>/<digest>/."""
        return self.root / "datasets"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints by run: <run>/step-<step>/."""
        return self.root / "checkpoints"

    @property
    def evaluations(self) -> Path:
        """What evaluations came to, by network and data set."""
        return self.root / "evaluations"

    @property
    def compiled(self) -> Path:
        """What torch.compile has compiled, so that a training that goes on need not wait for it again."""
        return self.root / "compiled"

    @property
    def mlflow(self) -> Path:
        """The tracking database and the artifacts of its runs."""
        return self.root / "mlflow"

    @property
    def journals(self) -> Path:
        """What trainings tell the tracker, by run, until it has heard all of it: <run>.jsonl."""
        return self.root / "journals"

    @property
    def prefect(self) -> Path:
        """The orchestrator's database, when no other server is set."""
        return self.root / "prefect"

    @property
    def leases(self) -> Path:
        """Who is at work here: a locked file a process."""
        return self.root / "leases"

    @property
    def chat_history(self) -> Path:
        """What was typed in `brickroad chat`, a line each."""
        return self.root / "chat-history"

    @property
    def services_file(self) -> Path:
        """Addresses of the services that `brickroad up` is running on this workspace."""
        return self.root / "services.json"

    def services(self) -> dict[str, str]:
        """What `brickroad up` has written of the addresses of its services; nothing if it does not run."""
        try:
            written: dict[str, str] = json.loads(self.services_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # a kill can cut off what was being written
            return {}
        return written

    def lock(self, name: str) -> AbstractContextManager[bool]:
        """The workspace's lock of that name, for one process at a time; yields whether it had to wait."""
        return exclusive_lock(self.root / f".{name}.lock")


def own_workspace(root: Path) -> Path:
    """Where this host has the workspace that another has at `root`: at $BRICKROAD_WORKSPACE, else there too."""
    return Workspace.at(os.environ.get(WORKSPACE_VARIABLE) or root).root


_PIECES = re.compile(r"[0-9]+|[^0-9]+")


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which `subset00-2` stands before `subset00-10`; total, so equal keys are equal names."""
    pieces = _PIECES.findall(name)
    return [(0, int(piece), "") if piece[0] in "0123456789" else (1, 0, piece) for piece in pieces], name
