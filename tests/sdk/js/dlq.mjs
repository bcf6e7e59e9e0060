// Dead letters: found, deleted and published again.
import assert from "node:assert/strict";
import { test } from "node:test";

import { bury, client, endpoint, fresh, untilState } from "./stage.mjs";

test("a dead letter has its message and the last response", async () => {
  const label = fresh("label");
  const letter = await bury(label);
  assert.equal(letter.body, '{"a":1}');
  assert.equal(letter.responseStatus, 500);
  assert.equal(letter.responseBody, "broken");
  assert.deepEqual(letter.responseHeader["X-Reason"], ["a"]);
  const ids = async (options) => (await client.dlq.listMessages(options)).messages.map((it) => it.dlqId);
  assert.deepEqual(await ids({ filter: { label } }), [letter.dlqId]);
  assert.deepEqual(await ids({ filter: { url: letter.url, responseStatus: 500 } }), [letter.dlqId]);
  assert.deepEqual(await ids({ dlqIds: [letter.dlqId] }), [letter.dlqId]);
  assert.deepEqual(await ids({ filter: { label, fromDate: new Date(letter.createdAt - 60_000) } }), [letter.dlqId]);
  assert.deepEqual(await ids({ filter: { label, responseStatus: 404 } }), []);
  assert.ok((await ids()).includes(letter.dlqId));
});

test("dead letters are listed page by page", async () => {
  const label = fresh("label");
  const buried = [];
  for (let number = 0; number < 3; number++) buried.push((await bury(label)).dlqId);
  const seen = [];
  let cursor;
  do {
    const page = await client.dlq.listMessages({ cursor, count: 1, filter: { label } });
    seen.push(...page.messages.map((it) => it.dlqId));
    cursor = page.cursor;
  } while (cursor);
  assert.equal(cursor, undefined);
  assert.deepEqual(seen.sort(), buried.sort());
});

test("dead letters are deleted", async () => {
  const label = fresh("label");
  const ids = [];
  for (let number = 0; number < 6; number++) ids.push((await bury(label)).dlqId);
  assert.deepEqual(await client.dlq.delete(ids[0]), { deleted: 1 });
  assert.equal((await client.dlq.delete([ids[1], "unknown"])).deleted, 1);
  assert.equal((await client.dlq.delete({ dlqIds: [ids[2]] })).deleted, 1);
  assert.equal((await client.dlq.deleteMany({ dlqIds: [ids[3]] })).deleted, 1);
  assert.equal((await client.dlq.delete({ filter: { label } })).deleted, 2);
  await bury(label);
  let cursor;
  do {
    ({ cursor } = await client.dlq.delete({ all: true, cursor }));
  } while (cursor);
  assert.deepEqual((await client.dlq.listMessages()).messages, []);
  await assert.rejects(client.dlq.delete(ids[0]), { status: 404 });
});

test("dead letters are published again", async () => {
  const label = fresh("label");
  const target = endpoint({ status: 500 }, { status: 500 }, { status: 500 }, { status: 200 });
  const dead = [];
  for (let number = 0; number < 3; number++) {
    const request = { url: target.url, body: `${number}`, headers: { "X-Test": `${number}` }, retries: 0, label };
    const { messageId } = await client.publish(request);
    await untilState(messageId, "FAILED");
    dead.push((await client.dlq.listMessages({ filter: { messageId } })).messages[0]);
  }

  const { responses } = await client.dlq.retry(dead[0].dlqId);
  await untilState(responses[0].messageId, "DELIVERED");
  assert.equal((await client.dlq.retry([dead[1].dlqId])).responses.length, 1);
  const rest = await client.dlq.retry({ filter: { label } });
  assert.equal(rest.responses.length, 1);
  assert.equal(rest.cursor, undefined);

  assert.notEqual(responses[0].messageId, dead[0].messageId);
  const again = (await target.first(6)).slice(3);
  assert.deepEqual(again.map((it) => [it.body, it.headers["x-test"]]).sort(), [["0", "0"], ["1", "1"], ["2", "2"]]);
  assert.deepEqual((await client.dlq.listMessages({ filter: { label } })).messages, []);
  const last = await bury(label);
  assert.equal((await client.dlq.retry({ dlqIds: [last.dlqId] })).responses.length, 1);
});
