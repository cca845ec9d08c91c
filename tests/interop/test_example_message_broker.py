"""Message broker: one POST of the browser, two requests to the broker, the page's vocabulary."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from tests.interop.processes import ROOT, Server, start_hypercorn, start_relay, wait_until
from tests.interop.reading import calls, came_one_by_one, events_of, last_call

EXAMPLE = ROOT / "examples" / "message-broker"
CONFIG = EXAMPLE / "relay.toml"
API_KEY = "k3y-of-the-broker"
PATH = "/api/chat/stream"


def start_broker(port: int = 0) -> Any:
    env = {"BROKER_API_KEY": API_KEY}
    return start_hypercorn("backend:app", cwd=EXAMPLE, env=env, port=port)


def environment(broker: str, engine: str = "http://127.0.0.1:1") -> dict[str, str]:
    return {"BROKER_URL": broker, "BROKER_API_KEY": API_KEY, "ENGINE_URL": engine}


@pytest.fixture(scope="module")
def broker() -> Iterator[Server]:
    with start_broker() as server:
        yield server


@pytest.fixture(scope="module")
def engine() -> Iterator[Server]:
    with start_hypercorn("backend:engine", cwd=EXAMPLE) as server:
        yield server


@pytest.fixture(scope="module")
def relay(broker: Server, engine: Server) -> Iterator[Server]:
    with start_relay(CONFIG, environment(broker.url, engine.url)) as server:
        yield server
    assert API_KEY not in server.stdout.text + server.stderr.text


def say(relay: Server, text: str, user: str = "ann") -> Any:
    body = {"user_id": user, "message": text}
    return httpx.stream("POST", relay.url + PATH, json=body, timeout=20)


def told(relay: Server, text: str, user: str = "ann") -> list[dict[str, Any]]:
    """The whole answer to a message as the page gets it."""
    with say(relay, text, user) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert API_KEY not in str(response.headers)
        return [event.json() for event in events_of(response)]


def arrived(broker: Server, user: str) -> list[str]:
    """The messages of a user in the order in which the broker accepted them."""
    messages = httpx.get(f"{broker.url}/api/v1/messages").json()
    return [message["text"] for message in messages if message["user_id"] == user]


def test_the_brokers_words_become_the_pages(relay: Server) -> None:
    with say(relay, "hello") as response:
        events = list(events_of(response))
    assert {event.event for event in events} == {""}, "no event: line"
    answer = [event.json() for event in events]
    words = "You said: hello. Here is what I think about it."
    for event in answer:
        assert event.pop("at") > 0
    assert answer == [
        {"type": "status", "state": "queued", "position": 1},
        *({"type": "progress", "text": word} for word in words.split()),
        {"type": "complete", "response": words},
    ]


def test_they_arrive_one_by_one(relay: Server) -> None:
    with say(relay, "one by one") as response:
        *events, _ = events_of(response)  # the last one is sent together with the last word
    assert came_one_by_one(events)


def test_a_reader_by_hand_understands_the_lines(relay: Server) -> None:
    with say(relay, "by hand") as response:
        lines = response.read().decode().split("\n\n")
    assert lines[-1] == ""
    assert all(line.startswith('data: {"') for line in lines[:-1])


def test_the_follow_request_names_user_and_message(relay: Server, broker: Server) -> None:
    told(relay, "who am i", user="a&b=c d/é")
    assert last_call(broker, "/api/v1/stream")["state"] == "finished"


def test_a_stream_that_does_not_exist_yet_is_waited_for(relay: Server, broker: Server) -> None:
    before = len(calls(broker, "/api/v1/stream"))
    assert told(relay, "late bird")[-1]["type"] == "complete"
    assert len(calls(broker, "/api/v1/stream")) > before + 1, "it was asked for more than once"


def newer(broker: Server, number: int) -> bool:
    """Whether the broker was called since the call with that number."""
    return bool(last_call(broker)["number"] > number)


def test_rapid_messages_of_one_user_keep_their_order(relay: Server, broker: Server) -> None:
    """1. "slow" is posted, and the broker takes its time to accept it. 2. While it does, "quick" of
    the same user is posted, and "else" of another. 3. "else" does not wait, "quick" does."""
    answers: dict[str, list[dict[str, Any]]] = {}

    def post(text: str, user: str) -> threading.Thread:
        def run() -> None:
            answers[text] = told(relay, text, user)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    for _ in range(3):
        number = last_call(broker)["number"]
        threads = [post("slow", "rapid")]
        wait_until("the broker has it", partial(newer, broker, number))
        threads += [post("quick", "rapid"), post("else", "other")]
        for thread in threads:
            thread.join(20)
    assert arrived(broker, "rapid") == ["slow", "quick"] * 3
    assert {answer[-1]["type"] for answer in answers.values()} == {"complete"}


def test_a_worker_that_gives_up_is_told(relay: Server) -> None:
    *before, last = told(relay, "timeout")
    assert [event["type"] for event in before] == ["status", "progress", "progress"]
    assert last == {"type": "error", "message": "the worker gave up after 30 s"}


def test_a_worker_that_hangs_is_told(broker: Server) -> None:
    config = CONFIG.read_text().replace('event_idle = "60s"', 'event_idle = "500ms"')
    with start_relay(config, environment(broker.url)) as relay:
        last = told(relay, "hang")[-1]
        assert (last["type"], last["code"], last["retryable"]) == ("error", "upstream_silent", True)
        assert last["message"]
    wait_until("nothing runs on", lambda: last_call(broker, "/api/v1/stream")["state"] == "stopped")


def test_a_stream_that_is_lost_is_told(relay: Server) -> None:
    *before, last = told(relay, "lost")
    assert before[0]["type"] == "status"
    assert last["type"] == "error"
    assert last["code"] == "upstream_broke"
    assert last["message"]


def test_a_broker_that_refuses_is_told(relay: Server) -> None:
    (last,) = told(relay, "refuse")
    assert (last["type"], last["retryable"]) == ("error", True)
    assert "503" in last["message"]


def test_a_broker_that_is_down_is_told() -> None:
    with start_relay(CONFIG, environment("http://127.0.0.1:1")) as relay:
        (last,) = told(relay, "hello")
    assert (last["type"], last["code"]) == ("error", "upstream_unreachable")
    assert last["message"]


def test_a_broker_that_is_killed_is_told() -> None:
    with (
        start_broker() as broker,
        start_relay(CONFIG, environment(broker.url)) as relay,
        say(relay, "hello") as response,
    ):
        events = events_of(response)
        assert next(events).json()["type"] == "status"
        broker.kill()
        last = list(events)[-1].json()
    assert (last["type"], last["code"]) == ("error", "upstream_broke")


@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b'{"message": "nobody says this"}', b'{"user_id": "ann"'], ids=repr
)
def test_a_request_that_cannot_be_used_is_the_clients_fault(relay: Server, body: bytes) -> None:
    response = httpx.post(relay.url + PATH, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_leaving_in_mid_stream_stops_and_cancels_the_job(relay: Server, broker: Server) -> None:
    with say(relay, "hang", user="leaver") as response:
        events = events_of(response)
        next(events)
        assert last_call(broker, "/api/v1/stream")["state"] == "running"
    wait_until("it stops", lambda: last_call(broker, "/api/v1/stream")["state"] == "stopped")

    def cancelled() -> bool:
        messages = httpx.get(f"{broker.url}/api/v1/messages").json()
        return [m["cancelled"] for m in messages if m["user_id"] == "leaver"] == [True]

    wait_until("the job is cancelled", cancelled)


def test_leaving_between_the_two_steps_leaves_nothing_running(
    relay: Server, broker: Server
) -> None:
    """The client leaves while the broker thinks about accepting the message: once it has, the job is cancelled."""
    posts = [call for call in calls(broker, "/message") if call["path"] == "/api/v1/message"]
    streams = len(calls(broker, "/api/v1/stream"))
    cancels = len(calls(broker, "/cancel"))
    client = httpx.Client(timeout=httpx.Timeout(20, read=0.2))
    with client, pytest.raises(httpx.ReadTimeout):
        client.post(relay.url + PATH, json={"user_id": "hasty", "message": "slow"})
    record = relay.wait_for_record(
        lambda record: record.get("ending") == "client_left" and record["phase"] == "request"
    )
    assert record["route"] == "chat-stream"

    def cancelled() -> list[bool]:
        messages = httpx.get(f"{broker.url}/api/v1/messages").json()
        return [m["cancelled"] for m in messages if m["user_id"] == "hasty"]

    wait_until("the job is cancelled", lambda: cancelled() == [True])
    after = [call for call in calls(broker, "/message") if call["path"] == "/api/v1/message"]
    assert [call["state"] for call in after[len(posts) :]] == ["finished"]
    assert len(calls(broker, "/cancel")) == cancels + 1
    assert len(calls(broker, "/api/v1/stream")) == streams


def test_everything_else_goes_to_the_engine(relay: Server, engine: Server) -> None:
    history = httpx.get(f"{relay.url}/api/chat/history?user_id=ann")
    assert history.json() == {"history": [], "user_id": "ann"}
    chosen = httpx.put(f"{relay.url}/api/chat/preferences", json={"tone": "dry"})
    assert chosen.json() == {"tone": "dry"}
    plain = httpx.post(f"{relay.url}/api/chat/message", json={"message": "hi"})
    assert plain.json() == {"response": "You said: hi"}
    assert last_call(engine)["path"] == "/api/chat/message"


def test_the_translation_may_be_a_python_function(broker: Server) -> None:
    """The same vocabulary, and something that data alone cannot say: words are counted."""
    config = CONFIG.read_text().replace('translate = "broker"', 'translate = "translation:to_page"')
    start, _, rest = config.partition("# An event's own fields")
    config = start + rest[rest.index("[[routes]]") :]
    (EXAMPLE / "relay-python.toml").write_text(config)
    try:
        env = environment(broker.url)
        with start_relay(EXAMPLE / "relay-python.toml", env) as relay:
            answer = told(relay, "hello")
    finally:
        (EXAMPLE / "relay-python.toml").unlink()
    assert [event["type"] for event in answer] == ["status", *["progress"] * 10, "complete"]
    assert answer[-1]["words"] == 10
