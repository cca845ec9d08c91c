// relay.js against a scripted server, in node: `node --test tests/interop/relay_js.test.mjs`.
// The order is forced by what the server has seen and sent, never by waiting.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, describe, test } from "node:test";

import {
  CancelledError,
  CutError,
  EventParser,
  ServerEvent,
  StatusError,
  streamEvents,
  TerminalError,
  terminal,
} from "../../relay/js/relay.js";

let server, url;
let answer; // (request, response, body): what the server does with the next requests

before(async () => {
  server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    await answer(request, response, body);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  url = `http://127.0.0.1:${server.address().port}/stream`;
});

after(() => (server.close(), server.closeAllConnections()));

const head = (response) => response.writeHead(200, { "Content-Type": "text/event-stream" });
const whole = (text) => (answer = (request, response) => head(response).end(text));
const collect = async (stream) => {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
};
const data = (events) => events.map((event) => event.data);
const kept = (events) => events.map(({ type, data, lastEventId }) => [type, data, lastEventId]);

const parse = (pieces) => {
  const parser = new EventParser();
  return { events: kept(pieces.flatMap((piece) => parser.push(piece))), parser };
};

describe("parser", () => {
  const { vectors } = JSON.parse(readFileSync(new URL("../core/sse_vectors.json", import.meta.url)));
  for (const { name, input, events, lastEventId, retry } of vectors) {
    test(name, () => {
      const bytes = Buffer.from(input, "latin1");
      const reads = [[bytes], [...bytes].map((byte) => Buffer.from([byte]))];
      for (let cut = 1; cut < bytes.length; cut++) {
        reads.push([bytes.subarray(0, cut), bytes.subarray(cut)]);
      }
      for (const pieces of reads) {
        const read = parse(pieces);
        assert.deepEqual(read.events, events.map((e) => [e.type, e.data, e.lastEventId]));
        assert.equal(read.parser.lastEventId, lastEventId);
        assert.equal(read.parser.retry ?? null, retry);
      }
    });
  }

  test("text may be pushed instead of bytes", () => {
    const { events } = parse(["\ufeffdata: é", "\r", "\n\r\n"]);
    assert.deepEqual(events, [["message", "é", ""]]);
  });

  test("a CR dispatches at once, before a LF can follow", () => {
    assert.deepEqual(parse(["data: x\r\r"]).events, [["message", "x", ""]]);
  });

  test("retry is remembered when it is digits only", () => {
    assert.equal(parse(["retry: 250\nretry: 1e3\nretry: -1\n\n"]).parser.retry, 250);
  });

  test("comments are told", () => {
    const seen = [];
    new EventParser({ onComment: (text) => seen.push(text) }).push(":\n\n: ping\n");
    assert.deepEqual(seen, ["", " ping"]);
  });

  test("a line of 4 MiB in pieces of 1 KiB takes no more than linear time", () => {
    const piece = "x".repeat(1024);
    const parser = new EventParser();
    parser.push("data: ");
    for (let n = 0; n < 4096; n++) parser.push(piece);
    assert.equal(parser.push("\n\n")[0].data.length, 4 * 1024 * 1024);
  });
});

