// Runs that have failed, in the DLQ: resumed, restarted, deleted, and their failure functions called again.
import assert from "node:assert/strict";

import { client, executions, fresh, program, Run, start, step, until, workflow } from "./stage.mjs";

/** What is broken until it is mended, by the label of the run. */
const mended = new Set();
const failOnce = (context, name) =>
  step(context, name, () => {
    if (!mended.has(context.label)) throw new Error(`${name} is broken`);
    return `${name} is mended`;
  });

const fragile = workflow("fragile", async (context) => {
  const first = await step(context, "first");
  const second = await failOnce(context, "second");
  return [context.requestPayload, first, second, context.headers.get("x-user")];
});

/** A run that has failed, with its entry in the DLQ. */
async function fail(made = fragile, label = fresh("label"), options = {}) {
  const run = await start(made, { body: { a: "Zoë" }, headers: { "X-User": "zoe" }, label, retries: 0, ...options });
  const { dlqId } = await run.end("RUN_FAILED");
  const { messages } = await client.dlq.list({ filter: { workflowRunId: run.id } });
  assert.equal(messages.length, 1);
  assert.equal(messages[0].dlqId, dlqId);
  return { run, label, dlqId, entry: messages[0] };
}

const listed = async (filter) => (await client.dlq.list({ filter })).messages.map((it) => it.dlqId);

program("a failed run is in the DLQ, and found by its filters", async () => {
  const { run, label, dlqId, entry } = await fail();
  const log = await run.log();
  assert.deepEqual([entry.workflowRunId, entry.workflowUrl, entry.responseStatus], [run.id, fragile.url, 500]);
  assert.equal(entry.workflowCreatedAt, log.workflowRunCreatedAt);
  assert.match(entry.responseBody, /second is broken/);
  assert.deepEqual([entry.label, entry.labels, entry.maxRetries], [label, [label], 0]);
  assert.equal(entry.failureCallback, fragile.url);
  assert.equal(entry.header["X-User"][0], "zoe");
  for (const filter of [
    { label },
    { label, workflowUrl: fragile.url },
    { workflowRunId: run.id, workflowCreatedAt: log.workflowRunCreatedAt },
    { label, fromDate: entry.createdAt - 1000, toDate: Date.now() + 1000 },
    { label, responseStatus: 500 },
  ])
    assert.deepEqual(await listed(filter), [dlqId], JSON.stringify(filter));
  assert.deepEqual(await listed({ label, workflowUrl: `${fragile.url}/other` }), []);
  assert.deepEqual(await listed({ workflowRunId: "wfr_other" }), []);
  const page = await client.dlq.list({ count: 1, filter: { label } });
  assert.deepEqual([page.messages.length, page.cursor], [1, undefined]);
});

program("a resumed run goes on at the step that failed", async () => {
  const { run, label, dlqId } = await fail();
  mended.add(label);
  const { workflowRuns } = await client.dlq.resume(dlqId, { retries: 1 });
  assert.equal(workflowRuns.length, 1);
  const resumed = new Run(workflowRuns[0].workflowRunId);
  assert.notEqual(resumed.id, run.id);
  assert.deepEqual(await resumed.result(), [{ a: "Zoë" }, "first", "second is mended", "zoe"]);
  assert.equal((await resumed.log()).workflowRunCreatedAt, Number(workflowRuns[0].workflowCreatedAt));
  assert.deepEqual(executions(run, resumed), ["first", "second", "second"]);
  await resumed.hits(2);
  assert.deepEqual(await listed({ label }), []);
  assert.equal((await resumed.log()).label, label);
});

program("a resumed run may fail and be resumed again", async () => {
  const { run, label, dlqId } = await fail();
  const { workflowRunId } = await client.dlq.resume({ dlqId });
  const again = new Run(workflowRunId);
  await again.end("RUN_FAILED");
  assert.deepEqual(executions(run, again), ["first", "second", "second"]);
  const [second] = await listed({ label });
  mended.add(label);
  const [{ workflowRunId: last }] = await client.dlq.resume({ dlqId: [second] });
  assert.deepEqual(await new Run(last).result(), [{ a: "Zoë" }, "first", "second is mended", "zoe"]);
});

