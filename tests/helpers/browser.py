"""A headless Chromium over the DevTools protocol, spoken on two pipes: no driver, no WebSocket, nothing to install."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDED = "needs a browser: apt-get install -y chromium"
PATIENCE = 60.0  # seconds until something that must happen counts as failed


class Page:
    """One page. `problems` are console errors and exceptions, `requested` the addresses that it has asked for."""

    def __init__(self, send: int, receive: int) -> None:
        self.send, self.receive = send, receive
        self.number, self.session, self.rest = 0, "", b""
        self.messages: deque[dict] = deque()
        self.problems: list[str] = []
        self.requested: list[str] = []

    # ---- the protocol: messages of JSON, each ended by a zero byte

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        os.write(
            self.send, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        for answer in self._incoming(time.monotonic() + PATIENCE):
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)
        raise AssertionError(f"{method}: no answer in {PATIENCE} seconds")

    def _incoming(self, until: float) -> Iterator[dict]:
        while (left := until - time.monotonic()) > 0:
            *whole, self.rest = self.rest.split(b"\0")
            self.messages.extend(map(json.loads, whole))
            if self.messages:
                yield self.messages.popleft()
            elif select([self.receive], [], [], left)[0]:
                read = os.read(self.receive, 1 << 20)
                assert read, "the browser has ended"
                self.rest += read

    def _note(self, event: dict) -> None:
        method, params = event.get("method", ""), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])

    # ---- what a reader does

    def open(self, url: str, width: int = 1280, height: int = 900, phone: bool = False) -> None:
        self.size(width, height, phone)
        self.call("Page.navigate", url=url)

    def size(self, width: int, height: int = 900, phone: bool = False, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def prefer(self, **features: str) -> None:
        """Media features of the reader's system, such as prefers_color_scheme="dark"."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=named)

    def js(self, expression: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str) -> Any:
        """The first value of an expression that is true."""
        until = time.monotonic() + PATIENCE
        while not (found := self.js(expression)):
            assert time.monotonic() < until, f"never true: {expression}; problems: {self.problems}"
            time.sleep(0.02)
        return found

    def press(self, key: str, text: str = "") -> None:
        codes = {"Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        text = "\r" if key == "Enter" else text
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def screenshot(self, file: Path, whole: bool = True) -> None:
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A page in a browser of its own, with its profile in the folder."""
    to_read, to_write = os.pipe(), os.pipe()
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--disable-sync",
               f"--user-data-dir={folder / 'profile'}", "about:blank"]  # fmt: skip
    ours = (to_read[1], to_write[0])

    def place() -> None:  # the browser reads commands from 3 and writes its answers to 4
        high = [os.dup(to_read[0]), os.dup(to_write[1])]
        while min(high) < 10:
            high = [os.dup(fd) for fd in high]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    running = subprocess.Popen(
        command, preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for fd in (to_read[0], to_write[1]):
        os.close(fd)
    page = Page(*ours)
    try:
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        yield page
    finally:
        running.kill()
        running.wait()
        for fd in ours:
            os.close(fd)


def picture(url: str, prompt: str, out: str, **fields: object) -> None:
    """A picture of the page of a running server after an answer, for the README.

    Such as: PYTHONPATH=tests python -c "from helpers.browser import picture; picture('http://127.0.0.1:8000/', '7 6 2
    -> 11', 'live.png', paths=4, seed=8)"
    """
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as page:
        page.open(url)
        page.size(1100, 560, scale=1.5)
        page.until("document.documentElement?.dataset.ready === 'true'")
        for name, value in fields.items():
            page.js(f"document.getElementById('{name}').value = {json.dumps(value)}")
        page.js("document.getElementById('settings').dispatchEvent(new Event('input'))")
        page.type(prompt)
        page.press("Enter")
        page.until("document.getElementById('status').textContent.startsWith('Finished')")
        page.js("document.activeElement.blur()")
        height = page.js("Math.ceil(document.getElementById('trace').getBoundingClientRect().bottom) + 28")
        page.size(1100, height, scale=1.5)
        page.screenshot(Path(out), whole=False)
