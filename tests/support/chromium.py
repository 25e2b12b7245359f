"""Headless Chromium, driven by its DevTools protocol over a pair of pipes, without a driver."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --no-proxy-server --hide-scrollbars --remote-debugging-pipe"
)

TIMEOUT = 20.0  # seconds to wait for a response or a condition


class Browser:
    """One browser with one page; `errors` has the errors of the page's scripts and of its CSP."""

    def __init__(self, directory: Path) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # The browser uses 3 and 4. Move the ends away: dup2(3, 3) would leave FD_CLOEXEC set.
        far = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (theirs_in, theirs_out)]
        self.pid = os.posix_spawn(
            PROGRAM,
            [PROGRAM, *OPTIONS.split(), f"--user-data-dir={directory}", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, far[0], 3),
                (os.POSIX_SPAWN_DUP2, far[1], 4),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
        for fd in (theirs_in, theirs_out, *far):
            os.close(fd)
        self._in, self._out = ours_in, ours_out
        self._data = b""
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        self._target = ""

    def renew(self) -> None:
        """Replace the page with a new one."""
        self._session = None
        if self._target:
            self.call("Target.closeTarget", targetId=self._target)
        self.events.clear()
        self._target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        os.close(self._in)
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._next(TIMEOUT)
            if answer is None:
                raise AssertionError(f"no response to {method}")
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            # Ignore messages of the previous page, whose server has ended.
            if answer.get("sessionId") == self._session:
                self.events.append(answer)

    def _next(self, seconds: float) -> dict[str, Any] | None:
        end = time.monotonic() + seconds
        while b"\0" not in self._data:
            if not select.select([self._in], [], [], max(0, end - time.monotonic()))[0]:
                return None
            block = os.read(self._in, 1 << 20)
            if not block:
                raise AssertionError("the browser has exited")
            self._data += block
        line, _, self._data = self._data.partition(b"\0")
        return dict(json.loads(line))

    @property
    def errors(self) -> list[str]:
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                found.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Log.entryAdded":
                entry = event["params"]["entry"]
                if entry["level"] == "error" and entry["source"] != "network":
                    found.append(entry["text"])
        return found

    def show(self, url: str, width: int = 1100, height: int = 800, dark: bool = False) -> None:
        """Open the page and wait until its scripts are ready, unless scripts are disabled."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, expression: str) -> Any:
        """Evaluate JavaScript and return its value; awaits a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", str(details)))
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until the expression is true."""
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                if self.ask(f"Boolean({expression})"):
                    return
                said = "false"
            except AssertionError as error:  # the page is being replaced
                said = str(error)
            if time.monotonic() > end:
                raise AssertionError(f"not true within {TIMEOUT} s: {expression} ({said})")
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        self.ask(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key: str) -> None:
        text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "Delete": 46}
        more = {"text": text} if text else {}
        code = codes.get(key, 0)
        name = " " if key == "Space" else key
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown",
            key=name,
            code=key,
            windowsVirtualKeyCode=code,
            **more,
        )
        self.call(
            "Input.dispatchKeyEvent",
            type="keyUp",
            key=name,
            code=key,
            windowsVirtualKeyCode=code,
        )

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, *paths: Path) -> None:
        """Set the files of a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def picture(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
