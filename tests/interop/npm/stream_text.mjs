// node stream_text.mjs URL MODEL: `streamText` of the AI SDK with a provider that speaks OpenAI's chat
// completions. Prints what a program that uses it gets to know, as one line of JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";

const [baseURL, model] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "relay", baseURL, apiKey: "k" });
const told = []; // by onError
let text = "";
let thrown = "";
try {
  const result = streamText({
    model: provider(model),
    prompt: "?",
    maxRetries: 0,
    onError: ({ error }) => void told.push(String(error?.message ?? error)),
  });
  for await (const part of result.textStream) text += part;
} catch (error) {
  thrown = String(error?.message ?? error);
}
console.log(JSON.stringify({ text, told, thrown }));
