// relay.js with `resume: true` against a real relay: RELAY_URL=… ORIGIN_URL=… node --test (test_relay_js_resume.py).
// The model says what it is told; a cut is the end of a fetch that nobody asked for.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, beforeEach, describe, test } from "node:test";

import { rejoin, streamEvents } from "../../relay/js/relay.js";

const relay = process.env.RELAY_URL;
const origin = process.env.ORIGIN_URL;
let number = 0;

/** The storage of a tab: what a reload keeps. */
class Storage {
  #entries = new Map();
  getItem = (name) => this.#entries.get(name) ?? null;
  setItem = (name, value) => void this.#entries.set(name, value);
  removeItem = (name) => void this.#entries.delete(name);
  get size() {
    return this.#entries.size;
  }
}

let storage;
beforeEach(() => {
  storage = new Storage();
  Object.defineProperty(globalThis, "sessionStorage", { value: storage, configurable: true });
});

/** A network that can be cut: every request is noted, and those under way break off. */
function network() {
  const asked = [];
  let cut = new AbortController();
  return {
    asked,
    down: false,
    cut() {
      cut.abort();
      cut = new AbortController();
    },
    async fetch(url, options) {
      asked.push({ method: options.method, path: new URL(url).pathname, id: options.headers.get?.("Last-Event-ID") ?? null });
      if (this.down) throw new TypeError("no network");
      const signals = [cut.signal, options.signal].filter(Boolean);
      return fetch(url, { ...options, signal: AbortSignal.any(signals) });
    },
  };
}

const fresh = (route) => [`${relay}/${route}/s${++number}`, `s${number}`];
const say = async (id, order) => {
  const options = { method: "PUT", body: JSON.stringify(order) };
  assert.equal((await fetch(`${origin}/say/${id}`, options)).status, 200);
};
const calls = async (id) => {
  const { calls } = await (await fetch(`${origin}/state`)).json();
  return calls.filter(({ path }) => path === `/answers/${id}`);
};
const upstreamGone = async (id) => {
  while ((await calls(id)).some(({ state }) => state === "running"));
  return (await calls(id)).at(-1).state;
};
const quick = { delay: 1, maxDelay: 20 };
const options = (net, more) => ({ resume: true, reconnect: quick, fetch: (...args) => net.fetch(...args), ...more });
const next = async (stream) => (await stream.next()).value?.json();
const rest = async (stream) => {
  const events = [];
  for await (const event of stream) events.push(event.json());
  return events;
};

