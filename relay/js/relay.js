// relay.js: read a stream of server-sent events with fetch. No dependencies, no build step.
//
//   for await (const event of streamEvents("/api/query/stream", { method: "POST", body: { query } }))
//     show(event.json());
//
// What it adds to fetch: a parser that follows the specification (WHATWG HTML §9.2.6), an end that is
// told apart from a break, reconnection where asked, resuming where relay offers it, and nothing left
// behind when you stop reading.
// Types and every option: relay.d.ts. Reference: docs/reference/relay-js.md.

const FIRST_DELAY = 1000; // ms before the first reconnection, until the stream sends `retry:`
const LAST_DELAY = 30_000; // ms that the back-off grows to
const ERROR_BODY = 64 * 1024; // characters of an error response that are kept
const RETRYABLE = new Set([408, 425, 429, 502, 503, 504]);

const INCOMPLETE = "there is nothing more to read, and the stream was not complete";

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
 * `finished` tells the end. Leaving the loop, `cancel()` and `signal` close the connection; `stop()`
 * also ends a resumable stream for everybody.
 */
export function streamEvents(url, options = {}) {
  const place = new Place(url, options);
  const known = options.resume && place.get ? place.recall() : undefined;
  return reading(url, options, Object.assign(place, known, { remembered: Boolean(known) }));
}

/** What this tab was reading from `url` before it was reloaded, from its first event; undefined if nothing. */
export function rejoin(url, options = {}) {
  const asked = { ...options, resume: options.resume || true };
  const place = new Place(url, asked);
  const known = place.recall();
  return known && reading(url, asked, Object.assign(place, known, { remembered: true, get: false }));
}

function reading(url, options, place) {
  const control = new AbortController();
  const signal = options.signal
    ? AbortSignal.any([options.signal, control.signal])
    : control.signal;
  const events = connections(url, { ...options, signal }, place);
  let finish, fail, iterated = false;
  const finished = new Promise((resolve, reject) => ([finish, fail] = [resolve, reject]));

  const stream = {
    finished,
    get run() {
      return place.run;
    },
    get at() {
      return place.at;
    },
    cancel: (reason) => control.abort(reason),
    async stop(reason) {
      place.stopped = new CancelledError(reason); // also where the terminal event is here before the answer
      if (!place.at) await place.head?.catch(() => {}); // the address stands in the head
      try {
        await place.seal(options);
      } finally {
        control.abort(reason);
      }
    },
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

/** Where a stream is and how far it was read: what a reconnection asks for, and `stop()`. */
class Place {
  retry = undefined; // ms, as last sent by the stream
  complete = false;
  stopped = undefined; // what the stream ends with once stop() was called
  over = false; // it ended with a terminal event
  run = undefined; // the id of relay's run: there is something to resume
  remembered = false; // known from before a reload, and not yet found
  head = undefined; // the request in flight

  constructor(url, { lastEventId = "", method, body, resume }) {
    this.lastEventId = lastEventId;
    this.get = (method ?? (body == null ? "GET" : "POST")).toUpperCase() === "GET";
    this.at = resume?.at && absolute(resume.at); // where it is joined, resumed (GET) and stopped (DELETE)
    this.name = resume && `relay.js ${resume.name ?? absolute(url)}`;
    this.origins = [absolute(url), this.at].filter(Boolean).map((each) => new URL(each).origin);
  }

  /** What is kept of it over a reload. Whoever wrote it, credentials go to no other origin than the caller's own. */
  recall() {
    const known = recall(this.name);
    return known && this.origins.includes(new URL(known.at).origin) ? known : undefined;
  }

  /** Whether to ask again begins nothing twice. */
  get repeatable() {
    return this.get || Boolean(this.run && (this.at || this.lastEventId));
  }

  /** Take what the head of a resumable stream says. */
  found(response, url) {
    const run = response.headers.get("Relay-Run");
    if (!run) return;
    this.run = run;
    this.remembered = false;
    const given = response.headers.get("Location") ?? response.headers.get("Content-Location");
    const from = response.url || absolute(url);
    const at = given && new URL(given, from);
    if (at && at.origin === new URL(from).origin) this.at ??= at.href; // no credentials for another
    if (this.name && this.at) remember(this.name, { at: this.at, run });
  }

  /** The stream has ended, or is not there any more. */
  forget() {
    if (this.name && recall(this.name)?.run === this.run) remember(this.name, undefined);
  }

  async seal({ headers, credentials, fetch = globalThis.fetch }) {
    if (!this.at) return;
    const asked = { method: "DELETE", headers: withoutBody(headers), credentials, keepalive: true };
    const response = await fetch(this.at, asked).catch((error) => {
      throw new CutError("no answer to the stop", { cause: error });
    });
    const gone = response.status === 404;
    if (!response.ok && !gone) throw new StatusError(response, await textOf(response));
    this.forget();
  }
}

/** One connection after the other, until the stream is complete or the failure is final. */
async function* connections(url, options, place) {
  const { resume } = options;
  const policy = reconnection(options.reconnect ?? Boolean(resume));
  for (let failures = 0; ; failures++) {
    let wait;
    try {
      for await (const event of connection(url, options, place)) {
        failures = 0;
        yield event;
      }
      if (place.stopped) throw place.stopped;
      if (!policy.onEnd || place.complete || failures >= policy.attempts) return place.forget();
    } catch (failure) {
      const error = place.stopped ?? failure;
      const ended = !error.retryable || (resume && place.over);
      if (ended && error.kind !== "cancelled") place.forget();
      const final = ended || !(options.reconnect || place.repeatable);
      if (final || failures >= policy.attempts) throw error;
      wait = retryAfter(error);
    }
    // `retry: 0` means at once, but not again and again: from the second failure on it counts as 100.
    const first = (place.retry ?? policy.delay) || (failures && 100);
    const base = first * 2 ** Math.min(failures, 20);
    wait ??= Math.min(base, policy.maxDelay) * (0.5 + Math.random() / 2);
    policy.onReconnect?.({ wait, lastEventId: place.lastEventId });
    await pause(wait, options.signal);
  }
}

/** One request and its events. Ends when the body does; everything else is thrown. */
async function* connection(url, options, place) {
  const response = await (place.head = open(url, options, place));
  const { completeWhen, onComment, onGap, isTerminal = terminal } = options;
  if (response.status !== 200) {
    if (options.resume && completeWhen && place.lastEventId) throw new StatusError(response, "", INCOMPLETE);
    return void (place.complete = true);
  }
  const parser = new EventParser({ lastEventId: place.lastEventId, onComment });
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await read(reader, options.signal);
      if (done) break;
      const events = parser.push(value);
      place.retry = parser.retry ?? place.retry;
      for (const event of events) {
        place.lastEventId = event.lastEventId;
        const failed = isTerminal && isTerminal(event);
        if (failed) {
          // The end of a run is its end for all. Relay's `unavailable = "retry-event"` is none: it says when to come again.
          place.over = response.headers.has("Relay-Run") || parser.retry === undefined;
          throw new TerminalError(event, failed);
        }
        const gap = options.resume && onGap && gapIn(event);
        if (gap) onGap(gap);
        else yield event;
        if (completeWhen?.(event)) return void (place.complete = true);
      }
      place.lastEventId = parser.lastEventId; // a block with only an id moves it too
    }
    if (parser.unfinished) throw new CutError("the body ended inside an event");
    if (completeWhen) throw new CutError("the body ended before the stream was complete");
  } finally {
    reader.cancel().catch(() => {}); // closes the connection unless the body has ended
  }
}

