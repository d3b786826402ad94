"""A headless Chromium driven through its DevTools protocol: what a page does when it is opened."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --remote-debugging-port=0"
).split()
SECONDS = 60


def executable() -> str | None:
    """The browser that ``ROCKSTUDY_BROWSER`` names, else the first one on the path."""
    names = (os.environ.get("ROCKSTUDY_BROWSER", ""), *NAMES)
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Browser:
    """One tab; closed with the ``with`` statement. ``events`` are all that the tab has sent."""

    def __init__(self, profile: Path) -> None:
        path = executable()
        assert path is not None
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # root cannot have one
        command = [path, *FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.events: list[dict[str, Any]] = []
        self.last = 0
        try:
            self.socket = websocket.create_connection(
                self._address(profile / "DevToolsActivePort"), timeout=SECONDS, suppress_origin=True
            )
            self.session = None
            (tab,) = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
            attached = self("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
            self.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self(f"{domain}.enable")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _address(self, file: Path) -> str:
        started = time.monotonic()
        while time.monotonic() - started < SECONDS and self.process.poll() is None:
            lines = file.read_text().splitlines() if file.is_file() else []
            if len(lines) >= 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.05)
        raise TimeoutError("the browser did not start")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait()

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        self.socket.send(
            json.dumps(message | ({"sessionId": self.session} if self.session else {}))
        )
        while (answer := self._receive()).get("id") != self.last:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        message = json.loads(self.socket.recv())
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, page: Path, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Load a file in a window of this size and colour scheme, and wait until it is there."""
        self.visit(page.resolve().as_uri(), width, height, scheme)

    def visit(self, url: str, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Load an address like `open`."""
        mobile = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self("Emulation.setDeviceMetricsOverride", **size)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self("Emulation.setEmulatedMedia", features=media)
        self.events.clear()
        self("Page.navigate", url=url)
        while not self.named("Page.loadEventFired"):
            self._receive()

    def wait_for(self, expression: str, seconds: float = SECONDS) -> None:
        """Wait until a JavaScript expression is true; `TimeoutError` that names it."""
        started = time.monotonic()
        while not self[expression]:
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"not true after {seconds:.0f} s: {expression}")
            time.sleep(0.2)

    def named(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events of one kind."""
        return [event["params"] for event in self.events if event["method"] == method]

    def __getitem__(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def frame(self) -> "Frame":
        """The one frame of the page once it is there, even if it is a process of its own."""
        started = time.monotonic()
        while time.monotonic() - started < SECONDS:
            found = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "iframe"]
            if found:
                attached = self(
                    "Target.attachToTarget", targetId=found[0]["targetId"], flatten=True
                )
                return Frame(self, attached["sessionId"])
            time.sleep(0.1)
        raise TimeoutError("the page has no frame of its own process")

    def press(self, key: str, code: int) -> None:
        """Press and release a key where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            about = {"type": kind, "key": key, "windowsVirtualKeyCode": code}
            self("Input.dispatchKeyEvent", **about, **(text if kind == "keyDown" else {}))

    def complaints(self) -> list[str]:
        """Console errors, exceptions, and what the security policy refused."""
        logged = [e["entry"]["text"] for e in self.named("Log.entryAdded")]
        thrown = [e["exceptionDetails"]["text"] for e in self.named("Runtime.exceptionThrown")]
        return logged + thrown + [str(e["args"]) for e in self.named("Runtime.consoleAPICalled")]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself and data in itself aside."""
        asked = [event["request"]["url"] for event in self.named("Network.requestWillBeSent")]
        return [url for url in asked[1:] if not url.startswith("data:")]

    def screenshot(self, path: Path, top: int = 0, whole: bool = False) -> None:
        """Write the window as a PNG, scrolled to ``top``; or the whole page."""
        self[f"window.scrollTo(0, {top})"]
        found = self("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


class Frame:
    """A frame of a tab, with expressions and calls like those of `Browser`."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session
        for domain in ("Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol in the frame and return its result."""
        outer, self.browser.session = self.browser.session, self.session
        try:
            return self.browser(method, **parameters)
        finally:
            self.browser.session = outer

    def __getitem__(self, expression: str) -> Any:
        """The value of a JavaScript expression in the frame."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = SECONDS) -> None:
        """Wait until a JavaScript expression is true; `TimeoutError` that names it."""
        started = time.monotonic()
        while not self[expression]:
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"not true after {seconds:.0f} s: {expression}")
            time.sleep(0.1)
