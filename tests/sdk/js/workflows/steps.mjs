// Steps: in order, at the same time, and those that sleep or call.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { client, endpoint, executions, fresh, outline, program, Run, start, step, stepsOf, waiterOf, workflow } from "./stage.mjs";

const USER = { "X-User": "zoe=1" };

const sequence = workflow("sequence", async (context) => {
  const values = [context.requestPayload, context.headers.get("x-user")];
  values.push(await step(context, "one", () => ({ a: [1, null, "ü€😀"] })));
  values.push(await step(context, "two", () => undefined));
  values.push(await step(context, "three", () => "5"));
  return values;
});

program("steps run in order, each once", async () => {
  const body = { text: "Zoë €", list: [1, null] };
  const run = await start(sequence, { body, headers: USER, label: "the-label", retries: 1 });
  const log = await run.end();
  const values = [body, USER["X-User"], { a: [1, null, "ü€😀"] }, null, "5"];
  assert.deepEqual(JSON.parse(log.workflowRunResponse), values);
  assert.deepEqual(executions(run), ["one", "two", "three"]);
  await run.hits(4);
  for (const [index, { headers, body: delivered }] of run.requests.entries()) {
    const entries = JSON.parse(delivered);
    assert.equal(delivered, JSON.stringify(entries));
    assert.equal(entries.length, index + 1);
    assert.equal(Buffer.from(entries[0].body, "base64").toString(), JSON.stringify(body));
    assert.equal(entries.at(-1).messageId, headers["upstash-message-id"]);
    assert.ok(entries.every((it) => it.callType === "step"));
    assert.equal(headers["x-user"], USER["X-User"]);
    assert.equal(headers["upstash-label"], "the-label");
    assert.equal(headers["upstash-workflow-sdk-version"], "1");
    assert.equal(Number(headers["upstash-workflow-createdat"]), log.workflowRunCreatedAt);
    assert.equal(headers["upstash-telemetry-sdk"], undefined);
  }
  assert.deepEqual(outline(log), [
    "sequential: init Initial SUCCESS",
    "sequential: one Run SUCCESS",
    "sequential: two Run SUCCESS",
    "sequential: three Run SUCCESS",
  ]);
  assert.deepEqual([log.label, log.labels, log.workflowUrl], ["the-label", ["the-label"], sequence.url]);
  const { init, one } = stepsOf(log);
  assert.deepEqual(JSON.parse(init.out), body);
  assert.deepEqual(JSON.parse(one.out), { a: [1, null, "ü€😀"] });
  assert.equal(one.stepId, 1);
});

program("an initial body is given as it is, or not at all", async () => {
  const [text, none, number] = [await start(sequence, { body: "not JSON €" }), await start(sequence), await start(sequence, { body: "7" })];
  assert.equal((await text.result())[0], "not JSON €");
  assert.equal((await none.result())[0], null);
  assert.equal((await number.result())[0], 7);
});

const sleepy = workflow("sleepy", async (context) => {
  const times = [];
  const now = async (name) => times.push(await step(context, name, () => Date.now()));
  await now("before");
  await context.sleep("for a second", 1);
  await now("between");
  await context.sleep("as text", "1s");
  const due = await step(context, "choose", () => Math.ceil(Date.now() / 1000) + 1);
  await context.sleepUntil("until", due);
  await now("after");
  return { times, due };
});

program("sleeps take their time, and nothing wakes the run before", async () => {
  const run = await start(sleepy);
  const log = await run.end();
  const { times, due } = JSON.parse(log.workflowRunResponse);
  assert.ok(times[1] - times[0] >= 1000, times);
  assert.ok(times[2] - times[1] >= 1000, times);
  assert.ok(times[2] >= due * 1000, `${times} ${due}`);
  await run.hits(8);
  const steps = stepsOf(log);
  assert.equal(steps["for a second"].stepType, "SleepFor");
  assert.equal(steps["for a second"].sleepFor, 1);
  assert.equal(steps.until.stepType, "SleepUntil");
  assert.equal(steps.until.sleepUntil, due);
});

