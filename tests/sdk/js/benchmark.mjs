// Functions that are measured, on the official SDK's `serve`; the same as in benchmarks/qstash_app.py.
import { createServer } from "node:http";

import { createWorkflow, serveMany } from "@upstash/workflow/cloudflare";

const STEPS = 10;
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

const workflows = serveMany({ sequential, parallel });
const base = process.env.APP_URL.replace(/\/$/, "");
const server = createServer(async (incoming, outgoing) => {
  const { url, method, headers } = incoming;
  if (method === "GET") return outgoing.end(JSON.stringify({ got, sent, ended }));
  got += 1;
  const chunks = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const request = new Request(`${base}${url}`, { method, headers, body: Buffer.concat(chunks) });
  const answer = await workflows.fetch(request, process.env);
  outgoing.writeHead(answer.status, Object.fromEntries(answer.headers)).end(await answer.text());
});
server.keepAliveTimeout = 60_000;
server.listen({ fd: Number(process.argv[2]) });
