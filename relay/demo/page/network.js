// A network of the page's own that can be cut with a button: what is under way breaks off, what is asked gets no answer.

import { now } from "./timeline.js";

export class Network {
  away = false;
  outages = []; // { from, to } drawn by the time-line
  #cut = new AbortController();

  /** As `fetch`; `opened` is called with the moment at which the answer's head was here. */
  fetcher(opened) {
    return async (url, options) => {
      if (this.away) throw new TypeError("the network is away");
      const signal = AbortSignal.any([this.#cut.signal, ...(options.signal ? [options.signal] : [])]);
      const response = await fetch(url, { ...options, signal });
      opened(now());
      return response;
    };
  }

  set(away) {
    if (away === this.away) return;
    this.away = away;
    if (away) {
      this.outages.push({ from: now() });
      this.#cut.abort();
      this.#cut = new AbortController();
    } else this.outages.at(-1).to = now();
  }
}
