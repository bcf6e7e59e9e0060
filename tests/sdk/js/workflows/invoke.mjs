// Runs that wait for other runs.
import assert from "node:assert/strict";

import { client, executions, fresh, outline, program, Run, start, step, stepsOf, until, workflow } from "./stage.mjs";

const child = workflow("child", async (context) => {
  const body = await step(context, "work", () => {
    if (context.requestPayload.fail) throw new Error("broken");
    return context.requestPayload;
  });
  if (body.cancel) await context.cancel();
  if (body.nothing) return undefined;
  return { body, header: context.headers.get("x-child"), user: context.headers.get("x-user"), label: context.label };
});

const parent = workflow("parent", async (context) => {
  const options = { workflow: child, retries: 0, headers: { "X-Child": "one" }, label: "invoked" };
  const found = [];
  for (const body of context.requestPayload) found.push(await context.invoke(`invoke ${found.length}`, { ...options, body }));
  await step(context, "after");
  return found;
});

program("a run gets what the runs it invokes return, and how they end", async () => {
  const bodies = [{ a: "Zoë €" }, { fail: true }, { cancel: true }, { nothing: true }];
  const run = await start(parent, { body: bodies, headers: { "X-User": "zoe" } });
  const log = await run.end();
  const [fine, failed, cancelled, nothing] = JSON.parse(log.workflowRunResponse);
  assert.deepEqual(fine, {
    body: { body: bodies[0], header: "one", user: null, label: "invoked" },
    isCanceled: false,
    isFailed: false,
  });
  assert.deepEqual([failed.isFailed, failed.isCanceled ?? false, failed.body], [true, false, undefined]);
  assert.deepEqual([cancelled.isFailed ?? false, cancelled.isCanceled, cancelled.body], [false, true, undefined]);
  assert.deepEqual([nothing.isFailed, nothing.isCanceled, nothing.body], [false, false, undefined]);
  await run.hits(6);
  assert.ok(run.requests.every((it) => it.headers["x-user"] === "zoe"));

  assert.deepEqual(outline(log)[1], "sequential: invoke 0 Invoke SUCCESS");
  const states = [];
  for (const number of bodies.keys()) {
    const invoked = stepsOf(log)[`invoke ${number}`];
    assert.equal(invoked.invokedWorkflowUrl, child.url);
    const it = await new Run(invoked.invokedWorkflowRunId).log();
    assert.equal(it.workflowRunCreatedAt, invoked.invokedWorkflowCreatedAt);
    assert.deepEqual(it.invoker, {
      workflowRunId: run.id,
      workflowUrl: parent.url,
      workflowRunCreatedAt: log.workflowRunCreatedAt,
    });
    assert.equal(it.label, "invoked");
    states.push(it.workflowState);
  }
  assert.deepEqual(states, ["RUN_SUCCESS", "RUN_FAILED", "RUN_CANCELED", "RUN_SUCCESS"]);
});

const nested = workflow("nested", async (context) => {
  const depth = context.requestPayload;
  if (depth === 0) return await step(context, "deepest", () => 0);
  const { body } = await context.invoke("deeper", { workflow: nested, body: depth - 1 });
  return body + 1;
});

program("invoked runs invoke others", async () => {
  const run = await start(nested, { body: 3 });
  assert.equal(await run.result(), 3);
  await run.hits(2);
});

const both = workflow("both", async (context) => {
  const invoke = (body) => context.invoke(`invoke ${body.a}`, { workflow: child, body });
  return (await Promise.all([invoke({ a: 1 }), invoke({ a: 2 })])).map((it) => it.body.body.a);
});

program("two invoked runs run at the same time", async () => {
  const run = await start(both);
  assert.deepEqual(await run.result(), [1, 2]);
  await run.hits(1 + 2 + 2);
});

const slow = workflow("slow", async (context) => {
  await context.waitForEvent("wait", context.requestPayload, { timeout: "1h" });
  return "done";
});
const failing = workflow("failing-parent", async (context) => {
  await Promise.all([
    context.invoke("invoke", { workflow: slow, body: context.requestPayload, label: context.requestPayload }),
    step(context, "fail", async () => {
      await until(async () => (await client.getWaiters({ eventId: context.requestPayload })).length === 1, () => "the child waits");
      throw new Error("broken");
    }),
  ]);
});

program("the result for a run that has failed is shown, and nothing goes on", async () => {
  const eventId = fresh("event");
  const run = await start(failing, { body: eventId, retries: 0 });
  await run.end("RUN_FAILED");
  const { runs } = await client.logs({ filter: { label: eventId } });
  const invoked = new Run(runs[0].workflowRunId);
  await client.notify({ eventId });
  assert.equal(await invoked.result(), "done");
  const log = await run.until((it) => stepsOf(it).invoke.state === "STEP_SUCCESS", "the result is shown");
  assert.equal(stepsOf(log).invoke.invokedWorkflowRunId, invoked.id);
  assert.equal((await run.log()).workflowState, "RUN_FAILED");
  assert.deepEqual(executions(run), ["fail"]);
});

const itself = workflow("itself", async (context) => {
  const workflowRunId = context.workflowRunId.replace("wfr_", "");
  await context.invoke("invoke", { workflow: child, body: {}, workflowRunId });
});

program("a run that invokes itself fails", async () => {
  const run = await start(itself, { retries: 0 });
  const log = await run.end("RUN_FAILED");
  assert.match(JSON.stringify(log), /the workflow run to invoke goes on already/);
  await run.hits(2);
});
