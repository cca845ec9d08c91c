// The package `eventsource` with a cookie, until it is closed: each event, open and error as a line of JSON.
import { EventSource } from "eventsource";

const [url, Cookie, ...names] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify(what));
const source = new EventSource(url, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, Cookie } }),
});
for (const name of ["message", ...names]) {
  source.addEventListener(name, ({ data, lastEventId }) => say({ event: name, data: data ?? null, id: lastEventId }));
}
source.onopen = () => say({ open: source.url });
source.onerror = ({ code }) => {
  say({ error: code ?? null, state: source.readyState });
};
