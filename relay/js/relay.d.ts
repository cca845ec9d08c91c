/** relay.js: read a stream of server-sent events with fetch. Times are milliseconds. */

export interface StreamOptions {
  /** Default: POST with a body, GET without. */
  method?: string;
  /** An object or array of your own is sent as JSON; what fetch knows, as fetch takes it. */
  body?: BodyInit | object | null;
  headers?: HeadersInit;
  credentials?: RequestCredentials;
  /** Abort it to close the connection; the stream ends with a CancelledError. */
  signal?: AbortSignal;
  /** Called for each event. Without a loop over the result, the stream reads by itself. */
  onEvent?: (event: ServerEvent) => void;
  /** Called for each comment line (heartbeats), with the text after the colon. */
  onComment?: (text: string) => void;
  /** Sent as Last-Event-ID with the first request; reconnections send the last one received. */
  lastEventId?: string;
  /** Default false. true: after a cut and a retryable failure, for as long as it takes. */
  reconnect?: boolean | ReconnectOptions;
  /**
   * Default false. true, of a route with `[routes.resume]`: a connection that breaks is taken up again
   * behind the last event, for as long as it takes (`reconnect` tunes how); a reload is survived.
   */
  resume?: boolean | ResumeOptions;
  /** With `resume`: called for a gap event, which is then not yielded. Without: it is an event as any other. */
  onGap?: (gap: Gap) => void;
  /** The event after which the stream is complete; an end without it is a CutError. */
  completeWhen?: (event: ServerEvent) => boolean;
  /** Which events are failures. Default: `terminal`. false: none, every event is passed on. */
  isTerminal?: false | ((event: ServerEvent) => Failure | undefined);
  /** In place of the global fetch. */
  fetch?: typeof globalThis.fetch;
}

export interface ReconnectOptions {
  /** Reconnections without an event between them before the error is final. Default Infinity. */
  attempts?: number;
  /** Before the first reconnection, doubled for each further one. Default 1000, or `retry:`. */
  delay?: number;
  /** What the delay grows to. Default 30000. Each delay is jittered to 50–100 %. */
  maxDelay?: number;
  /** Whether a clean end reconnects too, as EventSource does. Default false; 204 always stops. */
  onEnd?: boolean;
  onReconnect?: (next: { wait: number; lastEventId: string }) => void;
}

export interface ResumeOptions {
  /** Where the stream is joined, resumed and stopped. Default: what the response says (Content-Location). */
  at?: string | URL;
  /** What it is remembered by in `sessionStorage`. Default: its url. */
  name?: string;
}

/** Events that are missing: they were trimmed from the log, or their run is not kept any more. */
export interface Gap {
  /** The id behind which it was asked. */
  requested: string;
  /** The id of the event that comes next. */
  first: string;
}

export interface Failure {
  code?: string;
  message?: string;
  retryable?: boolean;
}

export interface EventStream extends AsyncIterableIterator<ServerEvent> {
  /** Settles when the stream has ended; rejects with a StreamError. */
  readonly finished: Promise<void>;
  /** Close the connection; the stream ends with a CancelledError. A resumable one goes on for others. */
  cancel(reason?: unknown): void;
  /**
   * Cancel, and end a resumable stream for every reader and for the upstream (DELETE). Waits for the head
   * if the address is not known yet. Rejects with a StatusError or CutError if the server did not do it.
   */
  stop(reason?: unknown): Promise<void>;
  /** The id of the resumable stream's run, once its head is there. */
  readonly run: string | undefined;
  /** Where the resumable stream is joined, resumed and stopped, once known. */
  readonly at: string | undefined;
}

/**
 * Read a stream of events. Leaving the loop closes the connection.
 * @throws StatusError, TerminalError, CutError or CancelledError, from the iterator.
 */
export function streamEvents(url: string | URL, options?: StreamOptions): EventStream;

/**
 * What this tab was reading from `url` with `resume` when the page was reloaded, from its first event on;
 * undefined if nothing. It begins nothing: of what is gone meanwhile, the stream ends at once.
 */
export function rejoin(url: string | URL, options?: Omit<StreamOptions, "method" | "body">): EventStream | undefined;

/** The failure that an event reports in each dialect that relay writes; undefined if none. */
export function terminal(event: ServerEvent): Failure | undefined;

export class ServerEvent {
  constructor(type: string, data: string, lastEventId: string);
  readonly type: string;
  readonly data: string;
  readonly lastEventId: string;
  /** The data as JSON; undefined when it is not JSON. */
  json(): any;
}

/** Bytes or text in, events out; any split of the input gives the same events. */
export class EventParser {
  constructor(options?: { lastEventId?: string; onComment?: (text: string) => void });
  readonly lastEventId: string;
  readonly retry: number | undefined;
  readonly unfinished: boolean;
  push(piece: Uint8Array | string): ServerEvent[];
}

export class StreamError extends Error {
  readonly kind: "status" | "terminal" | "cut" | "cancelled";
  readonly retryable: boolean;
}
/** The server answered, but not with an event stream. */
export class StatusError extends StreamError {
  readonly kind: "status";
  readonly status: number;
  readonly headers: Headers;
  /** At most 65536 characters. */
  readonly body: string;
}
/** The stream said itself that it failed: its last event is an error. */
export class TerminalError extends StreamError {
  readonly kind: "terminal";
  readonly event: ServerEvent;
  readonly code: string;
}
/** The connection broke, or the body ended inside an event or before it was complete. */
export class CutError extends StreamError {
  readonly kind: "cut";
}
/** `signal` was aborted or `cancel()` called; the reason is the `cause`. */
export class CancelledError extends StreamError {
  readonly kind: "cancelled";
}
