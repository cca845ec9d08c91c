// The six systems: what the page asks relay for, and how a hand-built proxy would have to be asked.

import { rejoin, StatusError, streamEvents } from "./relay.js";

const ANSWERS = "/api/answers";
const retried = { delay: 250, maxDelay: 1000 };

/**
 * A system as the page needs it: `relay` and `proxy` open its stream, `text` shows an event. A `shared` one can be read
 * again: `rejoin` what a reload interrupted, `watch` what another tab began.
 */
export const systems = [
  {
    id: "workload-logs",
    name: "Workload logs",
    route: "GET /api/v1/workloads/{id}/logs",
    field: "id",
    choices: ["trainer", "indexer", "missing", "broken"],
    generator: /\/logs$/,
    relay: (id, options) => streamEvents(`/api/v1/workloads/${encodeURIComponent(id)}/logs`, options),
    proxy: (id, options, base) =>
      streamEvents(`${base}/workload-logs/v1/workloads/${encodeURIComponent(id)}/logs`, options),
    text: (data) => `${String(data.line).padStart(4)} ${data.text}\n`,
  },
  {
    id: "query-stream",
    name: "Query stream",
    route: "POST /api/python/query/stream",
    field: "query",
    choices: ["what is a relay", "why does it wait"],
    generator: /\/query\/stream$/,
    relay: (query, options) =>
      streamEvents("/api/python/query/stream", { ...options, body: { query } }),
    proxy: (query, options, base) =>
      streamEvents(`${base}/query-stream/api/v1/query/stream`, { ...options, body: { query } }),
    text: (data) => data.text ?? `\n[${data.type}]\n`,
  },
  {
    id: "event-gateway",
    name: "Event gateway",
    route: "GET /api/events/{path...}",
    field: "topic",
    choices: ["file.123", "project.456", "user.789", "planet.1"],
    generator: /\/events\//,
    relay: (topic, options) => streamEvents(`/api/events/${encodeURIComponent(topic)}`, options),
    proxy: (topic, options, base) =>
      streamEvents(`${base}/event-gateway/api/v1/events/${encodeURIComponent(topic)}`, options),
    text: (data) => `${data.topic} ${data.change}\n`,
  },
  {
    id: "message-broker",
    name: "Message broker",
    route: "POST /api/chat/stream",
    field: "message",
    choices: ["hello there", "late bird", "timeout please", "lost one", "hang on", "refuse me"],
    generator: /\/stream$/,
    repeat: true,
    relay: (message, options) =>
      streamEvents("/api/chat/stream", { ...options, body: { user_id: "you", message } }),
    async *proxy(message, options, base) {
      const body = JSON.stringify({ user_id: "other", message });
      const at = `${base}/message-broker/api/v1`;
      const reply = await fetch(`${at}/message`, { method: "POST", body, signal: options.signal });
      if (!reply.ok) throw new StatusError(reply, await reply.text());
      const { message_id: id } = await reply.json();
      yield* streamEvents(`${at}/stream?user_id=other&message_id=${id}`, options);
    },
    text: (data) =>
      data.type === "complete" ? "\n[complete]\n" : data.text ? `${data.text} ` : `[${data.state}] `,
  },
  {
    id: "ask",
    name: "Ask",
    route: "POST /api/ask/stream",
    field: "query",
    choices: ["what is it for", "slow thinking", "flaky", "html", "empty", "refuse"],
    generator: /\/ask$/,
    repeat: true,
    relay: (query, options) => streamEvents("/api/ask/stream", { ...options, body: { query } }),
    async *proxy(query, options, base) {
      const body = JSON.stringify({ query });
      const reply = await fetch(`${base}/ask/api/ask`, { method: "POST", body, signal: options.signal });
      const answer = await reply.text();
      if (!reply.ok) throw new StatusError(reply, answer);
      yield { data: answer, json: () => ({ type: "whole" }) };
    },
    text: (data) =>
      data.type === "chunk" ? data.content : data.type === "start" ? "\n" : `[${data.type}] `,
  },
  {
    id: "shared-answer",
    name: "Shared answer",
    route: `POST ${ANSWERS}`,
    field: "query",
    choices: ["what do we share", "who began it"],
    generator: /\/query\/stream$/,
    shared: true,
    relay(query, options) {
      return streamEvents(this.base + ANSWERS, { ...options, body: { query }, resume: true, reconnect: retried });
    },
    rejoin(options) {
      return rejoin(this.base + ANSWERS, { ...options, reconnect: retried });
    },
    watch(at, options) {
      return streamEvents(this.base + at, { ...options, resume: true, reconnect: retried });
    },
    at: (query) => `${ANSWERS}/${encodeURIComponent(query)}`,
    query: (at) => decodeURIComponent(new URL(at, location.href).pathname.slice(ANSWERS.length + 1)),
    // A page without resuming has nothing to come back to: it asks again.
    proxy: (query, options, base) =>
      streamEvents(`${base}/shared-answer/api/v1/query/stream`, { ...options, body: { query }, reconnect: retried }),
    text: (data) => data.text ?? `\n[${data.type}]\n`,
  },
];
