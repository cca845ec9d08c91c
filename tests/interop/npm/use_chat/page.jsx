// A page with nothing but `useChat` of the AI SDK, as its documentation has it. The test presses the
// button and reads what the hook says. The fragment of the address names where it asks.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { useState } from "react";
import { createRoot } from "react-dom/client";

const transport = new DefaultChatTransport({ api: location.hash.slice(1) });

function Page() {
  const { messages, sendMessage, stop, status, error } = useChat({ transport });
  const [text, setText] = useState("");
  const texts = messages
    .filter((message) => message.role === "assistant")
    .map((message) => message.parts.map((part) => part.text ?? "").join(""));
  return (
    <main>
      <input id="text" value={text} onChange={(event) => setText(event.target.value)} />
      <button id="send" onClick={() => sendMessage({ text })}>Send</button>
      <button id="stop" onClick={stop}>Stop</button>
      <p id="answer">{texts.at(-1) ?? ""}</p>
      <p id="status">{status}</p>
      <p id="error">{error?.message ?? ""}</p>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<Page />);
