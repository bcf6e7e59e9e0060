// The log, and its filters.
import assert from "node:assert/strict";
import { test } from "node:test";

import { client, endpoint, fresh, states, untilState } from "./stage.mjs";

test("the log tells what happened, newest first", async () => {
  const target = endpoint({ status: 500, body: "no", headers: { "Retry-After": "0" } }, { status: 200 });
  const { messageId } = await client.publishJSON({ url: target.url, body: { a: 1 } });
  await untilState(messageId, "DELIVERED");
  assert.deepEqual(await states(messageId), ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"]);
  const { logs } = await client.events({ filter: { messageId } });
  assert.equal(logs[0].state, "DELIVERED");
  assert.equal(logs[0].url, target.url);
  const error = logs.find((log) => log.state === "ERROR");
  assert.deepEqual([error.responseStatus, error.responseBody], [500, "no"]);
});

test("the log is filtered", async () => {
  const [one, two] = [endpoint(), endpoint()];
  const [a, b, c] = [fresh("a"), fresh("b"), fresh("c")];
  const first = (await client.publish({ url: one.url, label: [a, b] })).messageId;
  const second = (await client.publish({ url: two.url, label: c })).messageId;
  await untilState(first, "DELIVERED");
  await untilState(second, "DELIVERED");
  const found = async (filter) => {
    const { logs } = await client.logs({ filter });
    return [...new Set(logs.map((log) => log.messageId))].sort();
  };
  assert.deepEqual(await found({ label: a }), [first]);
  assert.deepEqual(await found({ label: b }), [first]);
  assert.deepEqual(await found({ label: [a, c] }), [first, second].sort());
  assert.deepEqual(await found({ label: a, url: two.url }), []);
  assert.deepEqual(await found({ url: [one.url, two.url] }), [first, second].sort());
  assert.deepEqual(await found({ label: a, state: "DELIVERED" }), [first]);
  assert.deepEqual(await found({ label: a, fromDate: new Date(Date.now() + 60_000) }), []);
  const { logs } = await client.logs({ messageIds: [second] });
  assert.deepEqual([...new Set(logs.map((log) => log.messageId))], [second]);
});

test("the log is listed page by page", async () => {
  const target = endpoint();
  const { messageId } = await client.publish({ url: target.url });
  await untilState(messageId, "DELIVERED");
  const seen = [];
  let cursor;
  do {
    const page = await client.logs({ cursor, count: 1, filter: { messageId } });
    seen.push(...page.logs.map((log) => log.state));
    cursor = page.cursor;
  } while (cursor);
  assert.equal(cursor, undefined);
  assert.deepEqual(seen, ["DELIVERED", "ACTIVE", "CREATED"]);
});

test("an unknown filter is refused", async () => {
  await assert.rejects(client.logs({ filter: { mesageId: "a" } }), { status: 400 });
});
