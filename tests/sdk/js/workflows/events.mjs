// Events and webhooks, and runs that wait for them.
import assert from "node:assert/strict";

import { client, fresh, outline, program, start, step, stepsOf, until, waiterOf, workflow } from "./stage.mjs";

const waiting = workflow("waiting", async (context) => {
  const { eventId, timeout, times = 1 } = context.requestPayload;
  const found = [];
  for (let number = 0; number < times; number++)
    found.push(await context.waitForEvent(`wait ${number}`, eventId, { timeout }));
  await step(context, "after");
  return found;
});

/** A run that waits for an event. */
async function startWaiting(eventId = fresh("event")) {
  const run = await start(waiting, { body: { eventId, timeout: "1h" } });
  return [run, await waiterOf(eventId), eventId];
}

program("an event wakes the run that waits, with its data", async () => {
  for (const [eventData, expected] of [
    [{ text: "Zoë €" }, { text: "Zoë €" }],
    ["not JSON €", "not JSON €"],
    [undefined, undefined],
    [0, 0],
  ]) {
    const [run, waiter, eventId] = await startWaiting();
    assert.equal(waiter.url, waiting.url);
    const hour = Date.now() + 3_600_000;
    assert.ok(Math.abs(waiter.deadline * 1000 - hour) < 60_000, JSON.stringify(waiter));
    assert.ok(waiter.headers === undefined || typeof waiter.headers === "object");

    const notified = await client.notify({ eventId, eventData });

    assert.equal(notified.length, 1);
    assert.match(notified[0].messageId, /^msg_/);
    assert.deepEqual([notified[0].error || "", notified[0].waiter.url], ["", waiting.url]);
    const log = await run.end();
    assert.deepEqual(JSON.parse(log.workflowRunResponse), JSON.parse(JSON.stringify([{ eventData: expected, timeout: false }])));
    await run.hits(3);
    assert.deepEqual(await client.getWaiters({ eventId }), []);
    assert.deepEqual(await client.notify({ eventId, eventData }), []);
    assert.deepEqual(outline(log), [
      "sequential: init Initial SUCCESS",
      "sequential: wait 0 Wait SUCCESS",
      "sequential: after Run SUCCESS",
    ]);
    const wait = stepsOf(log)["wait 0"];
    assert.deepEqual([wait.waitEventId, wait.waitTimeoutDuration, wait.waitTimeout ?? false], [eventId, "1h", false]);
    assert.ok(Math.abs(wait.waitTimeoutDeadline - hour) < 60_000, JSON.stringify(wait));
    assert.equal(wait.messageId, notified[0].messageId);
  }
});

program("a wait ends when its time is over; an event that came before it is lost", async () => {
  const eventId = fresh("event");
  assert.deepEqual(await client.notify({ eventId, eventData: 1 }), []);
  const run = await start(waiting, { body: { eventId, timeout: 1 } });
  const log = await run.end();
  assert.deepEqual(JSON.parse(log.workflowRunResponse), [{ timeout: true }]);
  await run.hits(3);
  assert.deepEqual(await client.getWaiters({ eventId }), []);
  assert.equal(stepsOf(log)["wait 0"].waitTimeout, true);
});

program("events for a run are kept until it waits for them, in their order", async () => {
  const eventId = fresh("event");
  const run = await start(waiting, { body: { eventId, timeout: "1h", times: 3 }, delay: 2 });
  for (const eventData of ["first", "second"]) await client.notify({ eventId, eventData, workflowRunId: run.id });
  await waiterOf(eventId);
  const notified = await client.notify({ eventId, eventData: "third", workflowRunId: run.id });
  assert.equal(notified.length, 1);
  const found = await run.result();
  assert.deepEqual(found, ["first", "second", "third"].map((eventData) => ({ eventData, timeout: false })));
  await run.hits(5);
});

program("an event wakes all runs that wait for it", async () => {
  const eventId = fresh("event");
  const body = { eventId, timeout: "1h" };
  const runs = await Promise.all([1, 2, 3].map(() => start(waiting, { body })));
  await until(
    async () => (await client.getWaiters({ eventId })).length === 3,
    () => "three runs wait",
  );
  const one = await client.notify({ eventId, eventData: "for one", workflowRunId: runs[0].id });
  assert.equal(one.length, 1);
  assert.equal((await client.notify({ eventId, eventData: "for all" })).length, 2);
  const found = await Promise.all(runs.map((run) => run.result()));
  assert.deepEqual(found.map(([it]) => it.eventData), ["for one", "for all", "for all"]);
});

const notifying = workflow("notifying", async (context) => {
  const { eventId, workflowRunId } = context.requestPayload;
  return await context.notify("notify", eventId, { a: [1] }, workflowRunId);
});

program("a run wakes another one", async () => {
  const [waits, , eventId] = await startWaiting();
  const notifies = await start(notifying, { body: { eventId } });
  const { notifyResponse, ...rest } = await notifies.result();
  assert.deepEqual(rest, { eventId, eventData: { a: [1] } });
  assert.equal(notifyResponse.length, 1);
  assert.match(notifyResponse[0].messageId, /^msg_/);
  assert.deepEqual(await waits.result(), [{ eventData: { a: [1] }, timeout: false }]);
  await notifies.hits(2);

  const [other, , event] = await startWaiting();
  await (await start(notifying, { body: { eventId: event, workflowRunId: other.id } })).end();
  assert.deepEqual(await other.result(), [{ eventData: { a: [1] }, timeout: false }]);
});

const hooks = {};
const hooked = workflow("hooked", async (context) => {
  const webhook = await context.createWebhook("create");
  await step(context, "tell", () => {
    hooks[context.workflowRunId] = webhook;
  });
  await context.sleep("sleep", context.requestPayload.sleep);
  const found = [];
  for (let number = 0; number < 2; number++) {
    const { request, timeout } = await context.waitForWebhook(`wait ${number}`, webhook, "1h");
    const { method, url, headers } = request;
    found.push([timeout, method, url, headers.get("x-hook"), await request.text()]);
  }
  const { timeout, request } = await context.waitForWebhook("in vain", webhook, "1s");
  return { found, timeout, none: request === undefined };
});

program("webhooks are kept until the run waits for them", async () => {
  const run = await start(hooked, { body: { sleep: 1 } });
  const { webhookUrl: url } = await until(() => hooks[run.id], () => "the webhook is made");
  assert.ok(url.startsWith(`${process.env.QSTASH_URL}/v2/workflows/hooks/`), url);
  const headers = { "X-Hook": "yes", "Content-Type": "text/plain" };
  const early = await fetch(`${url}?a=1&b=%C3%BC`, { method: "PUT", headers, body: "ünd €" });
  assert.equal(early.status, 200);
  await until(
    async () => stepsOf(await run.log())["wait 0"]?.state === "STEP_SUCCESS",
    () => "the first webhook has come",
  );
  assert.equal((await fetch(url)).status, 200);
  const log = await run.end();
  assert.deepEqual(JSON.parse(log.workflowRunResponse), {
    found: [
      [false, "PUT", `${url}?a=1&b=%C3%BC`, "yes", "ünd €"],
      [false, "GET", url, null, ""],
    ],
    timeout: true,
    none: true,
  });
  await run.hits(7);
  const types = Object.fromEntries(Object.entries(stepsOf(log)).map(([name, it]) => [name, it.stepType]));
  assert.deepEqual(types, {
    init: "Initial",
    create: "CreateWebhook",
    tell: "Run",
    sleep: "SleepFor",
    "wait 0": "WaitForWebhook",
    "wait 1": "WaitForWebhook",
    "in vain": "WaitForWebhook",
  });
});
