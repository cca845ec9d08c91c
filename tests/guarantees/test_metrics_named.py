"""The promise: every metric that the dashboard and the documentation name is exposed, and every one
that is exposed is documented."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.observing.ending import Cause
from tests.guarantees.admin_setup import admin
from tests.guarantees.resume_setup import event, ground, keeping
from tests.harness import route_to, running, settle
from tests.io.upstreams_setup import refusing_port

DOCS = Path(__file__).parents[2] / "docs"
# The contract (design): these names and these labels.
CONTRACT = {
    "relay_exchanges_total": {"route", "ending"},
    "relay_streams_active": {"route"},
    "relay_time_to_first_byte_seconds": {"route"},
    "relay_stream_duration_seconds": {"route"},
    "relay_event_gap_seconds": {"route"},
    "relay_cancel_delay_seconds": set(),
    "relay_events_total": {"route"},
    "relay_bytes_total": {"route", "direction"},
    "relay_held_bytes": set(),
    "relay_runs_active": {"route"},
    "relay_viewers": {"route"},
    "relay_gaps_total": {"route"},
    "relay_stops_total": {"route"},
    "relay_log_bytes": {"store"},
}


# Fields of the access log that need more than an exchange: see test_coded_streams.py, test_capture.py, test_access_log.py.
SOMETIMES = {"coding", "captured", "fields", "upstream_status"}


async def exposed() -> dict[str, set[str]]:
    """The labels of every metric of a relay that has served something, by the metric's name."""
    config = route_to("http://127.0.0.1:9", more='[[routes]]\npath = "/here"\nsource = "local"\n')
    async with running(config) as relay, admin(relay) as desk:
        client = await relay.get("/here")
        await client.head()
        await relay.line()
        text = (await desk.ask("/metrics")).body.decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = found.setdefault(name, set())
        for one in family.samples:
            labels |= set(one.labels) - {"le"}
    return found


@pytest.mark.parametrize("store", ["dir", "redis"])
async def test_how_long_an_append_takes_is_counted(store: str) -> None:
    """1. A run is begun at the first relay. 2. Its upstream sends events. 3. Its owner counts how long it took."""
    with keeping(store):
        async with ground() as g, admin(g.relay) as desk:
            elsewhere = g.relay.worker.feeds.elsewhere
            assert elsewhere is not None
            seconds = elsewhere.store.seconds
            reader, peer = await g.begun(at=0)
            await peer.send(event("first"))
            await reader.until(1)
            await settle(lambda: sum(seconds.counts) > 0)
            text = (await desk.ask("/metrics")).body.decode()
            assert f'relay_store_seconds_count{{store="{store}"}} 1.0' in text
            reader.close()


def expressions(node: Any) -> Iterator[str]:
    """Every query of a dashboard."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "definition") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def named(text: str) -> set[str]:
    return {
        re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"\brelay_[a-z_]+\b", text)
    }


async def test_the_contract_is_kept() -> None:
    found = await exposed()
    assert {name: found.get(name) for name in CONTRACT} == CONTRACT


async def test_the_dashboard_draws_what_is_there_and_all_of_it() -> None:
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))
    drawn = named("\n".join(expressions(dashboard)))
    assert drawn == set(await exposed())


async def test_every_metric_is_documented_and_none_besides() -> None:
    page = (DOCS / "reference" / "metrics.md").read_text("utf-8")
    described = set(re.findall(r"^\| `(relay_[a-z_]+)", page, re.MULTILINE))
    assert described == set(await exposed())


def test_the_labels_of_the_dashboard_are_those_of_the_contract() -> None:
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))
    for query in expressions(dashboard):
        for metric, labels in re.findall(r"(relay_[a-z_]+)\{([^}]*)\}", query):
            name = re.sub("_(bucket|count|sum)$", "", metric)
            if name in CONTRACT:
                used = set(re.findall(r"(\w+)=", labels)) - {"job", "instance"}
                assert used <= CONTRACT[name], query


async def test_the_fields_and_endings_of_the_access_log_are_documented() -> None:
    page = (DOCS / "reference" / "access-log.md").read_text("utf-8")
    fields, _, endings = page.partition("## Endings")
    rows = [line.split("|")[1] for line in fields.splitlines() if line.startswith("| `")]
    described = set(re.findall(r"`([a-z_]+)`", " ".join(rows)))
    assert set(re.findall(r"^\| `([a-z_]+)` ", endings, re.MULTILINE)) == {c.value for c in Cause}
    parent = f"Traceparent: 00-{'ab' * 16}-{'cd' * 8}-01\r\n"
    async with running(route_to(f"http://127.0.0.1:{refusing_port()}")) as relay:
        client = await relay.get("/", parent)
        await client.head()
        line = await relay.line()
    assert set(line) == described - SOMETIMES
