// Runs from outside: begun, cancelled, listed.
import assert from "node:assert/strict";

import { base, client, endpoint, executions, fresh, outline, program, qstash, Run, start, step, until, waiterOf, workflow } from "./stage.mjs";

const authorization = { Authorization: `Bearer ${process.env.QSTASH_TOKEN}` };

const wait = async (context) => {
  await step(context, "before");
  await context.waitForEvent("wait", context.requestPayload, { timeout: "1h" });
  await step(context, "after");
};
const open = workflow("open", wait);
const cancelled = ["by-prefix-1", "by-prefix-2", "by-url"].map((name) => workflow(name, wait));

/** A run that waits. */
async function startOpen(made = open, options = {}) {
  const eventId = fresh("event");
  const run = await start(made, { body: eventId, ...options });
  await waiterOf(eventId);
  return Object.assign(run, { eventId });
}

async function assertCancelled(run) {
  const log = await run.end("RUN_CANCELED");
  assert.equal(log.steps.at(-1).steps[0].state, "STEP_CANCELED", JSON.stringify(log.steps));
  assert.deepEqual(await client.notify({ eventId: run.eventId }), []);
  assert.deepEqual(await client.getWaiters({ eventId: run.eventId }), []);
  assert.deepEqual((await client.dlq.list({ filter: { workflowRunId: run.id } })).messages, []);
  assert.deepEqual(executions(run), ["before"]);
  await run.hits(2);
}

program("runs are cancelled by id", async () => {
  const runs = await Promise.all([1, 2, 3, 4, 5].map(() => startOpen()));
  const [one, two, three, four, five] = runs.map((it) => it.id);
  assert.deepEqual(await client.cancel(one), { cancelled: 1 });
  assert.deepEqual(await client.cancel([two, one, "wfr_unknown"]), { cancelled: 1 });
  assert.deepEqual(await client.cancel({ workflowRunIds: [three] }), { cancelled: 1 });
  assert.deepEqual(await client.cancel({ ids: [four] }), { cancelled: 1 });
  assert.deepEqual(await client.cancel({ ids: five }), { cancelled: 1 });
  assert.deepEqual(await client.cancel("wfr_unknown"), { cancelled: 0 });
  for (const run of runs) await assertCancelled(run);
});

program("runs are cancelled by URL and by label", async () => {
  const [label, other] = [fresh("label"), fresh("label")];
  const prefixed = await Promise.all(cancelled.map((it) => startOpen(it)));
  const labelled = await Promise.all([startOpen(open, { label: ["first", label] }), startOpen(open, { label })]);
  const left = await startOpen(open, { label: other });
  const workflowUrlStartingWith = `${base}/by-prefix`;
  assert.deepEqual(await client.cancel({ filter: { workflowUrl: workflowUrlStartingWith } }), { cancelled: 0 });
  assert.deepEqual(await client.cancel({ filter: { workflowUrlStartingWith } }), { cancelled: 2 });
  assert.deepEqual(await client.cancel({ filter: { workflowUrl: `${base}/by-url` } }), { cancelled: 1 });
  assert.deepEqual(await client.cancel({ filter: { label } }), { cancelled: 2 });
  for (const run of [...prefixed, ...labelled]) await assertCancelled(run);
  assert.equal((await left.log()).workflowState, "RUN_STARTED");
  assert.deepEqual(await client.cancel({ urlStartingWith: `${base}/by-prefix` }), { cancelled: 0 });
  assert.deepEqual(await client.cancel(left.id), { cancelled: 1 });
});

const selfish = workflow("selfish", async (context) => {
  await step(context, "before");
  await context.cancel();
  await step(context, "after");
}, { failureFunction: () => assert.fail("a cancelled run has not failed") });

program("a run cancels itself", async () => {
  const run = await start(selfish);
  await run.end("RUN_CANCELED");
  assert.deepEqual(executions(run), ["before"]);
  await run.hits(2);
});

const short = workflow("short", async (context) => await step(context, "only", () => context.requestPayload ?? null));

