// The page: six systems, each with two lanes (relay and the buffering proxy), and the backend's state.

import { Network } from "./network.js";
import { systems } from "./systems.js";
import { now, Timeline } from "./timeline.js";

const POLL = 200; // ms between two looks at the backend
const FRAME = 33; // ms between two drawings
const AGAIN = 900; // ms until a system that came to its end is started once more
const EARLIER = 100; // ms from the start of a generator to its first event, at most
const UNSTOPPED = "the stop did not arrive";
const KEPT = 3000; // characters of text and marks of a lane that are kept

const $ = (selector, within = document) => within.querySelector(selector);
const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** One way from the backend to the page: its stream, what arrived, and the generator behind it. */
class Lane {
  constructor(kind, element, system) {
    this.kind = kind; // "relay" | "proxy"
    this.shared = system.shared;
    this.outages = system.network.outages;
    this.color = kind;
    this.told = $(`.lane.${kind} .told`, element);
    this.marks = []; // { arrived, kind, sent? } drawn by the time-line
    this.lives = []; // { number, pid, started, ended, state, lost } of generators
    this.reset();
  }

  reset() {
    this.delays = [];
    this.events = []; // { data, arrived, sent }, for whoever asks in the console
    this.error = undefined;
    this.ended = false;
    this.stopped = undefined;
    this.began = now();
    this.opened = this.began; // when the connection was there: what was sent before is replayed
    this.starts = 0; // of generators, since this answer began
    this.note = undefined;
    this.stream = undefined;
    this.life = undefined;
    this.control?.abort(); // what is still read of an earlier answer is not counted for this one
    this.control = new AbortController();
  }

  mark(kind, sent) {
    this.marks.push({ arrived: now(), kind, sent });
  }

  received(event) {
    const arrived = now();
    const data = event.json() ?? { text: event.data };
    const replayed = this.shared && data.at < this.opened;
    // Whoever comes later reads from the first event: the answer began with that.
    if (replayed && this.events.length === 0) this.began = data.at - EARLIER;
    this.marks.push({ arrived, kind: "event", sent: data.at, replayed });
    this.events.push({ data, arrived, sent: data.at });
    if (this.events.length > KEPT) this.events.shift();
    if (data.at && !replayed) this.delays.push(Math.max(0, arrived - data.at));
    if (this.delays.length > KEPT) this.delays.shift();
    return data;
  }

  async stop() {
    const { control, stream } = this;
    if (control.signal.aborted || this.ended || this.error || this.stopped) return;
    this.stopped = now();
    this.mark("stop");
    // relay is told to end it for all readers; to close the connection says only that this one left.
    if (this.shared && this.kind === "relay") await stream?.stop().catch(() => this.fail(UNSTOPPED, control));
    control.abort();
  }

  fail(error, control) {
    if (this.control !== control) return;
    this.error = error;
    this.mark("error");
  }

  /** Take over what the backend tells of its calls; without a pid it is gone, and they with it. */
  follow(calls, pid) {
    if (pid) this.starts = calls.filter(({ started }) => started >= this.since() - 20).length;
    for (const { number, started, ended, state } of calls) {
      let life = this.lives.find((life) => life.number === number && life.pid === pid);
      if (!life) {
        if (started < this.began - 20) continue; // of an earlier page
        this.lives.push((life = { number, pid, started }));
      }
      Object.assign(life, { ended: ended ?? undefined, state, lost: state === "broken" });
      // A request that was given up on its way may reach the backend behind the one that followed it.
      if (!ended || !this.lives.some((other) => !other.ended)) this.life = life;
    }
    for (const life of this.lives) {
      if (life.pid === pid || life.ended) continue;
      const end = this.marks.findLast(({ kind }) => kind === "error" || kind === "end");
      const ended = end?.arrived > life.started ? end.arrived : now();
      Object.assign(life, { ended, state: "killed", lost: true });
    }
  }

  /** One line for people: what arrived, how late, and what the backend does. */
  tell() {
    const parts = [];
    if (this.events.length) parts.push(`${this.events.length} event${this.events.length === 1 ? "" : "s"}`);
    if (this.delays.length) parts.push(`${median(this.delays).toFixed(0)} ms after they were sent`);
    if (this.error) parts.push(`<span class="bad">${escape(this.error)}</span>`);
    else if (this.ended && this.life?.lost) parts.push('<span class="bad">cut, but looks complete</span>');
    else if (this.ended) parts.push("complete");
    if (this.note) parts.push(`<span class="good">${escape(this.note)}</span>`);
    parts.push(...this.#afterStop());
    if (this.shared && this.starts) parts.push(this.#howOften());
    const line = parts.join(" · ");
    if (this.told.innerHTML === line) return;
    this.told.innerHTML = line;
    this.told.title = this.told.textContent; // a long line is cut on the screen
  }

  /** How often the backend began this answer, whatever its readers did. */
  #howOften() {
    if (this.starts === 1) return '<span class="good">generator started once</span>';
    return `<span class="bad">generator started ${this.starts} times</span>`;
  }

  /** What the generator did when the reader had gone. */
  #afterStop() {
    const { stopped, life } = this;
    if (stopped === undefined || !life || life.ended < stopped - 1) return [];
    if (!life.ended) return ['<span class="bad">you stopped, the backend runs on</span>'];
    const late = Math.max(0, life.ended - stopped).toFixed(0);
    if (life.state === "stopped" && late < 1000) {
      return [`<span class="good">backend stopped ${late} ms after you did</span>`];
    }
    return [`<span class="bad">backend ran on for ${(late / 1000).toFixed(1)} s</span>`];
  }
}

