"""relay.js in node and in Chromium, against the vectors of the scanner and a scripted server."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.interop.browser import Page, start_browser
from tests.interop.models import TEXT
from tests.interop.processes import (
    ROOT,
    Server,
    require,
    start_hypercorn,
    start_relay,
    wait_until,
)
from tests.interop.reading import last_call

PACKAGE = ROOT / "relay" / "js"
MODULE = PACKAGE / "relay.js"
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


HOOK = re.compile(r"^```tsx\n(.*?)^```", re.MULTILINE | re.DOTALL)
USER = """
import { useEventStream } from "./hook.js";
import { rejoin, streamEvents, type EventStream, type ServerEvent } from "relay-events";

interface Query { query: string; files?: string[] }
interface Chunk { type: "chunk"; content: string }
class Asked { constructor(readonly query: string) {} }

const query: Query = { query: "?" };
streamEvents("/a", { body: query });
streamEvents(new URL("http://a/"), { body: [query, query], onEvent: (event: ServerEvent) => event.data });
for (const body of ["text", new FormData(), new URLSearchParams(), new Blob(), new Asked("?"), null, undefined]) {
  streamEvents("/a", { body });
}
const resumed: EventStream | undefined = rejoin("/a", { resume: { name: "a" }, onGap: ({ first }) => first.length });
const stopped: Promise<void> = streamEvents("/a", { body: query, resume: { at: "/a/1" } }).stop("enough");
streamEvents(resumed?.at ?? "/a", { resume: true, reconnect: { delay: 5 } }).run?.length;

export function Answer() {
  const { events, status, error, start, stop } = useEventStream<Chunk>("/a", { completeWhen: (e) => e.data === "[DONE]" });
  const text: string = events.map((event) => event.content).join("");
  const kind: "status" | "terminal" | "cut" | "cancelled" | undefined = error?.kind;
  return (
    <form onSubmit={() => start(query)}>
      <button type="button" onClick={stop} disabled={status !== "running"}>Stop</button>{text}{kind}
    </form>
  );
}
"""
WRONG = [
    "streamEvents('/a', { body: 5 });",
    "streamEvents('/a', { bdy: {} });",
    "streamEvents(5);",
    "streamEvents('/a', { resume: 5 });",
    "rejoin('/a', { body: 'a' });",
    "rejoin('/a').stop();",
    "useEventStream<Chunk>('/a').start(5);",
    "const n: number = useEventStream<Chunk>('/a').events[0].content;",
    "useEventStream<Chunk>('/a').status === 'done';",
]
TSCONFIG = {
    "compilerOptions": {
        "strict": True,
        "noEmit": True,
        "jsx": "react-jsx",
        "target": "ES2022",
        "module": "ESNext",
        "moduleResolution": "bundler",
        "lib": ["ES2022", "DOM", "DOM.Iterable"],
        "noUncheckedIndexedAccess": False,
        "types": [],
    }
}


def hook() -> str:
    page = (ROOT / "docs" / "reference" / "relay-js.md").read_text("utf-8")
    (found,) = HOOK.findall(page)
    return str(found)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """relay.js as npm packs it."""
    folder = tmp_path_factory.mktemp("packed")
    command = [require("npm"), "pack", str(PACKAGE), "--pack-destination", str(folder), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    [told] = json.loads(done.stdout)
    files = {file["path"] for file in told["files"]}
    assert files == {"package.json", "README.md", "relay.js", "relay.d.ts"}
    return folder / str(told["filename"])


@pytest.fixture(scope="module")
def installed(npm: Path, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `node_modules` with the package of relay.js, installed by npm, and what the tests have anyway."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "package.json").write_text('{"type": "module"}')
    command = [require("npm"), "install", "--offline", "--no-audit", "--no-fund", str(packed)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    for each in (npm / "node_modules").iterdir():
        if not each.name.startswith("."):
            (folder / "node_modules" / each.name).symlink_to(each)
    return folder / "node_modules"


@pytest.fixture
def project(installed: Path, tmp_path: Path) -> Path:
    """A project with TypeScript, React, the package of relay.js and the hook of the reference."""
    (tmp_path / "node_modules").symlink_to(installed)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "tsconfig.json").write_text(json.dumps(TSCONFIG))
    (tmp_path / "hook.tsx").write_text(hook())
    return tmp_path


def test_the_package_has_the_version_of_relay() -> None:
    told = json.loads((PACKAGE / "package.json").read_text())
    assert (told["name"], told["version"]) == ("relay-events", version("trio-relay"))


def complaints(project: Path, code: str) -> str:
    """What `tsc --strict` says to a file of this code."""
    (project / "user.tsx").write_text(code)
    tsc = project / "node_modules" / "typescript" / "bin" / "tsc"
    command = [require("node"), str(tsc), "--project", str(project)]
    ran = subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ran.returncode == 0) == (ran.stdout == "")
    return ran.stdout


def test_the_hook_in_the_reference_is_strict_typescript(project: Path) -> None:
    """And so is who uses it and relay.js, with interfaces of their own for bodies and events."""
    react = json.loads((project / "node_modules/@types/react/package.json").read_text("utf-8"))
    assert react["version"].startswith("19.")
    assert len(hook().splitlines()) <= 45
    assert complaints(project, USER) == ""


def test_the_types_refuse_what_is_wrong(project: Path) -> None:
    said = complaints(project, USER + "export function Wrong() {\n" + "\n".join(WRONG) + "\n}\n")
    first = USER.count("\n") + 2
    lines = {int(line) for line in re.findall(r"^user\.tsx\((\d+),", said, re.MULTILINE)}
    assert lines == set(range(first, first + len(WRONG))), said


ENTRY = """
import { createRoot } from "react-dom/client";
import { useEventStream } from "./hook";

