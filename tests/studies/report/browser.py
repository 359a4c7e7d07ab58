"""A headless Chromium, driven by the DevTools protocol through a pipe, so that no driver is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE = 60  # seconds for one answer
#: The browser reads commands from the file descriptor 3, and writes answers to 4.
_EXECUTE = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a browser.

    Args:
        profile: folder for its profile.
    """

    def __init__(self, profile: Path) -> None:
        from_child, to_us = self._pipe()
        to_child, from_us = self._pipe()
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        command = [find_browser(), *arguments, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        redirected = [sys.executable, "-S", "-c", _EXECUTE, str(to_child), str(to_us), *command]
        self.process = subprocess.Popen(
            redirected, pass_fds=(to_child, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_child)
        os.close(to_us)
        self.reader, self.writer = os.fdopen(from_child, "rb"), os.fdopen(from_us, "wb")
        os.set_blocking(self.reader.fileno(), False)
        self.buffer, self.number, self.session, self.events = b"", 0, None, []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    @staticmethod
    def _pipe() -> tuple[int, int]:
        """Ends of a pipe whose numbers are above those that the browser reads and writes."""
        ends = os.pipe()
        high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
        for end in ends:
            os.close(end)
        return high

    def send(self, method: str, **params) -> dict:
        """Call a method of the protocol, and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.writer.write(json.dumps(message).encode() + b"\0")
        self.writer.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict:
        end = time.monotonic() + _PATIENCE
        while b"\0" not in self.buffer:
            assert time.monotonic() < end, "the browser does not answer"
            self.buffer += self.reader.read(1 << 20) or b""
            if b"\0" not in self.buffer:
                time.sleep(0.01)
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file for somebody who asks for less motion, and wait until it is shown."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        # Without motion: a place that is read while the page still scrolls is another one when the mouse gets there.
        wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.events = []
        self.send("Page.navigate", url=page.as_uri())
        end = time.monotonic() + _PATIENCE
        while not self.value("document.readyState === 'complete' && location.protocol === 'file:'"):
            assert time.monotonic() < end, f"{page} is not shown"
            time.sleep(0.05)

    def value(self, expression: str):
        """Value of an expression of JavaScript."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, as somebody at the keyboard does."""
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}[key]
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse, move it and let it go."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write a picture of the page."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def requests(self) -> list[str]:
        """Addresses that the page asked for, but for data inside it."""
        urls = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """What the browser complained about."""
        entries = [event["params"]["entry"] for event in self.events if event.get("method") == "Log.entryAdded"]
        return [entry["text"] for entry in entries] + [
            str(event) for event in self.events if event.get("method") == "Runtime.exceptionThrown"
        ]

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)
        self.reader.close()
        self.writer.close()