program("many runs are begun at once", async () => {
  const runs = await client.trigger([1, 2, 3].map((body) => ({ url: short.url, body })));
  const results = await Promise.all(runs.map((it) => new Run(it.workflowRunId).result()));
  assert.deepEqual(results, [1, 2, 3]);
});

program("a run id is used once while its run is alive", async () => {
  const [workflowRunId, body] = [fresh("mine"), fresh("event")];
  const run = await start(open, { workflowRunId, body });
  assert.equal(run.id, `wfr_${workflowRunId}`);
  assert.equal((await start(open, { workflowRunId, body: "other" })).id, run.id);
  await waiterOf(body);
  assert.equal((await start(open, { workflowRunId, body: "other" })).id, run.id);
  await client.notify({ eventId: body });
  await run.end();
  assert.deepEqual(executions(run), ["before", "after"]);
  await run.hits(4);
});

program("a run begins later, under flow control, with labels", async () => {
  const [began, key, label] = [Date.now(), fresh("flow"), [fresh("a"), fresh("b")]];
  const flowControl = { key, parallelism: 1, rate: 100, period: "1m" };
  const options = { flowControl, label, delay: 1 };
  const runs = await Promise.all([1, 2].map((body) => start(short, { ...options, body })));
  const notBefore = Math.ceil(began / 1000) + 2;
  const third = await start(short, { flowControl, notBefore });
  for (const run of runs) {
    const log = await run.end();
    assert.deepEqual(log.labels, label);
    assert.equal(log.label, label[0]);
    assert.ok(run.requests[0].startedAt >= began + 1000);
    assert.equal(run.requests[1].headers["upstash-flow-control-key"] ?? key, key);
  }
  await third.end();
  assert.ok(third.requests[0].startedAt >= notBefore * 1000);
  const times = [...runs, third].flatMap((it) => it.requests).sort((a, b) => a.startedAt - b.startedAt);
  for (const [index, { startedAt }] of times.slice(1).entries()) assert.ok(times[index].endedAt <= startedAt, "one at a time");
  const { runs: found } = await client.logs({ filter: { label: label[1], workflowUrl: short.url } });
  assert.deepEqual(found.map((it) => it.workflowRunId).sort(), runs.map((it) => it.id).sort());
});

program("logs are filtered and read page by page", async () => {
  const label = fresh("label");
  const runs = [];
  for (const body of [1, 2, 3]) runs.push(await start(short, { body, label }));
  for (const run of runs) await run.end();
  const ids = runs.map((it) => it.id).reverse();
  const filter = { label };
  const list = async (params) => (await client.logs(params)).runs.map((it) => it.workflowRunId);
  assert.deepEqual(await list({ filter }), ids);
  assert.deepEqual(await list({ filter: { label, state: "RUN_SUCCESS" } }), ids);
  assert.deepEqual(await list({ filter: { label, state: "RUN_FAILED" } }), []);
  assert.deepEqual(await list({ label, workflowUrl: short.url, state: "RUN_SUCCESS" }), ids);
  assert.deepEqual(await list({ filter: { label, toDate: Date.now() - 3_600_000 } }), []);
  const { workflowRunCreatedAt: workflowCreatedAt, steps } = await runs[0].log();
  assert.deepEqual(await list({ filter: { workflowRunId: ids[2], workflowCreatedAt } }), [ids[2]]);
  assert.deepEqual(await list({ filter: { label, messageId: steps[1].steps[0].messageId } }), [ids[2]]);
  const found = [];
  let cursor;
  do {
    const page = await client.logs({ filter, count: 2, cursor });
    found.push(...page.runs.map((it) => it.workflowRunId));
    cursor = page.cursor;
  } while (cursor);
  assert.deepEqual(found, ids);
});

const trigger = async (url, options) => {
  const answer = await fetch(`${process.env.QSTASH_URL}/v2/trigger/${url}`, { method: "POST", ...options });
  assert.ok(answer.ok, await answer.clone().text());
  const { workflowRunId, workflowCreatedAt } = await answer.json();
  assert.equal(typeof workflowCreatedAt, "number");
  return new Run(workflowRunId);
};

