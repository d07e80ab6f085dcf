"""A headless Chromium, spoken to over a pipe: what a page logs, how wide it is, how it looks."""

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
)


def executable() -> str | None:
    """The browser of this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab; `problems` are errors and warnings that it logged."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._rest, self._number, self._session = b"", 0, ""
        self.problems: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for room in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{room}.enable")

    def open(self, file: Path, *, width: int, height: int, scheme: str = "light") -> None:
        """Load a file at a size in CSS pixels, however narrow."""
        self.problems.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._ask("Emulation.setEmulatedMedia", features=[feature])
        self._ask("Page.navigate", url=file.resolve().as_uri())
        self.evaluate(
            "new Promise(done => document.readyState === 'complete' ? done(1)"
            " : addEventListener('load', () => done(1)))"
        )

    def evaluate(self, script: str) -> Any:
        """Return the value of a script."""
        answer = self._ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, file: Path, *, whole: bool = False, clip: Any = None) -> None:
        """Write a PNG of the window, or of the whole page."""
        more = {"clip": clip} if clip else {}
        answer = self._ask("Page.captureScreenshot", captureBeyondViewport=whole, **more)
        file.write_bytes(base64.b64decode(answer["data"]))

    def _ask(self, method: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)
        raise AssertionError(f"{method}: the browser went away")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            text, found, rest = self._rest.partition(b"\0")
            if found:
                self._rest = rest
                yield json.loads(text)
            elif chunk := os.read(self._answers, 2**16):
                self._rest += chunk
            else:
                return

    def _note(self, event: dict[str, Any]) -> None:
        method, values = event.get("method"), event.get("params", {})
        if method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.problems.append(values["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(values["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.problems.append(str(values["args"]))
        elif method == "Network.requestWillBeSent":
            url = values["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.problems.append(f"a request to {url}")


@contextmanager
def browser(program: str) -> Generator[Page, None, None]:
    """Start a browser with a profile of its own; end it and its profile afterwards."""
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        log = os.open(Path(profile) / "log", os.O_WRONLY | os.O_CREAT)
        duplicates = [
            (os.POSIX_SPAWN_DUP2, command_read, 3),
            (os.POSIX_SPAWN_DUP2, answer_write, 4),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        arguments = [program, *FLAGS, f"--user-data-dir={profile}/profile"]
        process = os.posix_spawn(program, arguments, os.environ, file_actions=duplicates)
        for end in (command_read, answer_write, log):
            os.close(end)
        try:
            yield Page(command_write, answer_read)
        finally:
            os.close(command_write)  # ends the browser
            os.waitpid(process, 0)
            os.close(answer_read)
