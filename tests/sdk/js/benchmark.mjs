// Functions and a batch that are measured, on the official SDK's `serve`; the same as in benchmarks/qstash_app.py.
import { createServer } from "node:http";

import { Client } from "@upstash/workflow";
import { createWorkflow, serveMany } from "@upstash/workflow/cloudflare";

const STEPS = 10;
const [PAGE_SIZE, CHUNK_SIZE] = [50, 20];
const base = process.env.APP_URL.replace(/\/$/, "");
let [got, sent, ended] = [0, 0, 0];

const { fetch } = globalThis;
globalThis.fetch = (...request) => {
  sent += 1;
  return fetch(...request);
};

const end = (total) => {
  ended += 1;
  return total;
};

const sequential = createWorkflow(async (context) => {
  let total = 0;
  for (let number = 0; number < STEPS; number += 1) total += await context.run(`step ${number}`, () => number);
  return end(total);
});

const parallel = createWorkflow(async (context) => {
  const numbers = [...Array(STEPS).keys()];
  const results = await Promise.all(numbers.map((number) => context.run(`step ${number}`, () => number)));
  return end(results.reduce((total, number) => total + number));
});

// A batch as it is written by hand: the entry, pages with their chunks, items.
const client = new Client({ baseUrl: process.env.QSTASH_URL, token: process.env.QSTASH_TOKEN });
const start = async (name, payloads, options) => {
  await client.trigger(payloads.map((body) => ({ url: `${base}/${name}`, body, ...options })));
  return payloads.length;
};
const processItems = createWorkflow(async (context) => {
  const { items } = context.requestPayload;
  await context.run("get-all-items", () => items);
  await context.run("trigger-paginate", () => start("paginate-items", [{ cursor: 0, items }]));
});

const paginateItems = createWorkflow(async (context) => {
  const { itemIds, cursor, items } = context.requestPayload;
  const execute = (ids) =>
    start("execute-item", ids.map((itemId) => ({ itemId })), { flowControl: { key: "items.execute", parallelism: 20 } });
  if (itemIds) return context.run("execute", () => execute(itemIds));
  const end = Math.min(cursor + PAGE_SIZE, items);
  const ids = await context.run("get-batch", () => [...Array(end - cursor).keys()].map((at) => `item-${cursor + at}`));
  const chunks = [];
  for (let at = 0; at < ids.length; at += CHUNK_SIZE) chunks.push({ itemIds: ids.slice(at, at + CHUNK_SIZE) });
  await context.run("fanout", () => (chunks.length > 1 ? start("paginate-items", chunks) : execute(ids)));
  if (end < items) await context.run("next-page", () => start("paginate-items", [{ cursor: end, items }]));
});

const executeItem = createWorkflow(async (context) => {
  const { itemId } = context.requestPayload;
  return end(await context.run("process-item", () => itemId.length));
});

const workflows = serveMany({
  sequential,
  parallel,
  "process-items": processItems,
  "paginate-items": paginateItems,
  "execute-item": executeItem,
});
const server = createServer(async (incoming, outgoing) => {
  const { url, method, headers } = incoming;
  if (method === "GET") return outgoing.end(JSON.stringify({ got, sent, ended, has_batch: false }));
  got += 1;
  const chunks = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const request = new Request(`${base}${url}`, { method, headers, body: Buffer.concat(chunks) });
  const answer = await workflows.fetch(request, process.env);
  outgoing.writeHead(answer.status, Object.fromEntries(answer.headers)).end(await answer.text());
});
server.keepAliveTimeout = 60_000;
server.listen({ fd: Number(process.argv[2]) });
