"""The `openai` and `anthropic` packages through resumable routes: events with ids, and heartbeats between any two of them.

The model says its next word when the client has taken a heartbeat, so each word has one before it. The official decoders
never reset an id: after one, a blank line without data would be an event, and the end of the stream.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.interop.late import anthropic, openai
from tests.interop.resuming import Bench, bench
from tests.interop.test_sdks import ASKED, keep

WORDS = ["ids ", "and ", "hearts ", "é ", "beat"]
SAID: list[dict[str, Any]] = [{"say": [word]} for word in WORDS]
ROUTE = """
[[routes]]
path = "{path}"
methods = ["POST"]
upstream = "model"
dialect = "{dialect}"
complete_when = "{marker}"
heartbeat = "20ms"
[routes.resume]
principal = "{{header.authorization}}"
key = "{{body.model}}"
at = "/streams{path}/{{key}}"
"""
ROUTES = [
    ("/v1/chat/completions", "openai", "[DONE]"),
    ("/v1/responses", "openai", "event:response.completed"),
    ("/v1/messages", "anthropic", "event:message_stop"),
]
HEARTBEAT = re.compile(rb"(?:^|\n):\n")
ID = re.compile(rb"\nid: [\w-]{22}-\d+\n")


@pytest.fixture(scope="module")
def ground() -> Iterator[Bench]:
    routes = (
        ROUTE.format(path=path, dialect=dialect, marker=marker) for path, dialect, marker in ROUTES
    )
    with bench("".join(routes)) as running:
        yield running


class Script:
    """What the model says, a word at each heartbeat, and the body that the client was given."""

    def __init__(self, ground: Bench, id: str, orders: list[dict[str, Any]]) -> None:
        self.body = b""
        self._orders = iter(orders)
        self._ground = ground
        self._id = id

    def heard(self, piece: bytes) -> None:
        """The client has taken a piece."""
        before = len(HEARTBEAT.findall(self.body))
        self.body += piece
        order = next(self._orders, None) if len(HEARTBEAT.findall(self.body)) > before else None
        if order is not None:
            self._ground.say(self._id, **order)


def client_of(package: Any, script: Script) -> Any:
    """A client of the httpx that the package wants (each has its own), which tells of what it reads."""
    modules = [kind.__module__.partition(".")[0] for kind in package.DefaultHttpxClient.__mro__]
    http: Any = importlib.import_module(next(m for m in modules if m.startswith("httpx")))

    class Heard(http.SyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            for piece in self.stream:
                yield piece
                script.heard(piece)

        def close(self) -> None:
            self.stream.close()

    def listen(response: Any) -> None:
        response.stream = Heard(response.stream)

    return http.Client(event_hooks={"response": [listen]})


def chat(url: str, id: str, script: Script) -> Iterator[str]:
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=0, http_client=client_of(openai, script)
    ) as client:
        for piece in client.chat.completions.create(model=id, messages=[ASKED], stream=True):
            yield piece.choices[0].delta.content or ""


def respond(url: str, id: str, script: Script) -> Iterator[str]:
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=0, http_client=client_of(openai, script)
    ) as client:
        for event in client.responses.create(model=id, input="?", stream=True):
            if event.type == "response.output_text.delta":
                yield event.delta


def message(url: str, id: str, script: Script) -> Iterator[str]:
    with (
        anthropic.Anthropic(
            base_url=url, api_key="k", max_retries=0, http_client=client_of(anthropic, script)
        ) as client,
        client.messages.stream(model=id, messages=[ASKED], max_tokens=9) as stream,
    ):
        yield from stream.text_stream


Ask = Callable[[str, str, Script], Iterator[str]]
ASKS: list[Ask] = [chat, respond, message]


@pytest.mark.parametrize("ask", ASKS)
def test_all_of_it_with_ids_and_a_heartbeat_before_every_word(ask: Ask, ground: Bench) -> None:
    id = f"whole-{ask.__name__}"
    script = Script(ground, id, [*SAID, {"done": True}])
    assert "".join(ask(ground.url, id, script)) == "".join(WORDS)
    assert len(HEARTBEAT.findall(script.body)) > len(WORDS)
    assert len(ID.findall(script.body)) > len(WORDS)
    assert ground.asked(id) == 1


@pytest.mark.parametrize(
    ("order", "code"), [("break", "upstream_broke"), ("end", "upstream_truncated")]
)
@pytest.mark.parametrize("ask", ASKS)
def test_a_broken_stream_is_the_packages_own_error(
    ask: Ask, order: str, code: str, ground: Bench
) -> None:
    id = f"{order}-{ask.__name__}"
    got: list[str] = []
    with pytest.raises((openai.APIError, anthropic.APIError)) as raised:
        keep(ask(ground.url, id, Script(ground, id, [*SAID, {order: True}])), got)
    assert "".join(got) == "".join(WORDS)
    assert code in str(getattr(raised.value, "body", ""))


@pytest.mark.parametrize("ask", ASKS)
def test_who_asks_twice_reads_one_answer(ask: Ask, ground: Bench) -> None:
    """A client that times out and tries again: the same request, the whole answer, one generator."""
    id = f"twice-{ask.__name__}"
    first = ask(ground.url, id, Script(ground, id, SAID[:1]))
    while next(first) != WORDS[0]:
        pass
    script = Script(ground, id, [*SAID[1:], {"done": True}])
    assert "".join(ask(ground.url, id, script)) == "".join(WORDS)
    assert "".join(first) == "".join(WORDS[1:])
    assert ground.asked(id) == 1
