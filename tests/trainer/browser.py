"""A real Chromium without a window, over its DevTools pipe: what a page looks like, asks for and complains of.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import debian

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")
COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


class NoBrowser(Exception):
    """There is none on this machine, and none can be installed."""


def find_browser() -> str:
    """The browser's program, installed from Debian where it is missing and that can be done; NoBrowser if not."""
    if (found := _on_path()) is None and os.geteuid() == 0 and debian.can_install():
        debian.install(["chromium"], NoBrowser)
        found = _on_path()
    if found is None:
        raise NoBrowser("no Chromium was found: run, as root, apt-get install chromium")
    return found


def _on_path() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Seen:
    """A page as it was laid out: what of it is wider than the window, what it asked for, and what it complained of.

    `colours`: of the texts and lines of its pictures.
    """

    title: str
    width: int
    wide: list[str]
    colours: list[str]
    requests: list[str]
    complaints: list[str]
    picture: bytes = field(repr=False)


class Browser:
    """One process with one tab; a context manager. `profile` is a folder of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        program_of_fds = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'  # it speaks over descriptors 3 and 4
        words = [str(commands), str(answers), program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", program_of_fds, *words], pass_fds=(commands, answers), stderr=subprocess.DEVNULL
        )
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank", session=None)["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True, session=None)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._to)
        self._process.terminate()
        self._process.wait(20)
        os.close(self._from)

    def look(self, page: Path, width: int, *, dark: bool = False) -> Seen:
        """Open a file in a window of this width, and see."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme)
        shape: dict[str, Any] = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **shape)
        self._events.clear()
        self._call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        measured = self._evaluate(
            f"""({{title: document.title, width: document.documentElement.scrollWidth,
            wide: [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre')
              && e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80)),
            colours: [...document.querySelectorAll('svg text, svg path[style*="--"]')].map(e => getComputedStyle(e))
              .map(style => style.stroke == 'none' ? style.fill : style.stroke)}})"""
        )
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        asked = [event["params"]["request"]["url"] for event in self._of("Network.requestWillBeSent")]
        said = [json.dumps(event["params"])[:400] for name in COMPLAINTS for event in self._of(name)]
        return Seen(**measured, requests=asked, complaints=said, picture=base64.b64decode(shot))

    def pdf(self) -> bytes:
        """The page that was looked at last, as it is printed."""
        return base64.b64decode(self._call("Page.printToPDF")["data"])

    def _of(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self._events if event["method"] == method]

    def _evaluate(self, expression: str) -> Any:
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def _call(self, method: str, *, session: str | None = "", **params: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._from, 1 << 20)
            if not more:
                raise RuntimeError(f"the browser ended with {self._process.wait(20)}")
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found
