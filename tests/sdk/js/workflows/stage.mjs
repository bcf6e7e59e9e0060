// What the programs share: workflows on the official SDK's `serve`, with the requests that have arrived there.
import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { createServer } from "node:http";
import { after } from "node:test";

import { Client } from "@upstash/workflow";
import { createWorkflow, serveMany } from "@upstash/workflow/cloudflare";

import { client as qstash, endpoint, fresh } from "../stage.mjs";

export { endpoint, fresh, qstash };
export const client = new Client({});

const RUN = "upstash-workflow-runid";
const workflows = {};
export const requests = [];
const current = new AsyncLocalStorage();
let handler;
const server = createServer(async (incoming, outgoing) => {
  const chunks = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const { url: path, headers } = incoming;
  const request = { path, headers, body: Buffer.concat(chunks).toString(), steps: [], startedAt: Date.now() };
  requests.push(request);
  handler ??= serveMany(workflows);
  const { method } = incoming;
  const received = new Request(`${base}${path}`, { method, headers, body: request.body });
  const answer = await current.run(request, () => handler.fetch(received, process.env));
  const text = await answer.text();
  Object.assign(request, { status: answer.status, answer: text, endedAt: Date.now() });
  outgoing.writeHead(answer.status, Object.fromEntries(answer.headers)).end(text);
});
// A connection that is idle ends with its client.
server.keepAliveTimeout = 60_000;
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
export const base = `http://127.0.0.1:${server.address().port}`;
after(() => {
  server.close();
  server.closeAllConnections();
});

/** A workflow, served at a URL that ends with its name. */
export function workflow(name, route, options) {
  assert.ok(!(name in workflows), name);
  workflows[name] = createWorkflow(route, options);
  return Object.assign(workflows[name], { url: `${base}/${name}` });
}

export const programs = [];

/** A test, which runs at the same time as the others. */
export const program = (name, check) => programs.push([name, check]);

/** A step that records that its body was executed, and returns what `body` returns. */
export const step = (context, name, body = () => name) =>
  context.run(name, () => {
    current.getStore().steps.push(name);
    return body();
  });

/** The names of the steps of runs whose bodies were executed, in the order of the requests. */
export const executions = (...runs) =>
  requests.filter((it) => runs.some((run) => run.id === it.headers[RUN])).flatMap((it) => it.steps);

/** Returns once the predicate holds, with what it gives. */
export async function until(predicate, description, seconds = 90) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const found = await predicate();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`waited in vain until ${await description()}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const expected = [];

/** What is known of a run. */
export class Run {
  constructor(id) {
    this.id = id;
  }

  /** The requests that have arrived at its endpoint. */
  get requests() {
    return requests.filter((it) => it.headers[RUN] === this.id);
  }

  async log() {
    const { runs } = await client.logs({ filter: { workflowRunId: this.id } });
    return runs[0];
  }

  /** Its log, once the predicate holds for it. */
  async until(predicate, description) {
    const log = async () => {
      const found = await this.log();
      return found !== undefined && predicate(found) && found;
    };
    const shown = async () => `${description}: ${JSON.stringify(await this.log()).slice(0, 4000)} ${this.shown()}`;
    return await until(log, shown);
  }

  /** Its log, once it has ended, which is in this state. */
  async end(state = "RUN_SUCCESS") {
    const log = await this.until((it) => it.workflowState !== "RUN_STARTED", `run ${this.id} has ended`);
    assert.equal(log.workflowState, state, JSON.stringify(log) + this.shown());
    checkLog(this.id, log);
    return log;
  }

  /** Its log, once its failure function has been called in vain or has answered. */
  async failed(state = "CALLBACK_SUCCESS") {
    const log = await this.until(
      (it) => it.failureFunction && it.failureFunction.state !== "CALLBACK_INPROGRESS",
      `the failure function of ${this.id} has ended`,
    );
    assert.equal(log.failureFunction.state, state, JSON.stringify(log));
    return await this.end("RUN_FAILED");
  }

  /** What it returned. */
  async result() {
    const { workflowRunResponse } = await this.end();
    return workflowRunResponse === undefined ? undefined : JSON.parse(workflowRunResponse);
  }

  /** Returns once so many requests have arrived; fails if another one does until the end of all tests. */
  async hits(number) {
    await until(
      () => this.requests.length >= number,
      () => `${number} requests have arrived ${this.shown()}`,
    );
    expected.push([this, number]);
  }

  shown() {
    const last = (body) => {
      const array = body.startsWith("[") ? JSON.parse(body) : [];
      return array.length > 1 ? atob(array.at(-1).body) : `${array.length} entries`;
    };
    const latest = this.requests.slice(-20);
    return `\n${latest.map((it) => `${it.status} ${last(it.body)} -> ${it.answer?.slice(0, 300)}`).join("\n")}`;
  }
}

/** A new run, begun by the SDK's client. */
export async function start(made, options = {}) {
  const { workflowRunId } = await client.trigger({ url: made.url, ...options });
  return new Run(workflowRunId);
}

/** Fails if more requests have arrived than a program has counted. */
export function checkHits() {
  for (const [run, number] of expected) assert.equal(run.requests.length, number, run.shown());
}

/** The only waiter of an event, once it is there. */
export async function waiterOf(eventId) {
  const waiters = await until(
    async () => {
      const found = await client.getWaiters({ eventId });
      return found.length > 0 && found;
    },
    () => `a run waits for ${eventId}`,
  );
  assert.equal(waiters.length, 1);
  return waiters[0];
}

/** The groups of a log as text: their types, and the names, types and states of their steps. */
export const outline = (log) =>
  log.steps.map(({ type, steps }) => `${type}: ${steps.map(shownStep).join(", ")}`);

const shownStep = ({ stepName, stepType, state }) =>
  [stepName, stepType, state?.replace("STEP_", "")].filter((it) => it !== undefined).join(" ");

/** The steps of a log but those that come next, by name. */
export const stepsOf = (log) =>
  Object.fromEntries(
    log.steps.filter((it) => it.type !== "next").flatMap((it) => it.steps.map((found) => [found.stepName, found])),
  );

/** Fails unless a log has the fields that the SDK's types promise. */
function checkLog(id, log) {
  assert.equal(log.workflowRunId, id);
  assert.match(log.workflowUrl, /^http:/);
  assert.ok(log.workflowRunCreatedAt <= log.workflowRunCompletedAt, JSON.stringify(log));
  const [first] = log.steps;
  assert.deepEqual([first.type, first.steps.length], ["sequential", 1]);
  assert.deepEqual([first.steps[0].stepName, first.steps[0].stepType], ["init", "Initial"]);
  for (const { type, steps } of log.steps) {
    assert.ok(["sequential", "parallel", "next"].includes(type), type);
    assert.ok(type !== "sequential" || steps.length === 1);
    for (const found of steps) {
      const shown = JSON.stringify(found);
      assert.match(found.messageId, /^msg_/, shown);
      assert.match(found.state, /^STEP_(PROGRESS|SUCCESS|RETRY|FAILED|CANCELED)$/, shown);
      if (type !== "next") checkStep(found, type, steps.length);
    }
  }
}

function checkStep(found, type, number) {
  const shown = JSON.stringify(found);
  assert.equal(typeof found.stepName, "string", shown);
  assert.ok(["step", "toCallback", "fromCallback"].includes(found.callType), shown);
  assert.equal(typeof found.createdAt, "number", shown);
  assert.equal(found.concurrent, type === "parallel" ? number : 1, shown);
}
