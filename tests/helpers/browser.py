"""A headless Chromium for tests of pages, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium on the PATH (Debian: apt-get install chromium); .ci/run installs it",
)
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-software-rasterizer",
    "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-port=0", "--hide-scrollbars",
)  # fmt: skip
_DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
_PATIENCE = 60  # seconds, on a busy machine
_KEYS = {"Enter": ("\r", 13), "Escape": ("", 27), "Tab": ("", 9), "End": ("", 35), "Home": ("", 36),
         "ArrowLeft": ("", 37), "ArrowUp": ("", 38), "ArrowRight": ("", 39), "ArrowDown": ("", 40),
         "PageDown": ("", 34)}  # fmt: skip


def _connected(address: str) -> websocket.WebSocket:
    """Chromium answers whoever names no origin, and nobody that names one it was not told."""
    return websocket.create_connection(address, timeout=_PATIENCE, suppress_origin=True)


class Tab:
    """One tab; whatever its pages complain about is in ``complaints``."""

    def __init__(self, address: str) -> None:
        self._socket = _connected(address)
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; events that come before its answer are noted."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        what = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(str(what["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded":
            self.complaints.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")
        elif event["method"] == "Runtime.consoleAPICalled":
            self.complaints.append(str(what["args"]))
        elif event["method"] == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif event["method"] == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {what['message']}")

    def run(self, code: str) -> Any:
        """The value of an expression, after its promise if it is one."""
        answer = self.send(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def run_for_node(self, selector: str) -> str:
        """The handle of an element, for commands of the protocol."""
        code = f"document.querySelector({json.dumps(selector)})"
        return str(self.send("Runtime.evaluate", expression=code)["result"]["objectId"])

    def wait(self, condition: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + _PATIENCE
        while not self.run(condition):
            assert time.monotonic() < end, f"{condition} did not come true; {self.complaints}"
            time.sleep(0.02)

    def open(self, address: str | Path) -> None:
        """Go to a page and wait for its script."""
        self.send("Page.navigate", url=address.as_uri() if isinstance(address, Path) else address)
        self.wait("document.documentElement?.dataset.ready !== undefined")

    def settle(self) -> None:
        """Until what the last event asked for is drawn."""
        self.run(_DRAWN)
        self.run("vsmReport.showing")

    def size(self, width: int, height: int) -> None:
        """The window's size in pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip

    def media(self, **features: str) -> None:
        """What media queries are told, like ``prefers_color_scheme="dark"``."""
        listed = [{"name": name.replace("_", "-"), "value": v} for name, v in features.items()]
        self.send("Emulation.setEmulatedMedia", features=listed)

    def key(self, name: str, modifiers: int = 0) -> None:
        """Press and release a key of the keyboard."""
        text, code = _KEYS[name]
        event = {"key": name, "code": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)
        self.settle()

    def click(self, x: float, y: float) -> None:
        """Press and release the mouse."""
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def click_on(self, selector: str) -> None:
        """Click the middle of an element, scrolled into sight, once what moves it is drawn."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.run(_DRAWN)
        x, y = self.run(
            f"(b => [b.x + b.width / 2, b.y + b.height / 2])({element}.getBoundingClientRect())"
        )
        self.click(x, y)

    def fill(self, selector: str, value: str, event: str = "input") -> None:
        """Set the value of an input as its reader would."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            f"e.value = {json.dumps(value)}; e.dispatchEvent(new Event({event!r}, "
            "{bubbles: true})) })()"
        )
        self.settle()

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save a PNG of the window or the whole page."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """A browser with one tab; its profile is a new folder."""
    assert CHROMIUM is not None
    with (profile.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(
            [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield Tab(_tab_address(profile / "DevToolsActivePort", process))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tab_address(port_file: Path, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + _PATIENCE
    while not (port_file.exists() and port_file.read_text().count("\n")):
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        assert time.monotonic() < end, "Chromium did not open its port"
        time.sleep(0.05)
    port, path = port_file.read_text().split("\n")[:2]
    browser = _connected(f"ws://127.0.0.1:{port}{path}")
    browser.send(json.dumps({"id": 1, "method": "Target.createTarget",
                             "params": {"url": "about:blank"}}))  # fmt: skip
    while True:
        answer = json.loads(browser.recv())
        if answer.get("id") == 1:
            browser.close()
            return f"ws://127.0.0.1:{port}/devtools/page/{answer['result']['targetId']}"
