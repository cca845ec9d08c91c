"""A headless Chromium, driven through the DevTools protocol over a pipe: no driver, no package.

Each browser has a profile of its own in an empty folder, one page, and no network but ours.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.processes import Server, require

ANSWER = 30.0  # seconds for one command or a condition of the page: two busy cores
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
    "--remote-debugging-pipe",
]


class Wire:
    """The pipe to one browser, shared by its tabs: a message that is not awaited goes to the tab it is of."""

    def __init__(self, read: int, write: int) -> None:
        self._read = read
        self._write = write
        self._buffer = b""
        self._number = 0
        self.pages: dict[str | None, Page] = {}

    def command(self, session: str | None, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send one command and wait for its result; an error of the protocol fails the test."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(ANSWER)
            if answer.get("id") != number:
                page = self.pages.get(answer.get("sessionId"))
                if page is not None:
                    page.messages.append(answer)
            elif "error" in answer:
                pytest.fail(f"{method}: {answer['error']}")
            else:
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                pytest.fail(f"the browser said nothing for {seconds} s")
            data = os.read(self._read, 1 << 20)
            if not data:
                pytest.fail("the browser is gone")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded


class Page:
    """One tab. `messages` are the events of the protocol that came beside the answers."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._session: str | None = None
        self.messages: deque[dict[str, Any]] = deque(maxlen=10_000)
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        wire.pages[self._session] = self
        self.target = target
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def another(self) -> Page:
        """A second tab of the same browser: the same cookies and storage. It is seen; this one is hidden."""
        return Page(self._wire)

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its result; an error of the protocol fails the test."""
        return self._wire.command(self._session, method, params)

    def open(self, url: str) -> None:
        """Load a page and wait for its `load` event."""
        self.messages.clear()
        self.command("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of an expression (JSON); a promise is awaited, an exception fails the test."""
        result = self.command(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            pytest.fail(
                f"{script}: {details.get('exception', details).get('description', details)}"
            )
        return result["result"].get("value")

    def wait_for(self, condition: str, seconds: float = ANSWER) -> Any:
        """Until an expression is true in the page; returns its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(condition)):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s: {condition}\n{self.errors()}")
            time.sleep(0.01)
        return value

    def press(self, key: str) -> None:
        """Press a key as a person would (`Tab`, `Enter`, `Space` or a letter)."""
        codes = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " "), "Escape": (27, "")}
        code, text = codes.get(key, (ord(key[0].upper()), key))
        name = " " if key == "Space" else key
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self.command(
                "Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, **extra
            )

    def size(self, width: int, height: int) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def phone(self, width: int = 390, height: int = 844) -> None:
        """A phone: a small viewport that is touched. `desk` ends it."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2,
            mobile=True,
        )
        self.command("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=5)

    def desk(self) -> None:
        self.command("Emulation.setTouchEmulationEnabled", enabled=False)
        self.size(1440, 900)

    def tap(self, selector: str) -> None:
        """Touch the middle of an element, where it can be seen; what lies over it gets the touch."""
        x, y = self.run(
            f"(() => {{ const element = document.querySelector({selector!r});"
            " element.scrollIntoView({ block: 'center', inline: 'nearest' });"
            " const box = element.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            self.command("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    def prefers(self, scheme: str) -> None:
        """`dark` or `light`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        data = self.command("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def errors(self) -> list[str]:
        """What the page's console and scripts complained about since it was opened."""
        found = []
        for message in self.messages:
            params = message.get("params", {})
            if message.get("method") == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                found.append(details.get("exception", details).get("description", str(details)))
            elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(f"{params['entry']['text']} ({params['entry'].get('url', '')})")
            elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] == "error":
                found.append(" ".join(str(a.get("value", a)) for a in params["args"]))
        return found

    def close(self) -> None:
        """Close the tab, as a person would."""
        self._wire.pages.pop(self._session, None)
        self._session = None  # it ends with the tab
        self.command("Target.closeTarget", targetId=self.target)


@contextlib.contextmanager
def start_browser(*flags: str) -> Iterator[Page]:
    """Chromium with an empty profile; ended with the block."""
    chromium = require("chromium")
    with contextlib.ExitStack() as stack:
        options = {"prefix": "relay-chromium-", "ignore_cleanup_errors": True}
        profile = stack.enter_context(tempfile.TemporaryDirectory(**options))  # type: ignore[call-overload]
        their_read, our_write = os.pipe()
        our_read, their_write = os.pipe()
        stack.callback(os.close, our_write)
        stack.callback(os.close, our_read)
        # The protocol's pipes are descriptors 3 and 4: bash puts them there.
        command = ["bash", "-c", f'exec "$@" 3<&{their_read} 4>&{their_write}', "bash"]
        command += [chromium, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
        server = Server(command, cwd=profile, pass_fds=(their_read, their_write))
        stack.callback(server.stop)
        os.close(their_read)
        os.close(their_write)
        yield Page(Wire(our_read, our_write))
