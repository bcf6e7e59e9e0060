// Runs that go on while servers are killed. What has arrived is written to the file RECORDS.
import { writeFile } from "node:fs/promises";
import { test } from "node:test";

import { Client } from "@upstash/workflow";

import { base, endpoint, fresh, requests, step, until, workflow } from "./stage.mjs";

const RUNS = 30;
const third = endpoint({ status: 200, body: "called" });

const inner = workflow("inner", async (context) => await step(context, "inner"));

const mixed = workflow("mixed", async (context) => {
  const { number, eventId, other } = context.requestPayload;
  const found = [await step(context, "first", () => number)];
  await Promise.all([step(context, "a"), step(context, "b"), context.sleep("sleep", 1)]);
  found.push((await context.call("call", { url: third.url, method: "POST", retries: 3, retryDelay: "100" })).body);
  if (number % 3 === 0) found.push((await context.invoke("invoke", { workflow: inner, ...PATIENT })).body);
  // The runs of a pair wake each other.
  await context.notify("notify", other, number, context.requestPayload.otherRun);
  found.push((await context.waitForEvent("wait", eventId, { timeout: "1h" })).eventData);
  for (let count = 0; count < 5; count++) await step(context, `step ${count}`);
  return found;
});

const PATIENT = { retries: 20, retryDelay: "200" };

test("all runs end", async () => {
  // A server that was killed is there again after some seconds, on a busy machine after minutes.
  const client = new Client({ retry: { retries: 1500, backoff: () => 200 } });
  const [ids, events] = [0, 1].map(() => Array.from({ length: RUNS }, () => fresh("id")));
  const pair = (number) => number ^ 1;
  const bodies = ids.map((_, number) => ({
    number,
    eventId: events[number],
    other: events[pair(number)],
    otherRun: `wfr_${ids[pair(number)]}`,
  }));
  const counting = setInterval(() => console.log(`requests ${requests.length}`), 20);
  await Promise.all(bodies.map((body, number) => client.trigger({ url: mixed.url, workflowRunId: ids[number], body, ...PATIENT })));
  const results = {};
  const ended = async () => {
    let cursor;
    do {
      const page = await client.logs({ filter: { workflowUrl: mixed.url }, cursor });
      for (const { workflowRunId, workflowState, workflowRunResponse } of page.runs)
        if (workflowState !== "RUN_STARTED") results[workflowRunId] = [workflowState, workflowRunResponse];
      cursor = page.cursor;
    } while (cursor);
    return Object.keys(results).length === RUNS;
  };
  try {
    await until(ended, () => `all runs have ended: ${JSON.stringify(results)}`, 150);
  } finally {
    clearInterval(counting);
  }
  const records = requests.map(({ path, headers, steps, startedAt, endedAt, status }) => ({
    run: headers["upstash-workflow-runid"],
    message: headers["upstash-message-id"],
    path,
    steps,
    startedAt,
    endedAt,
    status,
  }));
  await writeFile(process.env.RECORDS, JSON.stringify({ results, requests: records, base }));
});
