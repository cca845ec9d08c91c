"""relay.js in node and in Chromium, against the vectors of the scanner and a scripted server."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.browser import Page, start_browser
from tests.interop.processes import ROOT, Server, require, start_relay

MODULE = ROOT / "relay" / "demo" / "relay.js"
VECTORS = ROOT / "tests" / "core" / "sse_vectors.json"
SITE = f"""
[server]
listen = ["${{LISTEN}}"]
[[routes]]
path = "/relay.js"
source = "local"
[routes.local]
content_type = "text/javascript"
body = "{{file:{MODULE}}}"
[[routes]]
path = "/"
source = "local"
"""
READ = """
async (vectors) => {
  const { EventParser } = await import("/relay.js");
  const failed = [];
  for (const { name, input, events, lastEventId, retry } of vectors) {
    const bytes = Uint8Array.from(input, (char) => char.charCodeAt(0));
    const reads = [[bytes], [...bytes].map((byte) => Uint8Array.of(byte))];
    for (let cut = 1; cut < bytes.length; cut++) {
      reads.push([bytes.slice(0, cut), bytes.slice(cut)]);
    }
    const wanted = JSON.stringify([events, lastEventId, retry]);
    for (const pieces of reads) {
      const parser = new EventParser();
      const read = pieces.flatMap((piece) => parser.push(piece));
      const found = JSON.stringify([read, parser.lastEventId, parser.retry ?? null]);
      if (found !== wanted) { failed.push(`${name}: ${found} instead of ${wanted}`); break; }
    }
  }
  return failed;
}
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    with start_relay(SITE) as server:
        yield server


@pytest.fixture(scope="module")
def page(site: Server) -> Iterator[Page]:
    with start_browser() as page:
        page.open(f"{site.url}/")
        yield page


def test_in_node() -> None:
    """Parser, request, errors, reconnection: tests/interop/relay_js.test.mjs."""
    command = [require("node"), "--test", str(ROOT / "tests" / "interop" / "relay_js.test.mjs")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]


def test_every_vector_in_chromium(page: Page) -> None:
    vectors = json.loads(VECTORS.read_text("ascii"))["vectors"]
    assert len(vectors) >= 40
    assert page.run(f"({READ})({json.dumps(vectors)})") == []


def test_the_hook_in_the_reference_is_a_module(tmp_path: Path) -> None:
    """It is plain JavaScript, of about thirty lines, with nothing but React and relay.js."""
    page = (ROOT / "docs" / "reference" / "relay-js.md").read_text("utf-8")
    (hook,) = re.findall(r"^```jsx\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(hook.splitlines()) <= 35
    (tmp_path / "hook.mjs").write_text(hook)
    subprocess.run([require("node"), "--check", tmp_path / "hook.mjs"], check=True, timeout=60)


def test_the_types_name_all_that_is_exported() -> None:
    declared = MODULE.with_suffix(".d.ts").read_text()
    script = f"import('{MODULE}').then((m) => console.log(JSON.stringify(Object.keys(m))))"
    command = [require("node"), "--input-type=module", "-e", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for name in json.loads(ran.stdout):
        assert f"export class {name} " in declared or f"export function {name}(" in declared, name