describe("request", () => {
  test("a body is sent as JSON with POST, and fields are passed", async () => {
    let seen;
    answer = (request, response, body) => {
      seen = { method: request.method, headers: request.headers, body };
      head(response).end("data: 1\n\n");
    };
    await collect(streamEvents(url, { body: { query: "é" }, headers: { "X-Page": "p" } }));
    assert.equal(seen.method, "POST");
    assert.equal(seen.headers["content-type"], "application/json");
    assert.equal(seen.headers.accept, "text/event-stream");
    assert.equal(seen.headers["x-page"], "p");
    assert.deepEqual(JSON.parse(seen.body), { query: "é" });
  });

  test("without a body it is a GET, and lastEventId is sent as UTF-8", async () => {
    let seen;
    answer = (request, response) => {
      seen = [request.method, request.headers["last-event-id"]];
      head(response).end();
    };
    await collect(streamEvents(url, { lastEventId: "é7" }));
    assert.deepEqual(seen, ["GET", Buffer.from("é7").toString("latin1")]);
  });

  test("an object of a class is data too; what fetch knows is left to fetch", async () => {
    let seen;
    answer = (request, response, body) => {
      seen = [(request.headers["content-type"] ?? "").split(";")[0], body];
      head(response).end();
    };
    class Asked {
      query = "?";
    }
    async function* pieces() {
      yield new TextEncoder().encode("piece");
    }
    const form = new FormData();
    form.set("a", "b");
    const cases = [
      [new Asked(), "application/json", '{"query":"?"}'],
      [Object.create(null, { a: { value: 1, enumerable: true } }), "application/json", '{"a":1}'],
      [["a"], "application/json", '["a"]'],
      ["a", "text/plain", "a"],
      [new URLSearchParams({ a: "b" }), "application/x-www-form-urlencoded", "a=b"],
      [new Blob(["a"], { type: "text/csv" }), "text/csv", "a"],
      [new Uint8Array([97]), "", "a"],
    ];
    for (const [body, type, sent] of cases) {
      await collect(streamEvents(url, { body }));
      assert.deepEqual(seen, [type, sent]);
    }
    await collect(streamEvents(url, { body: form }));
    assert.equal(seen[0], "multipart/form-data");
    const fetchInPieces = (url, options) => fetch(url, { ...options, duplex: "half" });
    await collect(streamEvents(url, { body: pieces(), fetch: fetchInPieces }));
    assert.deepEqual(seen, ["", "piece"]);
  });

  test("text and method are left as they are", async () => {
    let seen;
    answer = (request, response, body) => {
      seen = [request.method, request.headers["content-type"], body];
      head(response).end();
    };
    const headers = { "Content-Type": "text/csv" };
    await collect(streamEvents(url, { method: "PUT", body: "a,b", headers }));
    assert.deepEqual(seen, ["PUT", "text/csv", "a,b"]);
  });
});

describe("reading", () => {
  test("each event arrives before the next is sent", async () => {
    let go;
    answer = async (request, response) => {
      head(response);
      for (let n = 0; n < 3; n++) {
        response.write(`data: ${n}\n\n`);
        await new Promise((resolve) => (go = resolve)); // only the reader lets it go on
      }
      response.end();
    };
    const seen = [];
    for await (const event of streamEvents(url)) {
      seen.push(event.data);
      go();
    }
    assert.deepEqual(seen, ["0", "1", "2"]);
  });

  test("onEvent alone reads by itself", async () => {
    whole("data: 1\n\ndata: 2\n\n");
    const seen = [];
    await streamEvents(url, { onEvent: (event) => seen.push(event.json()) }).finished;
    assert.deepEqual(seen, [1, 2]);
  });

  test("onEvent and a loop see the same events once", async () => {
    whole("data: 1\n\ndata: 2\n\n");
    const seen = [];
    const events = await collect(streamEvents(url, { onEvent: (event) => seen.push(event) }));
    assert.equal(seen.length, 2);
    assert.deepEqual(seen, events);
  });

  test("leaving the loop closes the connection", async () => {
    let closed;
    answer = (request, response) => {
      closed = once(response, "close");
      head(response).write("data: 1\n\n");
    };
    for await (const event of streamEvents(url)) if (event.data === "1") break;
    await closed;
  });

  test("completeWhen ends the stream and closes the connection", async () => {
    let closed;
    answer = (request, response) => {
      closed = once(response, "close");
      head(response).write("data: 1\n\ndata: [DONE]\n\ndata: 2\n\n");
    };
    const events = await collect(
      streamEvents(url, { completeWhen: (event) => event.data === "[DONE]" }),
    );
    assert.deepEqual(data(events), ["1", "[DONE]"]);
    await closed;
  });
});