for (const [name, route, body] of [["GET", "logs", undefined], ["POST", "chat", { text: "?" }], ["POST without a key", "own", { text: "?" }]]) {
  describe(name, () => {
    test("a cut is taken up behind the last event, and nothing is begun twice", async () => {
      const [url, id] = fresh(route);
      const net = network();
      const stream = streamEvents(url, options(net, { body }));
      assert.equal(await next(stream), "begun");
      await say(id, { say: [1, 2] });
      assert.deepEqual([await next(stream), await next(stream)], [1, 2]);
      net.cut();
      await say(id, { say: [3] });
      assert.equal(await next(stream), 3);
      assert.equal(net.asked.length, 2);
      assert.deepEqual(net.asked[1], { method: "GET", path: new URL(stream.at).pathname, id: `${stream.run}-3` });
      await say(id, { say: [4], end: true });
      assert.deepEqual(await rest(stream), [4]);
      assert.equal((await calls(id)).length, 1);
      assert.equal(storage.size, 0);
    });

    test("a network that is down is asked again, with growing delays, until it is there", async () => {
      const [url, id] = fresh(route);
      const net = network();
      const waits = [];
      const onReconnect = ({ wait }) => (waits.push(wait), waits.length === 4 && (net.down = false));
      const stream = streamEvents(url, options(net, { body, reconnect: { ...quick, onReconnect } }));
      await next(stream);
      net.down = true;
      net.cut();
      const waiting = next(stream);
      await say(id, { say: [1], end: true });
      assert.equal(await waiting, 1);
      assert.deepEqual(await rest(stream), []);
      assert.equal(waits.length, 4);
      assert.ok(waits[3] > waits[0]);
      assert.equal((await calls(id)).length, 1);
    });

    test("a reload reads it again from its first event", async () => {
      const [url, id] = fresh(route);
      const before = network();
      const gone = streamEvents(url, options(before, { body }));
      gone.finished.catch(() => {});
      await next(gone);
      await say(id, { say: [1] });
      await next(gone);
      gone.cancel(); // as the end of a page does: nothing is said to relay
      const net = network();
      const stream = rejoin(url, options(net));
      assert.deepEqual([await next(stream), await next(stream)], ["begun", 1]);
      assert.deepEqual(net.asked, [{ method: "GET", path: new URL(stream.at).pathname, id: null }]);
      assert.equal(stream.run, gone.run);
      await say(id, { end: true });
      assert.deepEqual(await rest(stream), []);
      assert.equal((await calls(id)).length, 1);
      assert.equal(rejoin(url), undefined);
    });

    test("stop() ends it for every reader and for the model", async () => {
      const [url, id] = fresh(route);
      const net = network();
      const stream = streamEvents(url, options(net, { body }));
      await next(stream);
      const other = streamEvents(stream.at, { resume: { name: "other tab" }, reconnect: quick });
      await next(other);
      await stream.stop("enough");
      await assert.rejects(next(stream), { kind: "cancelled", cause: "enough" });
      await assert.rejects(rest(other), { kind: "terminal", code: "stopped" });
      assert.equal(await upstreamGone(id), "stopped");
      assert.deepEqual(net.asked.map(({ method }) => method), [body ? "POST" : "GET", "DELETE"]);
      assert.equal((await calls(id)).length, 1);
      assert.equal(storage.size, 0);
    });
  });
}

describe("ends", () => {
  test("the terminal event ends it, also where it says that asking again may help", async () => {
    for (const [route, body] of [["logs"], ["chat", { text: "?" }]]) {
      const [url, id] = fresh(route);
      const net = network();
      const stream = streamEvents(url, options(net, { body }));
      await next(stream);
      await say(id, { break: true });
      await assert.rejects(next(stream), { kind: "terminal", code: "upstream_broke", retryable: true });
      assert.equal(net.asked.length, 1);
      assert.equal(storage.size, 0);
    }
  });

  test("who comes back behind the end of a finished answer gets 204, and it is an end", async () => {
    const [url, id] = fresh("chat");
    const net = network();
    const stream = streamEvents(url, options(net, { body: { text: "?" } }));
    await next(stream);
    net.down = true;
    net.cut();
    const waiting = rest(stream);
    await say(id, { end: true });
    assert.equal(await upstreamGone(id), "finished");
    net.down = false;
    assert.deepEqual(await waiting, []);
    assert.deepEqual(net.asked.at(-1).id, `${stream.run}-1`);
    assert.equal((await calls(id)).length, 1);
  });

  test("what was trimmed meanwhile is told, as a gap or as an event", async () => {
    for (const told of [true, false]) {
      const [url, id] = fresh("short");
      const net = network();
      const gaps = [];
      const onGap = told ? (gap) => gaps.push(gap) : undefined;
      const stream = streamEvents(url, options(net, { onGap }));
      await next(stream);
      net.down = true;
      net.cut();
      const waiting = next(stream);
      await say(id, { say: Array(40).fill("x".repeat(400)), end: true });
      assert.equal(await upstreamGone(id), "finished");
      net.down = false;
      const first = await waiting;
      await rest(stream);
      if (told) {
        assert.equal(first.length, 400);
        assert.equal(gaps.length, 1);
        assert.equal(gaps[0].requested, `${stream.run}-1`);
        assert.match(gaps[0].first, new RegExp(`^${stream.run}-[0-9]+$`));
      } else assert.equal(first.type, "gap");
    }
  });

  test("a POST that was cut before its head is not sent again", async () => {
    const net = network();
    net.down = true;
    const [url] = fresh("chat");
    await assert.rejects(next(streamEvents(url, options(net, { body: {}, reconnect: undefined }))), { kind: "cut" });
    assert.equal(net.asked.length, 1);
  });

  test("of what is gone a reload finds nothing, and a GET begins anew", async () => {
    const [url, id] = fresh("logs");
    const gone = JSON.stringify({ at: `${relay}/streams/logs/gone`, run: "A".repeat(22) });
    storage.setItem(`relay.js ${url}`, gone);
    assert.deepEqual(await rest(rejoin(url)), []);
    assert.equal(storage.size, 0);
    storage.setItem(`relay.js ${url}`, gone);
    const stream = streamEvents(url, { resume: true });
    assert.equal(await next(stream), "begun");
    await say(id, { end: true });
    assert.deepEqual(await rest(stream), []);
    assert.equal((await calls(id)).length, 1);
  });

  test("what was put into the storage by another leads nowhere else", async () => {
    const elsewhere = JSON.stringify({ at: "https://evil.test/at", run: "A".repeat(22) });
    const nonsense = ["null", "1", "[]", "{", '{"at":1,"run":2}', '{"at":"/x","run":"r"}', '{"at":"javascript:1","run":"r"}'];
    for (const kept of [elsewhere, ...nonsense]) {
      const [url, id] = fresh("logs");
      storage.setItem(`relay.js ${url}`, kept);
      assert.equal(rejoin(url), undefined);
      const net = network();
      const stream = streamEvents(url, options(net, { headers: { Authorization: "Bearer secret" } }));
      assert.equal(await next(stream), "begun");
      await say(id, { end: true });
      assert.deepEqual(await rest(stream), []);
      assert.deepEqual(net.asked.map(({ path }) => path), [new URL(url).pathname]);
    }
  });

  test("a stop that is not allowed is told, and the connection is closed all the same", async () => {
    const [url, id] = fresh("unstoppable");
    const stream = streamEvents(url, { resume: true });
    await next(stream);
    await assert.rejects(stream.stop(), { kind: "status", status: 405 });
    await assert.rejects(next(stream), { kind: "cancelled" });
    assert.equal(await upstreamGone(id), "stopped"); // its last viewer left
  });
});

