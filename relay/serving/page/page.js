// The live page: asks /status every second and /streams every two, and shows both.

import { StreamTable } from "./table.js";
import { age, bytes, number } from "./words.js";

const STATUS_EVERY = 1000; // ms
const STREAMS_EVERY = 2000; // ms
const KEPT = 91; // samples: a minute and a half of rates
const TOKEN = "relay-admin-token"; // in sessionStorage: gone with the tab
const FINE = new Set(["complete"]);
const NORMAL = new Set(["client_left", "max_age", "stopped", "drained", "refused"]);

const $ = (id) => document.getElementById(id);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function figure(id, shown) {
  const [, value, unit] = /^(\S+)(?: (\S+))?$/.exec(shown) ?? [null, shown];
  if ($(id).dataset.shown === shown) return;
  $(id).dataset.shown = shown;
  $(id).textContent = value;
  if (unit) $(id).append(" ", Object.assign(document.createElement("small"), { textContent: unit }));
}

// -- asking ---------------------------------------------------------------------------------------

class Refused extends Error {}

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { "X-Relay-Admin": "page", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { cache: "no-store", ...options, headers });
  if (response.status === 401) {
    // The other loop may have been told a better one meanwhile: a late refusal is of the old one.
    if (asking || sessionStorage.getItem(TOKEN) === token) await askForToken(token !== null);
    return ask(path, options);
  }
  const body = await response.json();
  if (!response.ok) throw new Refused(body.error?.message ?? response.statusText);
  return body;
}

let asking = null; // both loops may be refused at once; the person is asked once