const contacted = workflow("contacted", async (context) => {
  const seen = await step(context, "only", () => context.headers.get("x-user"));
  return [context.requestPayload, seen, context.label];
});

program("a run is begun without an SDK", async () => {
  const headers = { ...authorization, "Upstash-Forward-X-User": "zoe", "Upstash-Label": "curl", "Upstash-Retries": "1" };
  const run = await trigger(contacted.url, { headers, body: JSON.stringify({ a: "Zoë" }) });
  const log = await run.end();
  assert.deepEqual(JSON.parse(log.workflowRunResponse), [{ a: "Zoë" }, "zoe", "curl"]);
  assert.equal(log.label, "curl");
  // First contact, the beginning, and the step.
  await run.hits(3);
  assert.deepEqual(run.requests.map((it) => it.headers["upstash-workflow-unknown-sdk"]), ["true", undefined, undefined]);
  assert.deepEqual(executions(run), ["only"]);
  assert.deepEqual(outline(log), ["sequential: init Initial SUCCESS", "sequential: only Run SUCCESS"]);

  const named = await trigger(contacted.url, { headers: { ...authorization, "Upstash-Workflow-RunId": fresh("named") } });
  assert.match(named.id, /^wfr_named-/);
  assert.deepEqual((await named.result())[0], null);
});

const errorOf = async (run) => {
  const { steps, dlqId } = await run.end("RUN_FAILED");
  assert.ok(dlqId);
  const [{ state, errors }] = steps.at(-1).steps;
  assert.deepEqual([steps.length, steps[1].type, state, errors.length], [2, "next", "STEP_FAILED", 1]);
  return errors[0];
};

program("a destination that serves no workflow fails the run", async () => {
  const target = endpoint({ status: 200, body: "hello" });
  const text = "detected a non-workflow destination for trigger/invoke. make sure you are sending the request to the correct endpoint";
  const sdk = await errorOf(await start({ url: target.url }, { retries: 3 }));
  assert.ok(sdk.error.toLowerCase().startsWith(text), sdk.error);
  assert.ok(sdk.body.includes("hello"), sdk.body);
  await until(() => target.received.length === 2, () => "the failure callback has arrived");

  const old = endpoint({ status: 200, headers: { "Upstash-Workflow-Sdk-Version": "1" }, body: "old" });
  const { error } = await errorOf(await trigger(old.url, { headers: authorization }));
  assert.match(error, /trigger rest api is only usable with sdk versions after v1\.0\.0 major version/i);
  assert.equal(old.received.length, 1);
});

program("a request that is not signed is refused by the endpoint", async () => {
  const direct = await fetch(short.url, { method: "POST", body: "1" });
  assert.equal(direct.status, 500);
  assert.match(await direct.text(), /Failed to verify that the Workflow request comes from QStash/);
  const headers = { "Upstash-Workflow-Sdk-Version": "1", "Upstash-Workflow-RunId": "wfr_1", "Upstash-Signature": "x.y.z" };
  assert.equal((await fetch(short.url, { method: "POST", headers, body: "[]" })).status, 500);
  assert.deepEqual(executions({ id: undefined }, { id: "wfr_1" }), []);
});

program("a message to the endpoint begins a run, as the SDK asks for it", async () => {
  const label = fresh("label");
  await qstash.publishJSON({ url: short.url, body: { a: 1 }, headers: { "X-User": "zoe" }, label });
  const run = await until(
    async () => (await client.logs({ filter: { label } })).runs[0],
    () => "the run is begun",
  );
  assert.deepEqual(await new Run(run.workflowRunId).result(), { a: 1 });
});

/** What is not to run at the same time as the others. */
export async function cancelAll() {
  const runs = [await startOpen(), await startOpen()];
  assert.deepEqual(await client.cancel({ all: true }), { cancelled: 2 });
  for (const run of runs) await assertCancelled(run);
  const failed = await start({ url: endpoint({ status: 500 }).url }, { retries: 0 });
  await failed.end("RUN_FAILED");
  assert.ok((await client.dlq.delete({ all: true })).deleted > 0);
  assert.deepEqual((await client.dlq.list()).messages, []);
}
