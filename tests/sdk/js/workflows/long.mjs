// A run of many steps, in a process of its own: the hooks of node's test runner would take most of its time.
import assert from "node:assert/strict";
import { createServer } from "node:http";

import { Client, serve } from "@upstash/workflow";

const STEPS = 1000;
const executed = [];
let ended;
const end = new Promise((resolve) => (ended = resolve));

const { handler } = serve(async (context) => {
  let sum = 0;
  for (let number = 1; number <= STEPS; number++)
    sum += await context.run(`step ${number}`, () => {
      executed.push(number);
      return number;
    });
  if (sum === (STEPS * (STEPS + 1)) / 2) ended();
  return sum;
});

let requests = 0;
const server = createServer(async (incoming, outgoing) => {
  requests++;
  const chunks = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const { method, headers } = incoming;
  const answer = await handler(new Request(url, { method, headers, body: Buffer.concat(chunks) }));
  outgoing.writeHead(answer.status, Object.fromEntries(answer.headers)).end(await answer.text());
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${server.address().port}/long`;
const client = new Client({ retry: false });
const began = performance.now();
const { workflowRunId } = await client.trigger({ url });
await end;
const seconds = (performance.now() - began) / 1000;
const state = async () => (await client.logs({ filter: { workflowRunId } })).runs[0].workflowState;
while ((await state()) === "RUN_STARTED") await new Promise((resolve) => setTimeout(resolve, 100));
assert.equal(await state(), "RUN_SUCCESS");
assert.deepEqual(executed, Array.from({ length: STEPS }, (_, index) => index + 1));
assert.equal(requests, STEPS + 1);
console.log(`${STEPS} steps in ${seconds.toFixed(1)} s`);
process.exit();