const parallel = workflow("parallel", async (context) => {
  const names = ["a", "b", "c"];
  const found = await Promise.all(names.map((name) => step(context, name)));
  return [...found, await step(context, "last")];
});

program("parallel steps run each once, in three rounds of requests", async () => {
  const run = await start(parallel);
  const log = await run.end();
  assert.deepEqual(JSON.parse(log.workflowRunResponse), ["a", "b", "c", "last"]);
  assert.deepEqual(executions(run).sort(), ["a", "b", "c", "last"]);
  assert.equal(executions(run).at(-1), "last");
  await run.hits(1 + 3 + 3 + 1);
  assert.deepEqual(outline(log), [
    "sequential: init Initial SUCCESS",
    "parallel: a Run SUCCESS, b Run SUCCESS, c Run SUCCESS",
    "sequential: last Run SUCCESS",
  ]);
  const { a, b, c } = stepsOf(log);
  assert.deepEqual([a, b, c].map((it) => it.stepId), [1, 2, 3]);
  assert.deepEqual([a, b, c].map((it) => JSON.parse(it.out)), ["a", "b", "c"]);
});

const branches = workflow("branches", async (context) => {
  const branch = async (letter, number) => {
    const found = [];
    for (let index = 0; index < number; index++) found.push(await step(context, `${letter}${index}`));
    return found.join();
  };
  return await Promise.all([branch("a", 3), branch("b", 2), branch("c", 1)]);
});

program("branches are sequences of their own", async () => {
  const run = await start(branches);
  assert.deepEqual(await run.result(), ["a0,a1,a2", "b0,b1", "c0"]);
  assert.deepEqual(executions(run).sort(), ["a0", "a1", "a2", "b0", "b1", "c0"]);
  await run.hits(1 + 2 * 3 + 2 * 2 + 1);
});

const BYTES = Buffer.from(Array.from({ length: 256 }, (_, index) => index));

const calling = workflow("calling", async (context) => {
  const url = context.requestPayload;
  const fine = await context.call("fine", {
    url: `${url.fine}?a=1&b=ü`,
    method: "POST",
    headers: { "X-Call": "one", "Content-Type": "application/json" },
    body: JSON.stringify({ text: "Zoë €" }),
  });
  const missing = await context.call("missing", { url: url.missing });
  const repeated = await context.call("repeated", { url: url.repeated, retries: 2, retryDelay: "1" });
  const broken = await context.call("broken", { url: url.broken, method: "PUT", body: "x", retries: 1, retryDelay: "1" });
  const binary = await context.call("binary", { url: url.binary, method: "DELETE", timeout: 20 });
  const unreachable = await context.call("unreachable", { url: "http://127.0.0.1:9/", timeout: "5s" });
  return { fine, missing, repeated, broken, binary, unreachable: unreachable.status };
});

