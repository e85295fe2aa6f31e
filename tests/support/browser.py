"""A browser driven as a person would: Chromium without a window, by its own protocol (Chrome DevTools)."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
_PATIENCE_SECONDS = 60.0


class Page:
    """One page. What goes wrong in it (an exception, something its policy forbids) is kept in `complaints`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._numbers = connection, itertools.count()
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> Any:
        """The result of a command of the protocol."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=_PATIENCE_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            if message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, (script, done["exceptionDetails"])
        return done["result"].get("value")

    def until(self, script: str) -> None:
        """Waits for an expression to be true."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self.ask(script):
            assert time.monotonic() < deadline, (script, self.ask("document.body.innerText"), self.complaints)
            time.sleep(0.02)

    def open(self, url: str) -> None:
        """Goes there, and waits until it is there."""
        self.do("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """As of now the window is so large."""
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of an element."""
        middle = f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center"}});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        x, y = self.ask(middle)
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def fill(self, selector: str, text: str) -> None:
        """Types over what a field has."""
        self.click(selector)
        self.ask(f"document.querySelector({json.dumps(selector)}).select()")
        self.press("Backspace")
        if text:
            self.do("Input.insertText", text=text)

    def press(self, key: str, *, control: bool = False) -> None:
        """A key, down and up."""
        code = {"Enter": 13, "Backspace": 8}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.do(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=2 if control else 0,
            )

    def picture(self, path: Path) -> None:
        """What is to be seen, as PNG."""
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A fresh browser with one empty page; its files lie in the folder."""
    assert PROGRAM is not None
    process = subprocess.Popen(
        [
            PROGRAM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
            *("--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"),
        ],
        env=os.environ | {"HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with connect(_page_url(folder), max_size=None, proxy=None) as connection:
            yield Page(connection)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _page_url(folder: Path) -> str:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, IndexError, httpx.ConnectError):
            port = (folder / "DevToolsActivePort").read_text().splitlines()[0]
            targets = httpx.get(f"http://127.0.0.1:{port}/json").json()
            return next(str(one["webSocketDebuggerUrl"]) for one in targets if one["type"] == "page")
        time.sleep(0.1)
    raise AssertionError("the browser did not start")