describe("by script", () => {
  let server, url, answers;
  const seen = [];
  const run = "R".repeat(22);
  const head = (response, more) =>
    response.writeHead(200, { "Content-Type": "text/event-stream", "Relay-Run": run, ...more });

  before(async () => {
    server = createServer((request, response) => {
      seen.push({ method: request.method, url: request.url, fields: request.headers });
      request.resume();
      answers.shift()(response);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    url = `http://127.0.0.1:${server.address().port}/stream`;
  });
  after(() => (server.close(), server.closeAllConnections()));
  beforeEach(() => void (seen.length = 0));

  const cut = (more, text) => (response) => head(response, more).write(text, () => response.destroy());

  test("Retry-After and retry: are obeyed, and 204 is the end", async () => {
    const waits = [];
    const onReconnect = ({ wait }) => waits.push(wait);
    answers = [
      cut({ "Content-Location": "/at" }, `retry: 2\n\ndata: 1\nid: ${run}-1\n\n`),
      (response) => response.writeHead(503, { "Retry-After": "0" }).end(),
      (response) => response.writeHead(204).end(),
    ];
    const events = await rest(streamEvents(url, { body: {}, resume: true, reconnect: { delay: 1e6, onReconnect } }));
    assert.deepEqual(events, [1]);
    assert.ok(waits[0] >= 1 && waits[0] <= 2 && waits[1] === 0, `${waits}`);
    assert.deepEqual(seen.map(({ method, url }) => [method, url]), [["POST", "/stream"], ["GET", "/at"], ["GET", "/at"]]);
  });

  test("204 before the event that completes it is a failure", async () => {
    for (const completeWhen of [(event) => event.data === "2", undefined]) {
      answers = [
        cut({ "Content-Location": "/at" }, `retry: 0\ndata: 1\nid: ${run}-1\n\n`),
        (response) => response.writeHead(204).end(),
      ];
      const stream = streamEvents(url, { body: {}, resume: true, completeWhen });
      await next(stream);
      if (completeWhen) await assert.rejects(next(stream), { kind: "status", status: 204 });
      else assert.deepEqual(await rest(stream), []);
    }
  });

  test("`retry-event` is no end: it is asked again when it said", async () => {
    const failure = 'data: {"type":"error","code":"upstream_unreachable","message":"m","retryable":true}\n\n';
    answers = [
      cut({ "Content-Location": "/at" }, `retry: 0\ndata: 1\nid: ${run}-1\n\n`),
      (response) => response.writeHead(200, { "Content-Type": "text/event-stream" }).end(`retry: 1\n\n${failure}`),
      (response) => head(response).end(`data: 2\nid: ${run}-2\n\n`),
    ];
    assert.deepEqual(await rest(streamEvents(url, { resume: true })), [1, 2]);
  });

  test("the caller's credentials go with every request, what is of the body only with the body", async () => {
    answers = [
      cut({ Location: "/threads/1", "Content-Location": "/theirs" }, `retry: 0\ndata: 1\nid: ${run}-1\n\n`),
      (response) => head(response).write(": here\n\n"),
      (response) => response.writeHead(204).end(),
    ];
    const headers = { Authorization: "Bearer b", "Content-Type": "application/json" };
    const stream = streamEvents(url, { body: {}, headers, resume: true, onComment: () => stream.stop() });
    await next(stream);
    await assert.rejects(next(stream), { kind: "cancelled" });
    assert.deepEqual(seen.map(({ method, url }) => [method, url]), [["POST", "/stream"], ["GET", "/threads/1"], ["DELETE", "/threads/1"]]);
    assert.ok(seen.every(({ fields }) => fields.authorization === "Bearer b"));
    assert.deepEqual(seen.map(({ fields }) => fields["content-type"]), ["application/json", undefined, undefined]);
  });

  test("who stops is told that he did, whatever is here first", async () => {
    for (const last of ['data: {"type":"error","code":"stopped","message":"m"}\n\n', "", undefined]) {
      let stream;
      answers = [
        (response) => (stream = response, head(response, { "Content-Location": "/at" }).write("data: 1\n\n")),
        (response) => (last === undefined ? stream.destroy() : stream.end(last), setImmediate(() => response.writeHead(204).end())),
      ];
      const reader = streamEvents(url, { body: {}, resume: true });
      await next(reader);
      const stopped = reader.stop("mine");
      await assert.rejects(next(reader), { kind: "cancelled", cause: "mine" });
      await stopped;
    }
  });

  test("an address of another origin is not followed, nor one of a server that is not relay", async () => {
    for (const fields of [{ "Content-Location": "http://127.0.0.1:1/at" }, { "Relay-Run": "", "Content-Location": "/at" }]) {
      answers = [cut(fields, `data: 1\n\n`)];
      const stream = streamEvents(url, { body: {}, resume: true });
      await next(stream);
      assert.equal(stream.at, undefined);
      await assert.rejects(next(stream), { kind: "cut" });
    }
  });

  test("a run that is gone in the middle is a failure, not an end", async () => {
    answers = [
      cut({ "Content-Location": "/at" }, `retry: 0\ndata: 1\nid: ${run}-1\n\n`),
      (response) => response.writeHead(404).end("gone"),
    ];
    const stream = streamEvents(url, { body: {}, resume: true });
    await next(stream);
    await assert.rejects(next(stream), { kind: "status", status: 404 });
    assert.equal(storage.size, 0);
  });

  test("of a GET, what is gone is asked for at the route itself, with the cursor: relay tells of the hole", async () => {
    const id = `${run}-1`;
    answers = [
      cut({ "Content-Location": "/at" }, `retry: 0\ndata: 1\nid: ${id}\n\n`),
      (response) => response.writeHead(404).end("gone"),
      (response) => head(response).end(`data: {"type":"gap","requested":"${id}","first":"x-1"}\n\ndata: 2\nid: x-1\n\n`),
    ];
    const gaps = [];
    assert.deepEqual(await rest(streamEvents(url, { resume: true, onGap: (gap) => gaps.push(gap) })), [1, 2]);
    assert.deepEqual(gaps, [{ requested: id, first: "x-1" }]);
    assert.deepEqual(seen.map(({ url, fields }) => [url, fields["last-event-id"]]), [["/stream", undefined], ["/at", id], ["/stream", id]]);
  });
});