program("calls give the response of the last attempt", async () => {
  const json = { "Content-Type": "application/json", "X-Answer": "yes" };
  const targets = {
    fine: endpoint({ status: 201, headers: json, body: JSON.stringify({ answer: "ünd €" }) }),
    missing: endpoint({ status: 404, headers: { "Content-Type": "text/plain" }, body: "no such thing €" }),
    repeated: endpoint({ status: 500 }, { status: 503 }, { status: 200, body: "at last" }),
    broken: endpoint({ status: 500, body: "broken" }),
    binary: endpoint({ status: 200, headers: { "Content-Type": "application/octet-stream" }, body: BYTES }),
  };
  const urls = Object.fromEntries(Object.entries(targets).map(([name, it]) => [name, it.url]));
  const run = await start(calling, { body: urls, headers: USER });
  const log = await run.end();
  const found = JSON.parse(log.workflowRunResponse);

  assert.deepEqual([found.fine.status, found.fine.body], [201, { answer: "ünd €" }]);
  assert.deepEqual(found.fine.header["X-Answer"], ["yes"]);
  assert.deepEqual([found.missing.status, found.missing.body], [404, "no such thing €"]);
  assert.deepEqual([found.repeated.status, found.repeated.body], [200, "at last"]);
  assert.deepEqual([found.broken.status, found.broken.body], [500, "broken"]);
  assert.equal(found.binary.body, BYTES.toString("latin1"));
  assert.ok(found.unreachable >= 500, found.unreachable);

  const sent = Object.fromEntries(Object.entries(targets).map(([name, it]) => [name, it.received]));
  assert.deepEqual(Object.values(sent).map((it) => it.length), [1, 1, 3, 2, 1]);
  const [first] = sent.fine;
  assert.deepEqual([first.method, first.body], ["POST", JSON.stringify({ text: "Zoë €" })]);
  assert.deepEqual([first.headers["x-call"], first.headers["content-type"]], ["one", "application/json"]);
  const methods = [sent.missing[0].method, sent.broken[0].method, sent.binary[0].method];
  assert.deepEqual(methods, ["GET", "PUT", "DELETE"]);
  for (const { headers } of Object.values(sent).flat()) {
    assert.equal(headers["x-user"], undefined);
    assert.equal(headers["upstash-workflow-sdk-version"], undefined);
  }
  // One callback and one result of each call.
  await run.hits(1 + 2 * 6);
  assert.ok(run.requests.every((it) => it.headers["x-user"] === USER["X-User"]));

  assert.equal(outline(log).length, 7);
  const { fine } = stepsOf(log);
  assert.deepEqual([fine.stepType, fine.callMethod, fine.callBody], ["Call", "POST", JSON.stringify({ text: "Zoë €" })]);
  assert.ok(fine.callUrl.startsWith(targets.fine.url), fine.callUrl);
  assert.equal(fine.callResponseStatus, 201);
  assert.deepEqual(fine.callHeaders["X-Call"], ["one"]);
  assert.deepEqual(fine.callResponseHeaders["X-Answer"], ["yes"]);
  assert.ok(JSON.stringify(fine.callResponseBody).includes("ünd €"), fine.callResponseBody);
});

const sibling = workflow("sibling", async (context) => {
  await step(context, "child");
  return context.requestPayload;
});
const callsSibling = workflow("calls-sibling", async (context) => {
  const { status, body } = await context.call("sibling", { workflow: sibling, body: { a: 1 } });
  return [status, body];
});

program("a call to another workflow starts a run of it", async () => {
  const run = await start(callsSibling);
  const [status, { workflowRunId }] = await run.result();
  assert.equal(status, 200);
  assert.notEqual(workflowRunId, run.id);
  assert.deepEqual(await new Run(workflowRunId).result(), { a: 1 });
});

program("a run of 1,000 steps ends", async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ["workflows/long.mjs"]);
  console.log(stdout.trim());
});

const mixed = workflow("mixed", async (context) => {
  const [run, , call, wait] = await Promise.all([
    step(context, "run"),
    context.sleep("sleep", 1),
    context.call("call", { url: context.requestPayload.url, method: "POST", body: "x" }),
    context.waitForEvent("wait", context.requestPayload.eventId, { timeout: "1m" }),
  ]);
  const after = await step(context, "after");
  return { run, call: call.body, wait, after };
});

program("a step, a sleep, a call and a wait run at the same time", async () => {
  const [target, eventId] = [endpoint({ status: 200, body: "called" }), fresh("event")];
  const run = await start(mixed, { body: { url: target.url, eventId } });
  await waiterOf(eventId);
  await client.notify({ eventId, eventData: { b: 2 } });
  const log = await run.end();
  assert.deepEqual(JSON.parse(log.workflowRunResponse), {
    run: "run",
    call: "called",
    wait: { eventData: { b: 2 }, timeout: false },
    after: "after",
  });
  assert.deepEqual(executions(run), ["run", "after"]);
  assert.equal(target.received.length, 1);
  // The plan and the result of each of four, a callback of the call, and the last step.
  await run.hits(1 + 4 + 4 + 1 + 1);
  assert.equal(log.steps[1].type, "parallel");
  assert.deepEqual(
    log.steps[1].steps.map((it) => [it.stepName, it.stepType, it.state]),
    [["run", "Run"], ["sleep", "SleepFor"], ["call", "Call"], ["wait", "Wait"]].map((it) => [...it, "STEP_SUCCESS"]),
  );
});