describe("errors", () => {
  const failure = async (options) => {
    const events = [];
    try {
      for await (const event of streamEvents(url, options)) events.push(event.data);
    } catch (error) {
      return { error, events };
    }
    return assert.fail("it did not fail");
  };

  test("status: the server's status and body", async () => {
    answer = (request, response) => response.writeHead(404).end("no such thing");
    const { error } = await failure();
    assert.ok(error instanceof StatusError);
    assert.deepEqual([error.kind, error.name], ["status", "StatusError"]);
    assert.deepEqual([error.status, error.body, error.retryable], [404, "no such thing", false]);
  });

  test("status: 503 is worth another try", async () => {
    answer = (request, response) => response.writeHead(503).end();
    assert.equal((await failure()).error.retryable, true);
  });

  test("status: 200 that is no event stream", async () => {
    answer = (request, response) =>
      response.writeHead(200, { "Content-Type": "text/html" }).end("<p>");
    const { error } = await failure();
    assert.deepEqual([error.kind, error.status], ["status", 200]);
    assert.match(error.message, /text\/html/);
  });

  const dialects = {
    plain: ['data: {"type":"error","code":"upstream_broke","message":"m","retryable":true}', "upstream_broke", true],
    named: ['event: error\ndata: {"code":"c","message":"m","retryable":false}', "c", false],
    openai: ['data: {"error":{"message":"m","type":"server_error","code":null}}', "server_error", false],
    anthropic: ['event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m"}}', "overloaded_error", false],
    "ai-sdk": ['data: {"type":"error","errorText":"m"}', "", false],
  };
  for (const [dialect, [text, code, retryable]] of Object.entries(dialects)) {
    test(`terminal: ${dialect}`, async () => {
      whole(`data: 1\n\n${text}\n\ndata: never\n\n`);
      const { error, events } = await failure();
      assert.ok(error instanceof TerminalError);
      assert.deepEqual([error.kind, error.code, error.message], ["terminal", code, "m"]);
      assert.equal(error.retryable, retryable);
      assert.deepEqual(events, ["1"]);
    });
  }

  test("terminal: data that only looks like one is passed on", async () => {
    for (const text of ["[DONE]", "null", '{"error":null}', '{"type":"chunk"}', "7"]) {
      assert.equal(terminal(new ServerEvent("message", text, "")), undefined);
    }
    whole('data: {"type":"error"}\n\n');
    assert.equal((await collect(streamEvents(url, { isTerminal: false }))).length, 1);
  });

  test("cut: the connection broke", async () => {
    answer = (request, response) => {
      head(response).write("data: 1\n\ndata: ha", () => response.destroy());
    };
    const { error, events } = await failure();
    assert.ok(error instanceof CutError);
    assert.deepEqual([error.kind, error.retryable], ["cut", true]);
    assert.deepEqual(events, ["1"]);
  });

  test("cut: a clean end inside an event, and one before completeWhen", async () => {
    whole("data: 1\n\ndata: ha");
    assert.equal((await failure()).error.kind, "cut");
    whole("data: 1\n\n");
    assert.equal((await failure({ completeWhen: () => false })).error.kind, "cut");
  });

  test("cut: nobody listens", async () => {
    const stream = streamEvents("http://127.0.0.1:1/");
    await assert.rejects(stream.next(), (error) => error.kind === "cut");
  });

  test("cancelled: by signal and by cancel(), before the answer and after", async () => {
    const early = new AbortController();
    answer = () => early.abort("typed on");
    const { error } = await failure({ signal: early.signal });
    assert.ok(error instanceof CancelledError);
    assert.deepEqual([error.kind, error.cause], ["cancelled", "typed on"]);

    let closed;
    answer = (request, response) => {
      closed = once(response, "close");
      head(response).write("data: 1\n\n");
    };
    const stream = streamEvents(url, { onEvent: () => stream.cancel("stop") });
    await assert.rejects(stream.finished, (error) => error.kind === "cancelled");
    await closed;
  });

  test("an error in onEvent ends the stream and is told", async () => {
    whole("data: 1\n\n");
    const stream = streamEvents(url, { onEvent: () => { throw new Error("mine"); } });
    await assert.rejects(stream.finished, /mine/);
  });
});

