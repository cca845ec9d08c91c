// The other clients, as pages write them by hand.

/** Every JSON object of an event stream that is fetched, handed to `seen` as it comes. */
export async function readEvents(url, options, seen) {
  const response = await fetch(url, options);
  if (!response.ok) throw new Error(`HTTP ${response.status}: ${await response.text()}`);
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    buffer += decoder.decode(value, { stream: true });
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const line = event.split("\n").find((each) => each.startsWith("data: "));
      if (line) seen(JSON.parse(line.slice(6)));
    }
  }
}

/** A search palette: each new question stops the answer to the one before. */
export class Palette {
  constructor() {
    this.text = "";
    this.problem = "";
  }

  async ask(query) {
    this.control?.abort();
    const { signal } = (this.control = new AbortController());
    this.text = "";
    const options = {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ query }),
      signal,
    };
    try {
      await readEvents("/api/python/query/stream", options, (event) => {
        if (event.type === "error") throw new Error(event.message);
        this.text += event.text ?? "";
      });
    } catch (error) {
      if (!signal.aborted) this.problem = error.message;
    }
  }
}

/** A chat: the page's four words, each with what belongs to it. */
export class Chat {
  constructor() {
    this.words = [];
    this.progress = "";
    this.answer = null;
    this.problem = null;
  }

  async send(user_id, message) {
    const options = {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ user_id, message }),
    };
    await readEvents("/api/chat/stream", options, (event) => {
      if (this.words.at(-1) !== event.type) this.words.push(event.type);
      if (event.type === "status") this.state = event.state;
      else if (event.type === "progress") this.progress += `${event.text} `;
      else if (event.type === "complete") this.answer = event.response;
      else if (event.type === "error") this.problem = event.message;
      else throw new Error(`a word that the page does not know: ${event.type}`);
    });
  }
}

/** What happens to an entity, for as long as the page is open. Whatever is no change breaks it. */
export class Changes {
  constructor(url, kind) {
    this.numbers = [];
    this.opened = 0;
    this.broken = null;
    this.source = new EventSource(url, { withCredentials: true });
    this.source.onopen = () => this.opened++;
    const change = (event) => {
      try {
        const { topic, change, number } = JSON.parse(event.data);
        if (!topic || !change) throw new Error(event.data);
        this.numbers.push(number);
      } catch (error) {
        this.broken = error.message;
      }
    };
    this.source.addEventListener(kind, change);
    this.source.onmessage = change;
  }
}

/** A log viewer. */
export class Log {
  constructor(url) {
    this.lines = [];
    this.source = new EventSource(url);
    this.source.onmessage = (event) => this.lines.push(JSON.parse(event.data).text);
  }
}
