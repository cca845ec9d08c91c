// A page with the clients of the five patterns. The test presses its buttons, or uses `clients`.
import { useState } from "react";
import { createRoot } from "react-dom/client";

import { useAskStream } from "./ask_stream.js";
import * as clients from "./by_hand.js";

window.clients = clients;

function Ask() {
  const { ask, cancel, ...shown } = useAskStream("/api/ask/stream");
  const [query, setQuery] = useState("");
  return (
    <main>
      <input id="query" value={query} onChange={(event) => setQuery(event.target.value)} />
      <button id="ask" onClick={() => ask(query)}>Ask</button>
      <button id="cancel" onClick={cancel}>Cancel</button>
      <p id="text">{shown.text}</p>
      <pre id="shown">{JSON.stringify(shown)}</pre>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<Ask />);