const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** A strip of the page. */
class System {
  constructor(definition, index) {
    Object.assign(this, definition);
    this.definition = definition;
    const element = $("#system").content.cloneNode(true).firstElementChild;
    this.element = element;
    element.id = this.id;
    $(".key", element).textContent = index + 1;
    $(".name", element).textContent = this.name;
    $(".route", element).textContent = this.route;
    $(".field span", element).textContent = this.field;
    $("canvas", element).setAttribute("aria-label", `${this.name}: when each event arrived`);
    element.setAttribute("aria-label", this.name);
    this.input = $("input", element);
    this.input.value = this.choices[0];
    const list = $("datalist", element);
    this.input.setAttribute("list", (list.id = `${this.id}-choices`));
    list.append(...this.choices.map((choice) => new Option(choice)));
    this.start_ = this.#button("Start", () => this.start());
    this.stop_ = this.#button("Stop", () => this.stop());
    this.output = $(".text", element);
    this.network = new Network();
    this.base = this.shared ? beside(peers.shared_port) : ""; // of the address that its requests go to
    this.lanes = ["relay", "proxy"].map((kind) => new Lane(kind, element, this));
    for (const lane of this.lanes) lane.since = () => (this.shared ? this.lanes[0].began : lane.began);
    if (this.shared) this.#addWays();
    this.input.addEventListener("input", () => this.running && this.restart());
    this.input.addEventListener("keydown", (event) => event.key === "Enter" && this.restart());
    $("#systems").append(element);
    this.timeline = new Timeline($("canvas", element), this.lanes);
    this.#show(false);
  }

  /** What may happen to the reader of a shared answer. */
  #addWays() {
    this.cut_ = this.#button("Cut network", () => this.cut(!this.network.away), "more");
    this.cut_.setAttribute("aria-pressed", false);
    this.#button("Reload", () => location.reload(), "more");
    this.#button("Second tab", () => open(`?watch=${encodeURIComponent(this.at(this.input.value))}`), "more");
  }

  /** What is begun elsewhere, or was before the page was reloaded, is read on. */
  comeBack() {
    const at = new URLSearchParams(location.search).get("watch");
    const from = at?.startsWith(this.at("")) ? this.watch.bind(this, at) : this.rejoin.bind(this);
    const lane = this.lanes[0];
    const stream = from(this.#options(lane));
    if (!stream) return;
    this.input.value = this.query(stream.at ?? at);
    this.#show(true);
    this.#run(lane, this.input.value, stream);
    if (comparing()) this.#run(this.lanes[1], this.input.value);
  }

  cut(away) {
    this.network.set(away);
    this.cut_.setAttribute("aria-pressed", away);
  }

  #button(name, action, kind = "") {
    const button = document.createElement("button");
    button.textContent = name;
    button.className = kind;
    button.setAttribute("aria-label", `${name} ${this.name}`);
    button.addEventListener("click", action);
    $(".buttons", this.element).append(button);
    return button;
  }

  #show(running) {
    this.running = running;
    this.element.toggleAttribute("data-running", running);
    this.start_.disabled = running;
    this.stop_.disabled = !running;
  }

  start() {
    if (this.running) return;
    this.#show(true);
    this.write("", true);
    const lanes = this.lanes.filter((lane) => lane.kind === "relay" || comparing());
    const value = this.input.value;
    for (const lane of lanes) {
      lane.reset();
      this.#run(lane, value);
    }
  }

  stop() {
    const stopped = Promise.all(this.lanes.map((lane) => lane.stop()));
    this.#show(false);
    return stopped;
  }

  /** New text: the answer to the old one is of no use any more. */
  restart() {
    this.stop().then(() => this.start());
  }

  toggle() {
    if (this.running) this.stop();
    else this.start();
  }

  #options(lane) {
    const { signal } = lane.control;
    const options = { signal, onComment: () => lane.mark("heartbeat") };
    if (!this.shared) return options;
    return { ...options, fetch: this.network.fetcher((at) => (lane.opened = at)) };
  }

  async #run(lane, value, found = undefined) {
    const { control } = lane;
    const { signal } = control;
    try {
      do {
        lane.stream = found ?? this[lane.kind](value, this.#options(lane), buffering);
        for await (const event of lane.stream) {
          if (signal.aborted) break;
          const data = lane.received(event);
          if (lane.kind === "relay") this.write(this.text(data));
        }
        if (!signal.aborted) lane.mark("end");
        if (this.repeat && !signal.aborted) await pause(AGAIN);
      } while (this.repeat && !signal.aborted && this.running); // a strip that has ended asks no more
      lane.ended ||= lane.control === control;
    } catch (error) {
      if (signal.aborted || error.kind === "cancelled") return;
      if (this.shared && error.code === "stopped") {
        lane.note = "stopped by another reader";
        lane.mark("stop");
      } else lane.fail(describe(error), control);
      if (lane.kind === "relay") this.write(`\n${lane.note ?? lane.error}`);
    }
    // The strip lives as long as the lane of relay; what the proxy still holds may come later.
    if (lane.kind === "relay" && lane.control === control) this.#show(false);
  }

  write(text, anew = false) {
    const before = anew ? "" : this.output.textContent;
    this.output.textContent = (before + text).slice(-KEPT);
    this.output.scrollTop = this.output.scrollHeight;
    if (this.id === "query-stream") $("#palette-text").textContent = this.output.textContent;
  }
}

