// A Mercure client of the npm registry: reports every event as a line of JSON on its output.
// node client.mjs eventsource|fetch-event-source URL [TOKEN] [LAST_EVENT_ID]
import { createRequire } from "node:module";

const [library, url, token, lastEventId] = process.argv.slice(2);
const require = createRequire(`${process.env.NODE_MODULES_OF}/`);
const headers = {};
if (token) headers.Authorization = `Bearer ${token}`;
if (lastEventId) headers["Last-Event-ID"] = lastEventId;

const report = (event) => console.log(JSON.stringify(event));

if (library === "eventsource") {
  const { EventSource } = require("eventsource");
  const source = new EventSource(url, {
    fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...headers } }),
  });
  source.onopen = () => report({ open: true });
  for (const type of ["message", "mercure", "kind"]) {
    source.addEventListener(type, ({ data, lastEventId }) => report({ type, data, id: lastEventId }));
  }
} else {
  globalThis.window = globalThis;
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
  const { fetchEventSource } = require("@microsoft/fetch-event-source");
  await fetchEventSource(url, {
    headers,
    onopen: async () => report({ open: true }),
    onmessage: ({ event, data, id }) => data && report({ type: event || "message", data, id }),
  });
}
