"""A program at a real terminal, for tests that type."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path


class Terminal:
    """A real terminal with a program in it."""

    def __init__(self, *command: object, cwd: Path) -> None:
        self.own, its = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=os.environ | {"TERM": "dumb", "COLUMNS": "80"},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=lambda: os.close(
                os.open(os.ttyname(0), os.O_RDWR)
            ),  # it becomes the session's terminal
        )
        os.close(its)

    def type(self, keys: str) -> None:
        os.write(self.own, keys.encode())

    def wait_for(self, words: str, *, seconds: float = 60) -> None:
        """Reads on until the words are shown, from after the last ones that were waited for."""
        ends = time.monotonic() + seconds
        while words not in self.shown:
            assert time.monotonic() < ends, f"no {words!r} in {self.shown[-500:]!r}"
            if select.select([self.own], [], [], 0.1)[0]:
                self.shown += os.read(self.own, 65536).decode("utf-8", "replace")
        self.shown = self.shown.partition(words)[2]

    def close(self) -> None:
        """Ends the program, whatever it does."""
        self.process.kill()
        os.close(self.own)
