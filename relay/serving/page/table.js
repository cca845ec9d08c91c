// The list of live streams: filter, order, pages. Thousands of them come every two seconds, so only
// the rows of one page exist, and a row keeps its element as long as its stream is on the page.

import { age, bytes, number } from "./words.js";

export const PAGE_SIZE = 50; // rows

const text = (key) => ({ key, value: (s) => s[key], show: (s) => s[key], class: "text" });
/** Which run a viewer reads; of a run itself how many do. */
const run = (s) => (s.kind === "run" ? `${s.viewers} reading` : (s.run ?? "").slice(0, 8));

const COLUMNS = [
  { title: "Age", key: "age", first: "descending", value: (s) => s.age, show: (s) => age(s.age), class: "n" },
  { title: "Route", ...text("route") },
  { title: "Client", ...text("client") },
  { title: "Request", key: "path", value: (s) => s.path, show: (s) => `${s.method} ${s.path}`, class: "text code" },
  { title: "Upstream", ...text("upstream"), show: (s) => s.upstream.replace(/^http:\/\//, "") },
  { title: "Worker", key: "worker", value: (s) => s.worker, show: (s) => s.worker, class: "n" },
  { title: "Run", key: "run", value: (s) => s.run ?? "", show: run, class: "text" },
  { title: "Events", key: "events", first: "descending", value: (s) => s.events, show: (s) => (s.kind !== "bytes" ? number(s.events) : "–"), class: "n" },
  { title: "per s", key: "rate", first: "descending", value: (s) => s.rate ?? -1, show: (s) => (s.kind !== "bytes" ? number(s.rate, 1) : "–"), class: "n" },
  { title: "Bytes", key: "bytes", first: "descending", value: (s) => s.bytes, show: (s) => bytes(s.bytes), class: "n" },
  { title: "Last event", key: "last_event", first: "descending", value: (s) => s.last_event ?? -1, show: (s) => (s.last_event === null ? "–" : age(s.last_event)), class: "n" },
  { title: "Held", key: "held", first: "descending", value: (s) => s.held, show: (s) => (s.held ? bytes(s.held) : "–"), class: "n" },
  { title: "Slow side", key: "slow", value: (s) => s.slow ?? "~", show: (s) => s.slow ?? "–", class: "slow" },
];

export class StreamTable {
  #table; #list = []; #rows = new Map(); #headers = new Map(); #end;
  #sort = { column: COLUMNS[0], direction: "descending" };
  #terms = []; #page = 0; #events = new Map(); #at = 0;

  /** `end` is called with a stream that the operator wants to end. */
  constructor(table, end) {
    this.#table = table;
    this.#end = end;
    this.#head();
  }

  /** Takes over the list as it is now. */
  update(streams, now) {
    const seconds = (now - this.#at) / 1000;
    const events = new Map();
    for (const stream of streams) {
      const before = this.#events.get(stream.id);
      stream.rate = before === undefined || !this.#at ? null : Math.max(0, stream.events - before) / seconds;
      events.set(stream.id, stream.events);
    }
    this.#events = events;
    this.#at = now;
    this.#list = streams;
    this.draw();
  }

  filter(value) {
    this.#terms = value.toLowerCase().split(/\s+/).filter(Boolean);
    this.#page = 0;
    this.draw();
  }

  turn(pages) {
    this.#page += pages;
    this.draw();
    this.#table.closest(".scroll").scrollTop = 0;
  }

  /** What is shown: `found` of `all` streams, from the `first` to the `last`. */
  shown = { all: 0, found: 0, first: 0, last: 0 };

  draw() {
    const found = this.#terms.length ? this.#list.filter((s) => this.#matches(s)) : [...this.#list];
    const { column, direction } = this.#sort;
    const sign = direction === "ascending" ? 1 : -1;
    const order = (a, b) => (a < b ? -sign : a > b ? sign : 0);
    found.sort((a, b) => order(column.value(a), column.value(b)) || (a.id < b.id ? -1 : 1));
    const last = Math.max(0, Math.ceil(found.length / PAGE_SIZE) - 1);
    this.#page = Math.min(Math.max(0, this.#page), last);
    const first = this.#page * PAGE_SIZE;
    const page = found.slice(first, first + PAGE_SIZE);
    this.#body(page);
    this.shown = { all: this.#list.length, found: found.length, first, last: first + page.length };
  }

  #matches(stream) {
    const slow = stream.slow ? `slow ${stream.slow}` : "";
    const { id, kind, route, client, method, path, upstream, run } = stream;
    const all = `${id} ${kind} ${route} ${client} ${method} ${path} ${upstream} ${run ?? ""} ${slow}`.toLowerCase();
    return this.#terms.every((term) => all.includes(term));
  }

  #head() {
    const row = this.#table.tHead.rows[0];
    for (const column of COLUMNS) {
      const header = document.createElement("th");
      header.scope = "col";
      if (column.class === "n") header.className = "n";
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = column.title;
      button.addEventListener("click", () => this.#sortBy(column));
      header.append(button);
      row.append(header);
      this.#headers.set(column, header);
    }
    const last = document.createElement("th");
    last.scope = "col";
    last.innerHTML = "<span class='quiet'>End</span>";
    row.append(last);
    this.#mark();
  }

  #sortBy(column) {
    const first = column.first ?? "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const again = this.#sort.column === column && this.#sort.direction === first;
    this.#sort = { column, direction: again ? other : first };
    this.#page = 0;
    this.#mark();
    this.draw();
    document.dispatchEvent(new Event("relay:drawn"));
  }

  #mark() {
    for (const [column, header] of this.#headers) {
      if (column === this.#sort.column) header.setAttribute("aria-sort", this.#sort.direction);
      else header.removeAttribute("aria-sort");
    }
  }

  #body(page) {
    const body = this.#table.tBodies[0];
    const focused = document.activeElement;
    const wanted = new Set(page.map((stream) => stream.id));
    const rows = new Map();
    for (const [id, row] of this.#rows) if (!wanted.has(id)) row.remove();
    let place = body.firstElementChild;
    for (const stream of page) {
      const row = this.#rows.get(stream.id) ?? this.#row(stream.id);
      this.#fill(row, stream);
      rows.set(stream.id, row);
      if (row === place) place = place.nextElementSibling;
      else body.insertBefore(row, place);
    }
    this.#rows = rows;
    // A row that moved has lost the focus on the way.
    if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
  }

  #row(id) {
    const row = document.createElement("tr");
    row.dataset.id = id;
    for (const column of COLUMNS) {
      const cell = document.createElement("td");
      cell.className = column.class;
      row.append(cell);
    }
    const cell = document.createElement("td");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "danger";
    button.textContent = "End…";
    button.addEventListener("click", () => this.#end(this.#list.find((s) => s.id === id)));
    cell.append(button);
    row.append(cell);
    return row;
  }

  #fill(row, stream) {
    COLUMNS.forEach((column, at) => {
      const cell = row.cells[at];
      const value = String(column.show(stream));
      if (cell.textContent === value) return;
      cell.textContent = value;
      if (column.class.startsWith("text")) cell.title = value;
      if (column.key === "slow") cell.className = stream.slow === "client" ? "warn" : stream.slow ? "" : "quiet";
    });
    const button = row.lastElementChild.firstElementChild;
    const label = `End ${stream.route} of ${stream.client}, ${stream.id}`;
    if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
  }
}
