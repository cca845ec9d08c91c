// The hook of the Ask pattern, written anew as the pattern describes it: append `content`, take
// `metadata`, stop at `error`, abort what is no longer wanted. It knows nothing of relay.
import { useCallback, useRef, useState } from "react";

const NOTHING = { text: "", query: "", startedAt: null, metadata: null, success: null, error: null };

export function useAskStream(url) {
  const [state, setState] = useState(NOTHING);
  const [streaming, setStreaming] = useState(false);
  const controller = useRef(null);

  const cancel = useCallback(() => controller.current?.abort(), []);

  const ask = useCallback(async (query) => {
    controller.current?.abort();
    const mine = (controller.current = new AbortController());
    setState(NOTHING);
    setStreaming(true);
    try {
      const response = await fetch(url, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ query }),
        signal: mine.signal,
      });
      if (!response.ok || !response.body) throw new Error(`HTTP ${response.status}`);
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      let buffer = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        buffer += decoder.decode(value, { stream: true });
        const lines = buffer.split("\n");
        buffer = lines.pop() ?? "";
        for (const line of lines) {
          if (!line.startsWith("data: ")) continue;
          const event = JSON.parse(line.slice(6));
          switch (event.type) {
            case "start":
              setState((s) => ({ ...s, query: event.query, startedAt: new Date(event.timestamp) }));
              break;
            case "chunk":
              setState((s) => ({ ...s, text: s.text + event.content }));
              break;
            case "metadata":
              setState((s) => ({
                ...s,
                metadata: { confidence: event.confidence, sources: event.sources },
              }));
              break;
            case "complete":
              setState((s) => ({ ...s, success: event.success }));
              break;
            case "error":
              throw Object.assign(new Error(event.message), {
                code: event.code,
                retryable: event.retryable,
              });
          }
        }
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      const { code = "NETWORK", message, retryable = true } = error;
      setState((s) => ({ ...s, error: { code, message, retryable } }));
    } finally {
      if (controller.current === mine) setStreaming(false);
    }
  }, [url]);

  return { ...state, streaming, ask, cancel };
}