function Page() {
  const { events, status, error, start, stop } = useEventStream<object>("/read", { credentials: "omit" });
  Object.assign(window, { start, stop });
  return <p id="shown">{JSON.stringify([events, status, error?.kind ?? "", error?.message ?? ""])}</p>;
}
createRoot(document.getElementById("root")!).render(<Page />);
"""
SCRIPTED = """
[server]
listen = ["${{LISTEN}}"]
[upstreams.model]
url = "{url}"
[[routes]]
path = "/read"
upstream = "model"
upstream_path = "/v1/chat/completions"
complete_when = "[DONE]"
after_error = "close"
[[routes]]
path = "/{{page...}}"
source = "files"
files = {{ directory = "{pages}" }}
"""


def test_the_hook_in_chromium(project: Path) -> None:
    """A page in TypeScript, built by Vite, with the package and the hook: it shows events as they come, tells a cut and a
    stop apart, and a stop ends the model."""
    (project / "index.html").write_text(
        '<!doctype html><div id="root"></div><script type="module" src="./entry.tsx"></script>'
    )
    (project / "entry.tsx").write_text(ENTRY)
    (project / "vite.config.js").write_text(
        'export default { base: "./", esbuild: { jsx: "automatic" }, logLevel: "warn" };'
    )
    vite = project / "node_modules" / "vite" / "bin" / "vite.js"
    command = [require("node"), str(vite), "build"]
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=300)
    with (
        start_hypercorn("tests.interop.models:app") as model,
        start_relay(SCRIPTED.format(url=model.url, pages=project / "dist")) as relay,
        start_browser() as page,
    ):
        page.open(f"{relay.url}/")
        page.wait_for("window.start !== undefined")

        def shown(status: str) -> list[Any]:
            text = "document.querySelector('#shown').textContent"
            page.wait_for(f"JSON.parse({text})[1] === '{status}'")
            found: list[Any] = json.loads(page.run(text))
            return found

        page.run("void start({ model: 'complete' })")
        events, _, kind, _ = shown("complete")
        said = [each["choices"][0]["delta"].get("content", "") for each in events[:-1]]
        assert "".join(said) == TEXT
        assert kind == ""
        page.run("void start({ model: 'cut' })")
        events, _, kind, message = shown("failed")
        assert (kind, message) == ("terminal", "the upstream closed before the body was whole")
        assert len(events) == 3
        page.run("void start({ model: 'endless' })")
        page.wait_for("document.querySelector('#shown').textContent.length > 1000")
        page.run("stop()")
        assert shown("stopped")[2] == ""
        wait_until("the model is stopped", lambda: last_call(model)["state"] == "stopped")


def test_the_types_name_all_that_is_exported() -> None:
    declared = MODULE.with_suffix(".d.ts").read_text()
    script = f"import('{MODULE}').then((m) => console.log(JSON.stringify(Object.keys(m))))"
    command = [require("node"), "--input-type=module", "-e", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for name in json.loads(ran.stdout):
        assert f"export class {name} " in declared or f"export function {name}(" in declared, name