function describe(error) {
  if (error.kind === "status") return `HTTP ${error.status} ${error.body.trim().slice(0, 80)}`;
  if (error.kind === "terminal") return `error event: ${error.code || "error"} – ${error.message}`;
  return error.kind ? `${error.kind}: ${error.message}` : String(error);
}

// --- the backend -----------------------------------------------------------------------------------

// Known before the first strip is there: a lane that is started without it would ask the wrong server.
const peers = await fetch("/demo/peers").then((reply) => reply.json()).catch(() => ({}));
const beside = (port) => `${location.protocol}//${location.hostname}:${port}`;
const buffering = beside(peers.buffering_port);
let stalled = false;

async function poll() {
  for (;;) {
    try {
      const reply = await fetch("/demo/state", { cache: "no-store" });
      if (!reply.ok) throw new Error(`HTTP ${reply.status}`);
      took(await reply.json());
    } catch {
      for (const system of strips) for (const lane of system.lanes) lane.follow([]);
      setStalled(false);
      tellBackend("down", "backend is down");
    }
    for (const system of strips) for (const lane of system.lanes) lane.tell();
    $("#palette-state").textContent = query.lanes[0].told.textContent;
    await pause(POLL);
  }
}

function took(state) {
  let running = 0;
  for (const system of strips) {
    const calls = state.calls[system.id].filter((call) => system.generator.test(call.path));
    running += calls.filter((call) => call.ended === null).length;
    for (const lane of system.lanes) {
      const ours = calls.filter((call) => call.via.includes("buffering") === (lane.kind === "proxy"));
      lane.follow(ours, state.pid);
    }
  }
  const generators = `${running} generator${running === 1 ? "" : "s"} running`;
  tellBackend(stalled ? "stalled" : "up", stalled ? `backend stalled, ${running} waiting` : `backend: ${generators}`);
}

function tellBackend(state, text) {
  const element = $("#backend");
  element.dataset.state = state;
  if (element.textContent !== text) element.textContent = text;
}

function setStalled(value) {
  stalled = value;
  $("#stall").setAttribute("aria-pressed", value);
}

async function misbehave(faults) {
  const options = { method: "POST", body: JSON.stringify(faults) };
  await fetch("/demo/faults", options).catch(() => {}); // a killed backend does not answer
}

// --- the page --------------------------------------------------------------------------------------

const comparing = () => $("#compare").checked;
const strips = systems.map((definition, index) => new System(definition, index));
const query = strips.find((system) => system.id === "query-stream");
const startAll = () => strips.forEach((system) => system.start());
const stopAll = () => strips.forEach((system) => system.stop());

$("#start-all").addEventListener("click", startAll);
$("#stop-all").addEventListener("click", stopAll);
$("#half").addEventListener("click", () => misbehave({ half: true }));
$("#kill").addEventListener("click", () => misbehave({ die: true }));
$("#stall").addEventListener("click", () => {
  setStalled(!stalled);
  misbehave({ stall: stalled });
});
$("#compare").addEventListener("change", () => {
  document.body.classList.toggle("alone", !comparing());
  for (const { lanes } of strips) {
    lanes[1].hidden = !comparing();
    if (!comparing()) lanes[1].stop();
  }
});

// The palette: what is typed is asked at once, what is no longer wanted is stopped at once.
const palette = $("#palette");
const paletteQuery = $("#palette-query");
paletteQuery.addEventListener("input", () => {
  query.input.value = paletteQuery.value;
  if (paletteQuery.value) query.restart();
  else query.stop();
});
palette.addEventListener("close", () => query.stop());

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input[type=text]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (strips[key - 1]) strips[key - 1].toggle();
  else if (key === "a") startAll();
  else if (key === "x") stopAll();
  else if (key === "k") {
    palette.showModal();
    event.preventDefault(); // or the k would be typed into the palette
  }
});

const calm = matchMedia("(prefers-reduced-motion: reduce)");
let drawn = 0;
requestAnimationFrame(function frame(time) {
  if (time - drawn >= (calm.matches ? 500 : FRAME)) {
    drawn = time;
    for (const { timeline } of strips) if (timeline.active) timeline.draw();
  }
  requestAnimationFrame(frame);
});

globalThis.demo = Object.fromEntries(strips.map((system) => [system.id, system])); // for the console
for (const system of strips) if (system.shared) system.comeBack();
poll();