program("a restarted run does all again", async () => {
  const { run, label, dlqId } = await fail();
  mended.add(label);
  const flowControl = { key: fresh("flow"), parallelism: 2 };
  const { workflowRuns } = await client.dlq.restart([dlqId], { retries: 2, flowControl });
  const restarted = new Run(workflowRuns[0].workflowRunId);
  assert.notEqual(restarted.id, run.id);
  assert.deepEqual(await restarted.result(), [{ a: "Zoë" }, "first", "second is mended", "zoe"]);
  assert.deepEqual(executions(restarted), ["first", "second"]);
  await restarted.hits(3);
  assert.deepEqual(await listed({ label }), []);
});

const forked = workflow("forked", async (context) => {
  const before = await step(context, "before");
  const found = await Promise.all([
    step(context, "a"),
    step(context, "b", async () => {
      if (mended.has(context.label)) return "b is mended";
      // It fails once the others have results.
      const { steps } = await until(
        async () => {
          const log = await new Run(context.workflowRunId).log();
          const done = log.steps.at(-1).steps.filter((it) => it.state === "STEP_SUCCESS");
          return done.length === 2 && log;
        },
        () => "the others have results",
      );
      throw new Error(`b of ${steps.length} is broken`);
    }),
    step(context, "c"),
  ]);
  return [before, ...found, await step(context, "after")];
});

program("of parallel steps, those without a result are done again", async () => {
  const { run, label, dlqId } = await fail(forked);
  assert.deepEqual(executions(run).sort(), ["a", "b", "before", "c"]);
  mended.add(label);
  const { workflowRuns } = await client.dlq.resume({ filter: { label } });
  const resumed = new Run(workflowRuns[0].workflowRunId);
  assert.deepEqual(await resumed.result(), ["before", "a", "b is mended", "c", "after"]);
  assert.deepEqual(executions(resumed).sort(), ["after", "b"]);
  assert.deepEqual(await listed({ dlqIds: dlqId, label }), []);
});

const hopeless = workflow("hopeless", (context) => step(context, "broken", () => Promise.reject(new Error("broken"))), {
  failureFunction: ({ context }) => {
    if (!mended.has(context.label)) throw new Error("the failure function is broken");
    return "mended";
  },
});

program("a failure function that fails is called again", async () => {
  const label = fresh("label");
  const run = await start(hopeless, { label, retries: 0 });
  const log = await run.failed("CALLBACK_FAIL");
  const { dlqId, failureFunction } = log;
  assert.match(failureFunction.errors.at(-1).body, /the failure function is broken/);
  const state = async () => (await client.dlq.list({ filter: { label } })).messages[0].failureCallbackInfo;
  const { state: found, responseStatus, responseBody } = await state();
  assert.deepEqual([found, responseStatus], ["CALLBACK_FAIL", 500]);
  assert.match(responseBody, /the failure function is broken/);
  assert.deepEqual(await listed({ label, failureFunctionState: "CALLBACK_FAIL" }), [dlqId]);
  assert.deepEqual(await listed({ label, failureFunctionState: "CALLBACK_SUCCESS" }), []);

  mended.add(label);
  const retried = await client.dlq.retryFailureFunction({ dlqId });

  assert.equal(retried.workflowRunId, run.id);
  await until(async () => (await state()).state === "CALLBACK_SUCCESS", () => "the failure function has answered");
  await run.failed();
  await assert.rejects(client.dlq.retryFailureFunction({ dlqId }), { status: 400 });
  await assert.rejects(client.dlq.retryFailureFunction({ dlqId: "unknown" }), { name: "QstashError" });
  await run.hits(3);
});

program("entries are deleted by id, and by filter", async () => {
  const label = fresh("label");
  const [one, two, three, four] = await Promise.all([1, 2, 3, 4].map(() => fail(fragile, label)));
  assert.deepEqual((await listed({ label })).length, 4);
  assert.equal((await client.dlq.delete(one.dlqId)).deleted, 1);
  assert.equal((await client.dlq.delete([two.dlqId, one.dlqId])).deleted, 1);
  assert.equal((await client.dlq.delete({ filter: { label } })).deleted, 2);
  assert.deepEqual(await listed({ label }), []);
  assert.ok(three.dlqId !== four.dlqId);
  // The run is shown still, but not to be resumed.
  assert.equal((await one.run.log()).workflowState, "RUN_FAILED");
  const { workflowRuns } = await client.dlq.resume([one.dlqId]).catch(() => ({ workflowRuns: [] }));
  assert.deepEqual(workflowRuns, []);
});