/** The response: an event stream, or one that says that there is nothing (more) to read. */
async function open(url, options, place) {
  const { signal, credentials, resume, fetch = globalThis.fetch } = options;
  const joins = resume && place.run && place.at; // reads what is there, and begins nothing
  const headers = joins ? withoutBody(options.headers) : new Headers(options.headers);
  if (!headers.has("Accept")) headers.set("Accept", "text/event-stream");
  if (place.lastEventId) headers.set("Last-Event-ID", utf8(place.lastEventId));
  let body = joins ? undefined : options.body;
  if (isData(body)) {
    body = JSON.stringify(body);
    if (!headers.has("Content-Type")) headers.set("Content-Type", "application/json");
  }
  const method = joins ? "GET" : (options.method ?? (body == null ? "GET" : "POST"));
  let response;
  try {
    const asked = { method, headers, body, signal, credentials, cache: "no-store" };
    response = await fetch(joins ? place.at : url, asked);
  } catch (error) {
    throw signal.aborted ? new CancelledError(signal.reason) : new CutError("no answer", { cause: error });
  }
  const missing = response.status === 404 || (response.status === 204 && place.remembered);
  if (joins && missing && (place.get || place.remembered)) response.body?.cancel();
  if (joins && missing && place.get) {
    place.forget();
    place.run = place.at = undefined; // gone: ask as without it; relay tells of the hole
    return open(url, options, place);
  }
  if (response.status === 204 || (joins && missing && place.remembered)) return response;
  const type = (response.headers.get("Content-Type") ?? "").split(";")[0].trim().toLowerCase();
  if (response.status === 200 && type === "text/event-stream") {
    place.found(response, url);
    return response;
  }
  const text = await textOf(response);
  if (signal.aborted) throw new CancelledError(signal.reason);
  const message = response.ok ? `not an event stream but ${type || "without a type"}` : undefined;
  throw new StatusError(response, text, message);
}

const textOf = async (response) => (await response.text().catch(() => "")).slice(0, ERROR_BODY);

/** The caller's fields, credentials among them, for a request that has no body. */
function withoutBody(fields) {
  const headers = new Headers(fields);
  headers.delete("Content-Type");
  return headers;
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

/** What a gap event tells: `requested` is the id that was asked behind, `first` that of what comes next. */
function gapIn(event) {
  const { type, requested, first } = event.json() ?? {};
  const isGap = type === "gap" && typeof requested === "string" && typeof first === "string";
  return isGap ? { requested, first } : undefined;
}

/** What this tab keeps over a reload: the address of the run and its id, never an event. */
function recall(name) {
  try {
    const { at, run } = JSON.parse(sessionStorage.getItem(name)) ?? {};
    return new URL(at) && run && typeof run === "string" ? { at, run } : undefined;
  } catch {
    return undefined; // no storage here, or not for us
  }
}

function remember(name, known) {
  try {
    if (known) sessionStorage.setItem(name, JSON.stringify(known));
    else sessionStorage.removeItem(name);
  } catch {
    // A page without storage asks again after a reload; relay joins it where the route has a key.
  }
}

const absolute = (url) => new URL(url, globalThis.document?.baseURI).href;

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
