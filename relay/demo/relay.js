// relay.js: read a stream of server-sent events with fetch. No dependencies, no build step.
//
//   for await (const event of streamEvents("/api/query/stream", { method: "POST", body: { query } }))
//     show(event.json());
//
// What it adds to fetch: a parser that follows the specification (WHATWG HTML §9.2.6), an end that is
// told apart from a break, reconnection where asked, and nothing left behind when you stop reading.
// Types and every option: relay.d.ts. Reference: docs/reference/relay-js.md.

const FIRST_DELAY = 1000; // ms before the first reconnection, until the stream sends `retry:`
const LAST_DELAY = 30_000; // ms that the back-off grows to
const ERROR_BODY = 64 * 1024; // characters of an error response that are kept
const RETRYABLE = new Set([408, 425, 429, 502, 503, 504]);

/** What went wrong; `kind` is "status", "terminal", "cut" or "cancelled". */
export class StreamError extends Error {
  constructor(kind, message, retryable, options) {
    super(message, options);
    this.name = new.target.name;
    this.kind = kind;
    this.retryable = retryable;
  }
}

/** The server answered, but not with an event stream. Its status and body are here. */
export class StatusError extends StreamError {
  constructor(response, body, message = `HTTP ${response.status}`) {
    super("status", message, RETRYABLE.has(response.status));
    this.status = response.status;
    this.headers = response.headers;
    this.body = body;
  }
}

/** The stream said itself that it failed: its last event is an error. */
export class TerminalError extends StreamError {
  constructor(event, { code = "", message = "the stream ended with an error", retryable = false }) {
    super("terminal", message, retryable);
    this.event = event;
    this.code = code;
  }
}

/** The connection broke, or the body ended inside an event or before it was complete. */
export class CutError extends StreamError {
  constructor(message, options) {
    super("cut", message, true, options);
  }
}

/** You stopped it: `signal` was aborted or `cancel()` called. */
export class CancelledError extends StreamError {
  constructor(reason) {
    super("cancelled", "the stream was cancelled", false, { cause: reason });
  }
}

/** One dispatched event, with the fields of a MessageEvent. */
export class ServerEvent {
  constructor(type, data, lastEventId) {
    this.type = type;
    this.data = data;
    this.lastEventId = lastEventId;
  }

  /** The data as JSON; undefined when it is not JSON. */
  json() {
    try {
      return JSON.parse(this.data);
    } catch {
      return undefined;
    }
  }
}

/** Bytes or text in, events out; any split of the input gives the same events. */
export class EventParser {
  #decoder = new TextDecoder(); // drops one byte order mark, replaces what is not UTF-8
  #line = ""; // the unfinished line
  #afterCr = false; // the last character was CR: a LF that follows belongs to it
  #type = "";
  #data = [];
  #id;

  constructor({ lastEventId = "", onComment } = {}) {
    this.lastEventId = lastEventId; // of the last dispatched block; goes into Last-Event-ID
    this.retry = undefined; // ms, as last sent by the stream
    this.onComment = onComment;
    this.#id = lastEventId;
  }

  /** Whether the input so far ends inside an event: at the end of a body, that event is lost. */
  get unfinished() {
    return this.#line !== "" || this.#data.length > 0 || this.#type !== "";
  }

  /** Feed a piece (Uint8Array or string) and take the events that it completed. */
  push(piece) {
    const bytes = typeof piece === "string" ? new TextEncoder().encode(piece) : piece;
    const text = this.#decoder.decode(bytes, { stream: true });
    const events = [];
    let start = 0;
    if (this.#afterCr && text !== "") {
      if (text[0] === "\n") start = 1;
      this.#afterCr = false;
    }
    const ends = /\r\n?|\n/g;
    ends.lastIndex = start;
    for (let end; (end = ends.exec(text)); start = ends.lastIndex) {
      this.#endLine(this.#line + text.slice(start, end.index), events);
      this.#line = "";
      this.#afterCr = end[0] === "\r" && ends.lastIndex === text.length;
    }
    this.#line += text.slice(start);
    return events;
  }

