// `useChat({ resume: true })` under StrictMode, as the AI SDK's documentation has it, for the chat that `?chat=` names;
// without one the page has fetch-event-source for the test to call. Nothing here knows of relay but the stop button.
import { useChat } from "@ai-sdk/react";
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { DefaultChatTransport } from "ai";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

const id = new URLSearchParams(location.search).get("chat");
const transport = new DefaultChatTransport({ api: "/api/chat" });

function Chat() {
  const { messages, sendMessage, resumeStream, status, error } = useChat({ id, transport, resume: true });
  window.resumeStream = resumeStream;
  const texts = messages
    .filter((message) => message.role === "assistant")
    .map((message) => message.parts.map((part) => part.text ?? "").join(""));
  return (
    <main>
      <button id="send" onClick={() => sendMessage({ text: "?" })}>Send</button>
      <button id="stop" onClick={() => fetch(`/api/chat/${encodeURIComponent(id)}/stream`, { method: "DELETE" })}>Stop</button>
      <p id="answer">{texts.at(-1) ?? ""}</p>
      <p id="answers">{texts.length}</p>
      <p id="status">{status}</p>
      <p id="error">{error?.message ?? ""}</p>
    </main>
  );
}

window.fetchEventSource = fetchEventSource;
if (id) createRoot(document.getElementById("root")).render(<StrictMode><Chat /></StrictMode>);