describe("reconnection", () => {
  const scripted = (...answers) => {
    const seen = [];
    answer = (request, response) => {
      seen.push(request.headers["last-event-id"]);
      answers.shift()(response);
    };
    return seen;
  };
  const cut = (text) => (response) => head(response).write(text, () => response.destroy());
  const end = (text) => (response) => head(response).end(text);

  test("after a cut, with Last-Event-ID and the delay of retry:", async () => {
    const waits = [];
    const seen = scripted(cut("retry: 1\nid: a\ndata: 1\n\nid: b\n\n"), end("data: 2\n\n"));
    const reconnect = { delay: 1e6, onReconnect: ({ wait }) => waits.push(wait) };
    assert.deepEqual(data(await collect(streamEvents(url, { reconnect }))), ["1", "2"]);
    assert.deepEqual(seen, [undefined, "b"]);
    assert.ok(waits.length === 1 && waits[0] >= 0.5 && waits[0] <= 1);
  });

  test("after 503 with Retry-After, and after a retryable terminal event", async () => {
    scripted(
      (response) => response.writeHead(503, { "Retry-After": "0" }).end(),
      end('retry: 0\ndata: {"type":"error","code":"x","message":"m","retryable":true}\n\n'),
      end("data: 1\n\n"),
    );
    assert.deepEqual(data(await collect(streamEvents(url, { reconnect: true }))), ["1"]);
  });

  test("Retry-After as a date", async () => {
    const waits = [];
    for (const ms of [5000, -5000]) {
      const date = new Date(Date.now() + ms).toUTCString();
      scripted((response) => response.writeHead(503, { "Retry-After": date }).end(), end("data: 1\n\n"));
      const onReconnect = ({ wait }) => (waits.push(wait), ms > 0 && stream.cancel());
      const stream = streamEvents(url, { reconnect: { onReconnect } });
      if (ms > 0) await assert.rejects(stream.next(), { kind: "cancelled" });
      else assert.deepEqual(data(await collect(stream)), ["1"]);
    }
    assert.ok(waits[0] > 1000 && waits[0] <= 5000 && waits[1] === 0, `${waits}`);
  });

  test("not after a final failure, and not without being asked", async () => {
    scripted((response) => response.writeHead(404).end());
    await assert.rejects(streamEvents(url, { reconnect: true }).next(), { status: 404 });
    scripted((response) => response.writeHead(503).end());
    await assert.rejects(streamEvents(url).next(), { status: 503 });
  });

  test("attempts without an event between them are counted, delays grow", async () => {
    const waits = [];
    const refuse = (response) => response.writeHead(502).end();
    const seen = scripted(refuse, refuse, refuse, refuse);
    const reconnect = { attempts: 3, delay: 4, maxDelay: 10, onReconnect: (n) => waits.push(n.wait) };
    await assert.rejects(streamEvents(url, { reconnect }).next(), { status: 502 });
    assert.equal(seen.length, 4);
    for (const [n, most] of [4, 8, 10].entries()) {
      assert.ok(waits[n] >= most / 2 && waits[n] <= most, `${waits[n]} of ${most}`);
    }
  });

  test("a clean end reconnects with onEnd, and 204 stops", async () => {
    scripted(end("retry: 0\ndata: 1\n\n"), (response) => response.writeHead(204).end());
    const stream = streamEvents(url, { reconnect: { onEnd: true } });
    assert.deepEqual(data(await collect(stream)), ["1"]);
  });

  test("cancel while it waits", async () => {
    scripted(cut("data: 1\n\n"));
    const reconnect = { delay: 1e6, onReconnect: () => queueMicrotask(() => stream.cancel()) };
    const stream = streamEvents(url, { reconnect });
    await assert.rejects(collect(stream), (error) => error.kind === "cancelled");
  });
});
