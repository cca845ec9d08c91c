"""What the admin listener answers: one function per resource.

    request head ─► Guard ─► resource ─► Control ─► Answer

`docs/reference/admin.md` is the contract.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import trio

from relay import __version__
from relay.admin.control import Control
from relay.admin.guard import Guard, Openness
from relay.http.bodies import Fields
from relay.http.clock import date
from relay.http.fault import Fault
from relay.http.heads import RequestHead
from relay.observing.exposition import Snapshot, Totals, down, stream_of
from relay.wires.threads import Threads

_JSON: Final = "application/json"
_STREAM: Final = re.compile(rb"/streams/([0-9A-Za-z._-]{1,64})")
_PAGE: Final = {
    b"/": ("index.html", "text/html; charset=utf-8"),
    b"/page.css": ("page.css", "text/css; charset=utf-8"),
    b"/page.js": ("page.js", "text/javascript; charset=utf-8"),
    b"/table.js": ("table.js", "text/javascript; charset=utf-8"),
    b"/words.js": ("words.js", "text/javascript; charset=utf-8"),
}
# The page loads nothing from elsewhere and nobody frames it.
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    status: int
    content_type: str
    body: bytes
    fields: tuple[tuple[bytes, bytes], ...] = ()

    def all_fields(self) -> Fields:
        return [
            (b"content-type", self.content_type.encode("latin-1")),
            (b"content-length", b"%d" % len(self.body)),
            (b"date", date()),
            (b"cache-control", b"no-store"),
            (b"content-security-policy", _POLICY),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"referrer-policy", b"no-referrer"),
            (b"x-content-type-options", b"nosniff"),
            *self.fields,
        ]


def of_json(status: int, value: object) -> Answer:
    return Answer(status, _JSON, json.dumps(value, separators=(",", ":")).encode() + b"\n")


def of_fault(fault: Fault) -> Answer:
    """The answer to what is refused, in the shape of every error of relay's own."""
    answer = of_json(fault.status, {"error": {"code": fault.code, "message": fault.message}})
    if fault.status != 401:
        return answer
    return Answer(401, _JSON, answer.body, ((b"www-authenticate", b'Bearer realm="relay"'),))


Resource = Callable[["Pages", RequestHead, bool], Awaitable[Answer]]


class Pages:
    """The resources, over the workers that `control` reaches."""

    def __init__(self, control: Control, guard: Guard, totals: Totals | None = None) -> None:
        """`totals`: shared where one relay has several of these, so that their sums never differ."""
        self._control = control
        self._guard = guard
        self._totals = totals if totals is not None else Totals()
        self._threads = Threads()
        folder = resources.files("relay.serving") / "page"
        self._files = {
            path: Answer(200, media_type, (folder / name).read_bytes())
            for path, (name, media_type) in _PAGE.items()
        }

    async def answer(self, head: RequestHead) -> Answer:
        """The response to `head`. Raises: Fault."""
        await trio.lowlevel.checkpoint()
        found = _RESOURCES.get(head.path)
        if found is not None:
            openness, resource = found
            methods: tuple[bytes, ...] = (b"GET", b"HEAD")
        elif head.path in self._files:
            openness, resource, methods = "public", Pages._file, (b"GET", b"HEAD")
        elif _STREAM.fullmatch(head.path):
            openness, resource, methods = "closed", Pages._stop, (b"DELETE",)
        else:
            openness, resource, methods = "closed", Pages._nothing, (head.method,)
        full = self._guard.admit(head, openness)
        if head.method in methods:
            return await resource(self, head, full)
        error = {"code": "method_not_allowed", "message": "this takes another method"}
        refused = of_json(405, {"error": error})
        return Answer(405, _JSON, refused.body, ((b"allow", b", ".join(methods)),))

    async def _file(self, head: RequestHead, full: bool) -> Answer:
        return self._files[head.path]

    async def _nothing(self, head: RequestHead, full: bool) -> Answer:
        raise Fault("client", 404, "not_found", "there is nothing here")

    async def _healthz(self, head: RequestHead, full: bool) -> Answer:
        """Whether the process works: a worker answers."""
        states = await self._control.states()
        if any(worker.state != "absent" for worker in states):
            return of_json(200, {"status": "ok"})
        return of_json(503, {"status": "no worker answers"})

    async def _readyz(self, head: RequestHead, full: bool) -> Answer:
        """Whether new requests should come here."""
        reasons = await self._why_not_ready()
        shown = {"reasons": reasons} if full else {}
        return of_json(503 if reasons else 200, {"ready": not reasons, **shown})

    async def _why_not_ready(self) -> list[str]:
        states = {worker.state for worker in await self._control.states()}
        if "serving" not in states:
            return ["draining" if "draining" in states else "no worker answers"]
        totals = await self._figures()
        return [f"every url of upstream {name} is down" for name in down(totals["upstreams"])]

    async def _metrics(self, head: RequestHead, full: bool) -> Answer:
        figures = await self._figures()
        if not figures["cancel_delay"]:
            raise Fault("client", 503, "no_figures", "no worker has answered yet")
        # prometheus-client is imported in a thread too: 50 ms that no stream should wait for.
        accept = dict(head.fields).get(b"accept", b"").decode("latin-1")
        text, content_type = await trio.to_thread.run_sync(
            _expose, figures, accept, limiter=self._threads.pages
        )
        return Answer(200, content_type, text)

    async def _streams(self, head: RequestHead, full: bool) -> Answer:
        """The live list."""
        workers = await self._control.streams()
        return await trio.to_thread.run_sync(_list, workers, limiter=self._threads.pages)

    async def _stop(self, head: RequestHead, full: bool) -> Answer:
        """End one stream: its terminal event, then its end."""
        match = _STREAM.fullmatch(head.path)
        assert match is not None
        exchange_id = match[1].decode("ascii")
        if await self._control.stop(exchange_id):
            return of_json(200, {"stopped": exchange_id})
        raise Fault("client", 404, "no_such_stream", "no stream has this id, or it has ended")

    async def _status(self, head: RequestHead, full: bool) -> Answer:
        """What the page shows beside the streams."""
        totals = await self._figures()
        states = await self._control.states()
        routes = {name: _summary(route) for name, route in totals["routes"].items()}
        reasons = await self._why_not_ready()
        value = {
            "version": __version__,
            "ready": not reasons,
            "reasons": reasons,
            "workers": [
                {**worker._asdict(), **totals["workers"].get(worker.number, {})}
                for worker in states
            ],
            "connections": totals["connections"],
            "held": totals["held"],
            "routes": routes,
            "upstreams": [url._asdict() for url in totals["upstreams"]],
        }
        return of_json(200, value)

    async def _figures(self) -> Snapshot:
        return self._totals.add(await self._control.snapshot())


def _summary(route: dict[str, Any]) -> dict[str, Any]:
    keys = ("active", "events", "bytes_in", "bytes_out", "endings")
    return {key: route[key] for key in keys}


def _expose(totals: Snapshot, accept: str) -> tuple[bytes, str]:
    from relay.observing.prometheus import expose

    return expose(totals, accept)


def _list(workers: dict[int, list[list[Any]]]) -> Answer:
    streams = [stream_of(row, number) for number, rows in workers.items() for row in rows]
    return of_json(200, {"count": len(streams), "streams": streams})


_RESOURCES: Final[dict[bytes, tuple[Openness, Resource]]] = {
    b"/healthz": ("public", Pages._healthz),
    b"/readyz": ("part", Pages._readyz),
    b"/metrics": ("closed", Pages._metrics),
    b"/streams": ("closed", Pages._streams),
    b"/status": ("closed", Pages._status),
}
