// One streamed run of LangGraph's SDK: each part and each reconnect as a line of JSON, and how it ended.
import { Client } from "@langchain/langgraph-sdk";

const [apiUrl, thread] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify(what));
const client = new Client({ apiUrl, apiKey: "a-key-of-the-test" });
try {
  const run = client.runs.stream(thread, "agent", {
    input: { text: "?" },
    streamMode: "values",
    onRunCreated: (created) => say({ created }),
  });
  for await (const { event, data, id } of run) say({ event, data, id });
  say({ ended: "clean" });
} catch (error) {
  say({ ended: String(error) });
}
