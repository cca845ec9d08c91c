// A chat with `useChat({ resume: true })`, as the AI SDK's documentation has it. What relay adds is where the stop button asks.
// The chat's id is in the address, so a reload and a second tab are the same chat.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";

const address = new URL(location.href);
const id = address.searchParams.get("chat") ?? crypto.randomUUID();
address.searchParams.set("chat", id);
history.replaceState(null, "", address);

const transport = new DefaultChatTransport({ api: "/api/chat" });

// `stop()` of useChat only ends this tab's reading. This ends the answer, for all who read it.
const stop = () => fetch(`/api/chat/${encodeURIComponent(id)}/stream`, { method: "DELETE" });

function Chat() {
  const { messages, sendMessage, status, error } = useChat({ id, transport, resume: true });
  const [text, setText] = useState("");
  const send = (event) => {
    event.preventDefault();
    sendMessage({ text });
    setText("");
  };
  return (
    <main>
      {messages.map((message) => (
        <p key={message.id} className={message.role}>
          {message.parts.map((part) => part.text ?? "").join("")}
        </p>
      ))}
      <form onSubmit={send}>
        <input aria-label="Message" value={text} onChange={(event) => setText(event.target.value)} />
        <button id="send">Send</button>
        <button id="stop" type="button" onClick={stop}>Stop</button>
      </form>
      <output>{error ? error.message : status}</output>
    </main>
  );
}

await fetch("/api/session", { method: "POST" }); // the cookie that says whose chat this is
createRoot(document.getElementById("root")).render(<StrictMode><Chat /></StrictMode>);
