"""One process of a training by several: `python -m tasks.rank ASKED TOLD`, started by `tasks.launch`.

ASKED is a JSON file with the request, of which the first rank's holds for all; to TOLD it appends a line of JSON for each thing
that happens. Its exit status is 0 if it has told its end, be it a stop on request, and 1 if it has failed.
"""

import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from model.ranks import Ranks, joined_ranks
from storage.errors import StorageError
from storage.workspace import Workspace
from tasks.interruption import InterruptedByUser, StopRequests, end_with_parent
from tasks.session import Session
from tasks.training import finish
from tasks.training_request import TrainedModel, TrainingRequest

_TELL_SECONDS = 0.2


class Telling:
    """Progress, told to the process that shows it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps = 0
        self._told = time.monotonic()

    def tell(self, event: str, **facts: Any) -> None:
        """Something has happened."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "seconds": time.time()} | facts) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._told = 0.0
        self.advance(0)

    def advance(self, units: int, facts: str = "") -> None:
        """So many more steps are done."""
        self._steps += units
        if time.monotonic() - self._told > _TELL_SECONDS:
            self.tell("advanced", steps=self._steps, facts=facts)
            self._steps, self._told = 0, time.monotonic()


def main() -> None:
    """What the process does."""
    end_with_parent(signal.SIGKILL)
    asked, telling = json.loads(Path(sys.argv[1]).read_text()), Telling(Path(sys.argv[2]))
    try:
        with StopRequests() as stop, joined_ranks(asked["rendezvous"]) as ranks:
            trained = _train(asked, ranks, stop, telling)
        telling.tell("trained", model=asdict(trained) | {"checkpoint": str(trained.checkpoint)})
    except InterruptedByUser as error:
        telling.tell("stopped", message=str(error), signal_number=error.signal_number)
    except Exception as error:
        telling.tell("failed", **_told(error))
        sys.exit(1)


def _train(asked: dict[str, Any], ranks: Ranks, stop: StopRequests, telling: Telling) -> TrainedModel:
    session = Session(
        TrainingRequest.from_json(ranks.from_first(asked["request"])),
        Workspace.at(Path(asked["workspace"])),
        ranks=ranks,
        links=asked["links"],
    )
    steps, done = session.recipe.training.steps, session.training.step
    telling.tell("began", run_id=session.run.run_id, steps=steps, done=done)
    return finish(session, stop, telling)


def _told(error: Exception) -> dict[str, Any]:
    """An exception as plain values."""
    if isinstance(error, OSError):
        return {
            "kind": "OSError",
            "errno": error.errno,
            "message": error.strerror,
            "filename": error.filename,
        }
    known = isinstance(error, StorageError | ValueError | ArithmeticError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    kind = "ValueError" if isinstance(error, ValueError) else type(error).__name__
    return {"kind": kind, "message": message}


if __name__ == "__main__":
    main()