function askForToken(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = $("ask");
    if (wrong) $("ask-why").textContent = "That is not the token. Try again.";
    $("token").value = "";
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(TOKEN, $("token").value);
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

$("ask").addEventListener("cancel", (event) => event.preventDefault());

// -- figures --------------------------------------------------------------------------------------

const history = []; // { at, events, bytes, exchanges, endings, routes, rate }

function sample(status) {
  const sum = { at: performance.now(), events: 0, bytes: 0, exchanges: 0, active: 0, endings: {}, routes: status.routes };
  for (const route of Object.values(status.routes)) {
    sum.events += route.events;
    sum.bytes += route.bytes_out;
    sum.active += route.active;
    for (const [ending, count] of Object.entries(route.endings)) {
      sum.exchanges += count;
      sum.endings[ending] = (sum.endings[ending] ?? 0) + count;
    }
  }
  const before = history.at(-1);
  const per = before ? (sum.at - before.at) / 1000 : 0;
  sum.rate = (now, then) => (per ? Math.max(0, now - then) / per : null);
  sum.perSecond = before ? sum.rate(sum.events, before.events) : null;
  history.push(sum);
  if (history.length > KEPT) history.shift();
  return [sum, before];
}

function show(status) {
  const [now, before] = sample(status);
  const rate = (key) => (before ? now.rate(now[key], before[key]) : null);
  figure("events", number(now.perSecond, 1));
  figure("active", number(now.active));
  figure("exchanges", number(rate("exchanges"), 1));
  figure("bytes", bytes(rate("bytes")));
  figure("connections", number(status.connections));
  figure("held", bytes(status.held));
  $("version").textContent = status.version;
  showState(status);
  showWorkers(status.workers);
  showSpark();
  showRoutes(now, before);
  showEndings(now);
  showUpstreams(status.upstreams);
}

function showState(status) {
  if (paused) return;
  const draining = status.reasons.includes("draining");
  const state = status.ready ? "ready" : draining ? "draining" : "down";
  tell(state, status.ready ? "ready" : status.reasons.join(" · "));
}

function tell(state, words) {
  if ($("state").textContent !== words) $("state").textContent = words;
  $("state").dataset.state = state;
  document.title = state === "ready" ? "relay" : `relay: ${words}`;
}

function showWorkers(workers) {
  const items = workers.map((worker) => {
    const item = document.createElement("li");
    const memory = worker.resident ? `, ${bytes(worker.resident)}` : "";
    item.className = worker.state;
    item.textContent = `worker ${worker.number} ${worker.state}, pid ${worker.pid || "–"}${memory}`;
    if (worker.started) item.title = `since ${new Date(worker.started * 1000).toLocaleString()}`;
    return item;
  });
  $("workers").replaceChildren(...items);
}

function showSpark() {
  const rates = history.map((one) => one.perSecond ?? 0);
  const top = Math.max(1, ...rates) * 1.08;
  const step = 240 / (KEPT - 1);
  const points = rates.map((rate, at) => {
    const x = 240 - (rates.length - 1 - at) * step;
    return `${x.toFixed(1)},${(43 - (rate / top) * 42).toFixed(1)}`;
  });
  const [area, line] = $("spark").children;
  line.setAttribute("d", `M${points.join("L")}`);
  area.setAttribute("d", `M${points.join("L")}L240,44L${points[0].split(",")[0]},44Z`);
  const most = number(Math.max(...rates), 1);
  $("spark-note").textContent = `at most ${most}`;
  $("spark").setAttribute("aria-label", `Events per second, now ${number(rates.at(-1), 1)}, at most ${most}`);
}

/** Rows of cells: a string, or [text, class, title]; the first is the row's header. */
function rows(id, lines) {
  const body = $(id).tBodies[0];
  while (body.rows.length > lines.length) body.deleteRow(-1);
  lines.forEach((line, at) => {
    const row = body.rows[at] ?? body.insertRow();
    line.forEach((cell, column) => {
      const [shown, style = "", title = ""] = Array.isArray(cell) ? cell : [cell];
      let element = row.cells[column];
      if (!element) {
        element = document.createElement(column ? "td" : "th");
        if (!column) element.scope = "row";
        row.append(element);
      }
      element.className = style;
      element.title = title;
      if (shown instanceof Node) element.replaceChildren(shown);
      else if (element.textContent !== String(shown)) element.textContent = shown;
    });
  });
}

function showRoutes(now, before) {
  const lines = Object.entries(now.routes).map(([name, route]) => {
    const then = before?.routes[name];
    const rate = (key) => (then ? now.rate(route[key], then[key]) : null);
    const ended = Object.values(route.endings).reduce((sum, count) => sum + count, 0);
    return { name, route, events: rate("events"), bytes: rate("bytes_out"), ended };
  });
  lines.sort((a, b) => b.route.active - a.route.active || b.ended - a.ended);
  rows("routes", lines.map((line) => [
    [line.name || "(no route)", line.name ? "cut" : "cut quiet", line.name],
    [number(line.route.active), "n"], [number(line.events, 1), "n"],
    [bytes(line.bytes), "n"], [number(line.ended), "n"],
  ]));
}

function showEndings(now) {
  const minute = history.find((one) => one.at >= now.at - 60_000) ?? now;
  const most = Math.max(1, ...Object.values(now.endings));
  const found = Object.entries(now.endings).sort(([, a], [, b]) => b - a);
  rows("endings", found.map(([ending, count]) => {
    const style = FINE.has(ending) ? "good" : NORMAL.has(ending) ? "" : "bad";
    const bar = document.createElement("i");
    bar.style.width = `${(count / most) * 100}%`;
    return [
      [ending.replaceAll("_", " "), style],
      [number(count - (minute.endings[ending] ?? 0)), "n"], [number(count), "n"], [bar, `share ${style}`],
    ];
  }));
}

function showUpstreams(urls) {
  rows("upstreams", urls.map((url) => {
    const health = url.up ? (url.failures ? ["to be tried again", "warn"] : ["up", "good"]) : ["down", "bad"];
    if (!url.up) {
      const cause = url.cause || (url.checks === false ? "checks fail" : "");
      const again = url.retry_in ? `again in ${age(url.retry_in)}` : "";
      health.push([health[0], cause, again].filter(Boolean).join(", "));
      if (cause) health[0] += `: ${cause}`;
    }
    return [
      [url.upstream], [url.url.replace(/^http:\/\//, ""), "cut quiet", url.url],
      health, [number(url.streams), "n"], [number(url.idle), "n"],
    ];
  }));
}

// -- streams --------------------------------------------------------------------------------------

const table = new StreamTable($("streams"), confirmEnd);

function showStreams() {
  const { all, found, first, last } = table.shown;
  $("count").textContent = found === all ? number(all) : `${number(found)} of ${number(all)}`;
  $("where").textContent = found ? `${number(first + 1)}–${number(last)}` : "";
  $("previous").disabled = first === 0;
  $("next").disabled = last >= found;
  $("empty").hidden = found > 0;
  $("empty").textContent = all ? "No stream matches the filter." : "No stream is under way.";
}

document.addEventListener("relay:drawn", showStreams);
$("filter").addEventListener("input", (event) => { table.filter(event.target.value); showStreams(); });
$("previous").addEventListener("click", () => { table.turn(-1); showStreams(); });
$("next").addEventListener("click", () => { table.turn(1); showStreams(); });
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, dialog");
  if (event.key === "/" && !typing) { event.preventDefault(); $("filter").focus(); }
  if (event.key === "Escape" && event.target === $("filter") && $("filter").value) {
    $("filter").value = "";
    table.filter("");
    showStreams();
  }
});

function confirmEnd(stream) {
  if (!stream) return;
  const facts = {
    Stream: stream.id, Route: stream.route, Client: stream.client,
    Request: `${stream.method} ${stream.path}`, Upstream: stream.upstream,
    "So far": `${number(stream.events)} events, ${bytes(stream.bytes)} in ${age(stream.age)}`,
  };
  const list = $("confirm").querySelector("dl");
  list.replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [
    Object.assign(document.createElement("dt"), { textContent: name }),
    Object.assign(document.createElement("dd"), { textContent: value }),
  ]));
  const opener = document.activeElement;
  $("confirm").returnValue = "";
  $("confirm").onclose = async () => {
    if (opener?.isConnected) opener.focus();
    if ($("confirm").returnValue === "end") await end(stream);
  };
  $("confirm").showModal();
}

async function end(stream) {
  try {
    await ask(`/streams/${stream.id}`, { method: "DELETE" });
    notify(`Stream ${stream.id} of ${stream.route} ends.`);
  } catch (error) {
    notify(`Stream ${stream.id}: ${error.message}`);
  }
}

let silence = 0;

function notify(words) {
  $("told").textContent = words;
  clearTimeout(silence);
  silence = setTimeout(() => { $("told").textContent = ""; }, 6000);
}

// -- the two loops --------------------------------------------------------------------------------

let paused = false;

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) tell("paused", "paused");
});

async function keepAsking(path, every, use) {
  for (;;) {
    if (!paused && !document.hidden) {
      try {
        const answer = await ask(path);
        if (!paused) use(answer);
      } catch (error) {
        if (!paused) tell("down", error instanceof Refused ? error.message : "no answer from relay");
      }
    }
    await wait(every);
  }
}

keepAsking("/status", STATUS_EVERY, show);
keepAsking("/streams", STREAMS_EVERY, ({ streams }) => {
  table.update(streams, performance.now());
  showStreams();
});
