"""A headless Chromium, spoken to through its DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from websockets.sync.client import ClientConnection, connect

Json = dict[str, object]

COMMAND = "chromium"
PATIENCE = 30.0


class Page:
    """One tab: what it was asked, and every event that came meanwhile."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self._session = ""
        self.events: list[Json] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = str(self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: object) -> Json:
        """The answer to a command."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters, **session}))
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return cast("Json", message["result"])

    def open(self, url: str) -> None:
        """Opens an address, and waits until all of it is there."""
        self.events.clear()
        self.ask("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def emulate(self, width: int, scheme: str, *, height: int = 844, scale: float = 1) -> None:
        """Gives the tab a size and a colour scheme."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 700)
        self.ask("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression: str) -> object:
        """The value of an expression in the page."""
        result = cast("Json", self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"])
        assert result.get("subtype") != "error", result
        return result.get("value")

    def picture(self, height: int | None = None) -> bytes:
        """The page from its top down to a height, or whole, as PNG."""
        width, whole = self.evaluate("innerWidth"), self.evaluate("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": height or whole, "scale": 1}
        return base64.b64decode(str(self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]))

    def complaints(self) -> list[Json]:
        """What the console was told, and what the page threw."""
        return [
            event for event in self.events if event["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        ]

    def requested(self) -> list[str]:
        """The address of every request, the page itself among them."""
        requests = [cast("Json", event["params"]) for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [str(cast("Json", request["request"])["url"]) for request in requests]

    def _receive(self) -> Json:
        message = cast("Json", json.loads(self._connection.recv(timeout=PATIENCE)))
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def started(profile: Path) -> Iterator[Page]:
    """A browser with a fresh profile, gone when the context ends."""
    switches = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
    )
    arguments = [shutil.which(COMMAND) or COMMAND, *switches, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**environment, "HOME": str(profile)}
    )
    try:
        assert process.stderr is not None
        address = next(line.split()[-1] for line in process.stderr if line.startswith("DevTools listening on"))
        with connect(address, max_size=None, proxy=None, close_timeout=1) as connection:
            yield Page(connection)
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