  #endLine(line, events) {
    if (line === "") return this.#dispatch(events);
    const colon = line.indexOf(":");
    if (colon === 0) return this.onComment?.(line.slice(1));
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatch(events) {
    this.lastEventId = this.#id; // also when there is no data
    if (this.#data.length > 0) {
      events.push(new ServerEvent(this.#type || "message", this.#data.join("\n"), this.#id));
    }
    this.#type = "";
    this.#data = [];
  }
}

/**
 * Read a stream of events. The result is an async iterator; with `onEvent` it runs by itself and
 * `finished` tells the end. Leaving the loop, `cancel()` and `signal` all close the connection.
 */
export function streamEvents(url, options = {}) {
  const control = new AbortController();
  const signal = options.signal
    ? AbortSignal.any([options.signal, control.signal])
    : control.signal;
  const events = connections(url, { ...options, signal });
  let finish, fail, iterated = false;
  const finished = new Promise((resolve, reject) => ([finish, fail] = [resolve, reject]));

  const stream = {
    finished,
    cancel: (reason) => control.abort(reason),
    async next() {
      iterated = true;
      try {
        const step = await events.next();
        if (step.done) finish();
        else options.onEvent?.(step.value);
        return step;
      } catch (error) {
        control.abort();
        fail(error);
        throw error;
      }
    },
    async return(value) {
      control.abort(); // before the generator's own turn: it may be waiting in fetch
      finish();
      await events.return().catch(() => {});
      return { done: true, value };
    },
    [Symbol.asyncIterator]: () => stream,
  };
  queueMicrotask(async () => {
    // Whoever iterates has the error from next(), and a cancel is no surprise: only a failure that
    // nobody would see stays an unhandled rejection of `finished`.
    const alone = options.onEvent && !iterated;
    const failure = alone ? await drain(stream) : undefined;
    if (!alone || failure?.kind === "cancelled") finished.catch(() => {});
  });
  return stream;
}

async function drain(stream) {
  try {
    while (!(await stream.next()).done);
  } catch (error) {
    return error;
  }
}

/** One connection after the other, until the stream is complete or the failure is final. */
async function* connections(url, options) {
  const policy = reconnection(options.reconnect);
  const state = { lastEventId: options.lastEventId ?? "", retry: undefined };
  for (let failures = 0; ; failures++) {
    let wait;
    try {
      for await (const event of connection(url, options, state)) {
        failures = 0;
        yield event;
      }
      if (!policy.onEnd || state.complete || failures >= policy.attempts) return;
    } catch (error) {
      const final = error.kind === "cancelled" || !error.retryable;
      if (final || failures >= policy.attempts) throw error;
      wait = retryAfter(error);
    }
    // `retry: 0` means at once, but not again and again: from the second failure on it counts as 100.
    const first = (state.retry ?? policy.delay) || (failures && 100);
    const base = first * 2 ** Math.min(failures, 20);
    wait ??= Math.min(base, policy.maxDelay) * (0.5 + Math.random() / 2);
    policy.onReconnect?.({ wait, lastEventId: state.lastEventId });
    await pause(wait, options.signal);
  }
}

/** One request and its events. Ends when the body does; everything else is thrown. */
async function* connection(url, options, state) {
  const response = await open(url, options, state);
  if (response.status === 204) return void (state.complete = true);
  const { completeWhen, onComment, isTerminal = terminal } = options;
  const parser = new EventParser({ lastEventId: state.lastEventId, onComment });
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await read(reader, options.signal);
      if (done) break;
      const events = parser.push(value);
      state.retry = parser.retry ?? state.retry;
      for (const event of events) {
        state.lastEventId = event.lastEventId;
        const failed = isTerminal && isTerminal(event);
        if (failed) throw new TerminalError(event, failed);
        yield event;
        if (completeWhen?.(event)) return void (state.complete = true);
      }
      state.lastEventId = parser.lastEventId; // a block with only an id moves it too
    }
    if (parser.unfinished) throw new CutError("the body ended inside an event");
    if (completeWhen) throw new CutError("the body ended before the stream was complete");
  } finally {
    reader.cancel().catch(() => {}); // closes the connection unless the body has ended
  }
}

async function open(url, options, state) {
  const headers = new Headers(options.headers);
  if (!headers.has("Accept")) headers.set("Accept", "text/event-stream");
  if (state.lastEventId) headers.set("Last-Event-ID", utf8(state.lastEventId));
  let { body } = options;
  if (isData(body)) {
    body = JSON.stringify(body);
    if (!headers.has("Content-Type")) headers.set("Content-Type", "application/json");
  }
  const { method = body == null ? "GET" : "POST", signal, credentials } = options;
  let response;
  try {
    const { fetch = globalThis.fetch } = options;
    response = await fetch(url, { method, headers, body, signal, credentials, cache: "no-store" });
  } catch (error) {
    throw signal.aborted ? new CancelledError(signal.reason) : new CutError("no answer", { cause: error });
  }
  if (response.status === 204) return response;
  const type = (response.headers.get("Content-Type") ?? "").split(";")[0].trim().toLowerCase();
  if (response.status === 200 && type === "text/event-stream") return response;
  const text = await response.text().catch(() => "");
  if (signal.aborted) throw new CancelledError(signal.reason);
  const message = response.ok ? `not an event stream but ${type || "without a type"}` : undefined;
  throw new StatusError(response, text.slice(0, ERROR_BODY), message);
}

/** Whether a body is an object or array of the caller's own, and none that fetch knows (a Blob, a stream …). */
function isData(body) {
  const tag = Object.prototype.toString.call(body);
  return tag === "[object Array]" || (tag === "[object Object]" && !(Symbol.asyncIterator in body));
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal.aborted) throw new CancelledError(signal.reason);
    throw new CutError("the connection broke", { cause: error });
  }
}

/** The failure that an event reports, in each dialect that relay writes; undefined if none. */
export function terminal(event) {
  const data = event.json();
  if (event.type !== "error" && data?.type !== "error" && !data?.error?.message) return undefined;
  const inner = typeof data?.error === "object" ? data.error : data; // openai and anthropic nest it
  const { code, type, message = inner?.errorText, retryable } = inner ?? {}; // errorText: ai-sdk
  return { code: code ?? (type === "error" ? "" : type), message: message ?? event.data, retryable };
}

function reconnection(asked) {
  const off = { attempts: 0, onEnd: false, delay: FIRST_DELAY, maxDelay: LAST_DELAY };
  if (!asked) return off;
  return { ...off, attempts: Infinity, ...(asked === true ? {} : asked) };
}

function retryAfter(error) {
  const value = error.headers?.get("Retry-After");
  if (!value) return undefined;
  const wait = /^[0-9]+$/.test(value) ? value * 1000 : Date.parse(value) - Date.now(); // RFC 9110 §10.2.3
  return Number.isFinite(wait) ? Math.max(0, wait) : undefined;
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(new CancelledError(signal.reason)));
    const timer = setTimeout(() => (signal.removeEventListener("abort", stop), resolve()), ms);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}

/** A field value is bytes: each UTF-8 byte as one character, which is what fetch sends. */
function utf8(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}
