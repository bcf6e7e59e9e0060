// Runs that fail: their failure functions, and errors that say how to go on.
import assert from "node:assert/strict";

import { WorkflowNonRetryableError, WorkflowRetryAfterError } from "@upstash/workflow";

import { endpoint, executions, fresh, outline, program, start, step, stepsOf, until, workflow } from "./stage.mjs";

const told = {};
const failing = workflow(
  "failing",
  async (context) => {
    await step(context, "fine");
    await step(context, "broken", () => {
      throw new Error("broken €");
    });
  },
  {
    failureFunction: ({ context, failStatus, failResponse, failHeaders, failStack }) => {
      const { workflowRunId, requestPayload, url, headers, label } = context;
      const user = headers.get("x-user");
      told[workflowRunId] = { requestPayload, url, user, label, failStatus, failResponse, failHeaders, failStack };
      return "handled €";
    },
  },
);

program("the failure function learns why the run has failed", async () => {
  const options = { headers: { "X-User": "zoe" }, label: "failed", retries: 2, retryDelay: "10" };
  const run = await start(failing, { body: { a: "Zoë" }, ...options });
  const log = await run.failed();

  const { failStack, failHeaders, ...rest } = told[run.id];
  assert.deepEqual(rest, {
    requestPayload: { a: "Zoë" },
    url: failing.url,
    user: "zoe",
    label: "failed",
    failStatus: 500,
    failResponse: "broken €",
  });
  assert.match(failStack, /Error: broken €/);
  assert.deepEqual(failHeaders["Upstash-Workflow-Sdk-Version"], ["1"]);
  assert.deepEqual(executions(run), ["fine", "broken", "broken", "broken"]);
  // The initial one, three attempts at the step, the failure function.
  await run.hits(5);
  const retried = run.requests.map((it) => it.headers["upstash-retried"]);
  assert.deepEqual(retried, ["0", "0", "1", "2", "0"]);

  assert.deepEqual(outline(log).slice(0, 2), ["sequential: init Initial SUCCESS", "sequential: fine Run SUCCESS"]);
  const next = log.steps.at(-1);
  assert.deepEqual([next.type, next.steps[0].state, log.steps.length], ["next", "STEP_FAILED", 3]);
  const { errors } = next.steps[0];
  assert.deepEqual(errors.map((it) => it.status), [500, 500, 500]);
  assert.equal(JSON.parse(errors[0].body).message, "broken €");
  const { failureFunction } = log;
  assert.deepEqual([failureFunction.url, failureFunction.failStatus, failureFunction.responseStatus], [failing.url, 500, 200]);
  assert.equal(failureFunction.dlqId, log.dlqId);
  assert.ok(failureFunction.responseBody.includes("handled €"), failureFunction.responseBody);
  assert.ok(failureFunction.failResponse.includes("broken €"), failureFunction.failResponse);
});

program("a failure URL gets the failure", async () => {
  const target = endpoint();
  const run = await start(failing, { body: "text €", retries: 0, failureUrl: target.url });
  const log = await run.failed();
  const [{ body, headers }] = target.received;
  const found = JSON.parse(body);
  assert.deepEqual([found.status, found.workflowRunId, found.dlqId, found.url], [500, run.id, log.dlqId, failing.url]);
  assert.equal(found.workflowCreatedAt, log.workflowRunCreatedAt);
  assert.equal(Buffer.from(found.sourceBody, "base64").toString(), "text €");
  assert.equal(JSON.parse(Buffer.from(found.body, "base64")).message, "broken €");
  assert.equal(headers["upstash-workflow-is-failure"], "true");
  assert.equal(target.received.length, 1);
  await run.hits(2);
});

const unhandled = workflow("unhandled", async (context) => {
  await step(context, "broken", () => {
    throw new WorkflowNonRetryableError("do not repeat this");
  });
});

program("an error that forbids retries fails the run at once", async () => {
  const run = await start(unhandled, { retries: 5 });
  const log = await run.end("RUN_FAILED");
  assert.deepEqual(executions(run), ["broken"]);
  const [{ errors, state }] = log.steps.at(-1).steps;
  assert.deepEqual([state, errors.length, errors[0].status], ["STEP_FAILED", 1, 489]);
  assert.match(errors[0].body, /do not repeat this/);
  // The endpoint is asked for a failure function, which it does not have.
  await until(
    () => run.requests.length === 2,
    () => "the failure callback has arrived",
  );
  await run.hits(2);
});

const patient = workflow("patient", async (context) => {
  const began = await step(context, "began", () => Date.now());
  const ended = await step(context, "wait", () => {
    if (executions({ id: context.workflowRunId }).length === 2) throw new WorkflowRetryAfterError("not yet", 1);
    return Date.now();
  });
  return ended - began;
});

program("an error that says when is repeated then", async () => {
  const run = await start(patient, { retries: 1 });
  const waited = await run.result();
  // Without it, the first retry comes after twelve seconds.
  assert.ok(waited >= 1_000 && waited < 11_000, waited);
  assert.deepEqual(executions(run), ["began", "wait", "wait"]);
  await run.hits(4);
});

let failures = 0;
const twice = workflow(
  "twice",
  async (context) => {
    const broken = (name) =>
      step(context, name, async () => {
        await new Promise((resolve) => setTimeout(resolve, 200));
        throw new Error(`${name} is broken`);
      });
    await Promise.all([broken("a"), broken("b"), step(context, "c")]);
  },
  { failureFunction: () => void failures++ },
);

program("two branches that fail at once fail the run once", async () => {
  const run = await start(twice, { retries: 0 });
  const log = await run.failed();
  assert.equal(failures, 1);
  const failed = log.steps[1].steps.filter((it) => it.state === "STEP_FAILED");
  assert.ok(failed.length >= 1, JSON.stringify(log.steps));
  assert.match(JSON.stringify(failed[0].errors), /is broken/);
  assert.equal(log.steps[1].type, "parallel");
});

const recovering = workflow("recovering", async (context) => {
  const first = await step(context, "flaky", () => {
    if (executions({ id: context.workflowRunId }).length < 2) throw new Error("not yet");
    return "fine";
  });
  return [first, context.retried];
});

program("a step that fails is repeated", async () => {
  const run = await start(recovering, { retries: 3, retryDelay: "1" });
  const log = await run.end();
  assert.deepEqual(JSON.parse(log.workflowRunResponse), ["fine", 0]);
  await run.hits(3);
  assert.equal(stepsOf(log).flaky.state, "STEP_SUCCESS");
});

const unauthorized = workflow("unauthorized", async (context) => {
  if (context.headers.get("authorization") !== "Bearer secret") return;
  await step(context, "secret");
});

program("a run whose function begins no step is refused by the SDK, and fails", async () => {
  const run = await start(unauthorized, { retries: 0 });
  const log = await run.end("RUN_FAILED");
  assert.equal(log.steps.at(-1).steps[0].errors[0].status, 400);
  assert.deepEqual(executions(run), []);
  const allowed = await start(unauthorized, { headers: { Authorization: "Bearer secret" } });
  await allowed.end();
  await allowed.hits(2);
});

program("a secret header is not shown where it is redacted", async () => {
  const secret = fresh("secret");
  const headers = { Authorization: "Bearer secret", "X-Secret": secret };
  const run = await start(unauthorized, { headers, body: secret, redact: { body: true, header: ["X-Secret"] } });
  const log = await run.end();
  assert.ok(!JSON.stringify(log).includes(secret), JSON.stringify(log));
  assert.ok(run.requests.every((it) => it.headers["x-secret"] === secret));
});
