// Messages: published, in a batch, read and cancelled; their signature.
import assert from "node:assert/strict";
import { test } from "node:test";

import { bury, client, endpoint, fresh, receiver, states, until, untilState } from "./stage.mjs";

const NOT_FOUND = { name: "QstashError", status: 404 };

test("a published body arrives as it is, signed", async () => {
  const target = endpoint();
  const body = '{ "name":  "Zoë" }';
  const { messageId } = await client.publish({
    url: target.url,
    body,
    headers: { "Content-Type": "application/json", "X-Test": "one" },
  });

  const [received] = await target.first(1);

  assert.equal(received.method, "POST");
  assert.equal(received.body, body);
  assert.equal(received.headers["content-type"], "application/json");
  assert.equal(received.headers["x-test"], "one");
  assert.equal(received.headers["upstash-message-id"], messageId);
  assert.equal(received.headers["upstash-retried"], "0");
  assert.deepEqual(
    Object.keys(received.headers).filter((name) => name.startsWith("upstash-telemetry")),
    [],
  );
  const signature = received.headers["upstash-signature"];
  assert.ok(await receiver.verify({ signature, body, url: target.url, clockTolerance: 0 }));
  await assert.rejects(receiver.verify({ signature, body: `${body} ` }), { name: "SignatureError" });
  await assert.rejects(receiver.verify({ signature, body, url: `${target.url}/other` }), { name: "SignatureError" });
  await assert.rejects(receiver.verify({ signature: `${signature}x`, body }), { name: "SignatureError" });
});

test("publishJSON takes every option", async () => {
  const target = endpoint();
  const callback = endpoint();
  const [labels, key] = [[fresh("a"), fresh("b")], fresh("flow")];
  const { messageId } = await client.publishJSON({
    url: target.url,
    body: { a: [1, null, "ü"] },
    method: "PUT",
    headers: { "X-Test": "one", "Upstash-Callback-Forward-X-Callback": "two" },
    retries: 2,
    retryDelay: "1000 * (1 + retried)",
    callback: callback.url,
    failureCallback: callback.url,
    delay: 1,
    timeout: 30,
    deduplicationId: fresh("once"),
    flowControl: { key, parallelism: 3, rate: 100, period: "1h30m3s" },
    label: labels,
  });
  const message = await client.messages.get(messageId);

  assert.equal(message.url, target.url);
  assert.equal(message.method, "PUT");
  assert.deepEqual(JSON.parse(message.body), { a: [1, null, "ü"] });
  assert.equal(message.maxRetries, 2);
  assert.equal(message.retryDelayExpression, "1000 * (1 + retried)");
  assert.equal(message.callback, callback.url);
  assert.equal(message.failureCallback, callback.url);
  assert.equal(message.notBefore - message.createdAt, 1000);
  assert.equal(message.label, labels[0]);
  assert.deepEqual(message.labels, labels);
  assert.equal(message.flowControlKey, key);
  assert.deepEqual([message.parallelism, message.rate, message.period], [3, 100, 5403]);
  const [received] = await target.first(1);
  assert.equal(received.method, "PUT");
  assert.equal(received.headers["x-test"], "one");
  const [told] = await callback.first(1);
  assert.equal(told.headers["x-callback"], "two");
  const outcome = JSON.parse(told.body);
  assert.equal(outcome.status, 200);
  assert.equal(outcome.sourceMessageId, messageId);
  assert.equal(atob(outcome.body), "fine");
  assert.ok(
    await receiver.verify({ signature: told.headers["upstash-signature"], body: told.body, url: callback.url }),
  );
});

test("a message that is due later waits", async () => {
  const target = endpoint();
  const notBefore = Math.floor(Date.now() / 1000) + 2;
  await client.publish({ url: target.url, notBefore });
  await target.first(1);
  assert.ok(Date.now() >= notBefore * 1000);
});

test("duplicates are published once", async () => {
  const target = endpoint();
  const request = () => ({ url: target.url, body: fresh("body") });
  const deduplicationId = fresh("once");
  const first = await client.publishJSON({ ...request(), deduplicationId });
  const second = await client.publishJSON({ ...request(), deduplicationId });
  assert.equal(second.messageId, first.messageId);
  assert.equal(second.deduplicated, true);
  const same = { ...request(), contentBasedDeduplication: true };
  const third = await client.publishJSON(same);
  const fourth = await client.publishJSON(same);
  assert.equal(fourth.messageId, third.messageId);
  assert.notEqual(third.messageId, first.messageId);
  await target.first(2);
});

test("redacted parts are shown as hashes and delivered as they are", async () => {
  const target = endpoint();
  const { messageId } = await client.publish({
    url: target.url,
    body: "secret",
    headers: { "X-Secret": "secret" },
    redact: { body: true, header: ["X-Secret"] },
  });
  const [received] = await target.first(1);
  assert.deepEqual([received.body, received.headers["x-secret"]], ["secret", "secret"]);
  const message = await client.messages.get(messageId);
  assert.match(message.body, /^REDACTED:[0-9a-f]{64}$/);
  assert.match(message.header["X-Secret"][0], /^REDACTED:[0-9a-f]{64}$/);
  const all = await client.publish({ url: target.url, headers: { "X-Secret": "secret" }, redact: { header: true } });
  assert.match((await client.messages.get(all.messageId)).header["X-Secret"][0], /^REDACTED:/);
});

test("a batch publishes and enqueues all", async () => {
  const [one, two, queued] = [endpoint(), endpoint(), endpoint()];
  const [name, queueName] = [fresh("group"), fresh("queue")];
  await client.urlGroups.addEndpoints({ name, endpoints: [{ url: one.url }, { url: two.url }] });
  const answers = await client.batch([
    { url: one.url, body: "a", headers: { "X-Number": "1" } },
    { urlGroup: name, body: "b" },
    { url: queued.url, body: "c", queueName },
  ]);
  assert.equal(typeof answers[0].messageId, "string");
  assert.deepEqual(answers[1].map((it) => it.url).sort(), [one.url, two.url].sort());
  assert.deepEqual((await one.first(2)).map((it) => it.body).sort(), ["a", "b"]);
  assert.equal((await two.first(1))[0].headers["upstash-topic-name"], name);
  assert.equal((await queued.first(1))[0].body, "c");
  assert.equal((await client.queue({ queueName }).get()).parallelism, 1);

  const json = await client.batchJSON([{ url: two.url, body: { a: 1 } }]);
  assert.equal(json.length, 1);
  const received = (await two.first(2))[1];
  assert.deepEqual([received.headers["content-type"], received.body], ["application/json", '{"a":1}']);
});

test("a batch with a wrong item is refused", async () => {
  await assert.rejects(client.batch([{ url: endpoint().url }, { url: endpoint().url, delay: "soon" }]), {
    status: 400,
  });
});

test("a cancelled message is not delivered", async () => {
  const target = endpoint();
  const label = fresh("label");
  const later = async () => (await client.publish({ url: target.url, delay: "1h", label })).messageId;
  await until(async () => (await client.messages.cancel({ all: true })).cancelled === 0, "nothing else is open");
  const ids = [];
  for (let number = 0; number < 8; number++) ids.push(await later());

  assert.deepEqual(await client.messages.cancel(ids[0]), { cancelled: 1 });
  await client.messages.delete(ids[1]);
  assert.deepEqual(await client.messages.cancel([ids[2], "msg_unknown"]), { cancelled: 1 });
  assert.deepEqual(await client.messages.cancel({ messageIds: [ids[3]] }), { cancelled: 1 });
  assert.equal(await client.messages.deleteMany([ids[4]]), 1);
  assert.deepEqual(await client.messages.cancel({ filter: { label, url: target.url } }), { cancelled: 3 });
  await later();
  assert.deepEqual(await client.messages.cancel({ all: true }), { cancelled: 1 });
  await later();
  assert.equal(await client.messages.deleteAll(), 1);

  for (const id of ids) {
    await assert.rejects(client.messages.get(id), NOT_FOUND);
    assert.deepEqual(await states(id), ["CREATED", "CANCEL_REQUESTED", "CANCELED"]);
  }
  await assert.rejects(client.messages.cancel("msg_unknown"), NOT_FOUND);
  assert.deepEqual(target.received, []);
});

test("failed deliveries are repeated, signed anew", async () => {
  const target = endpoint({ status: 500, headers: { "Retry-After": "0" } }, { status: 200 });
  const { messageId } = await client.publish({ url: target.url, body: "x" });
  for (const [number, received] of (await target.first(2)).entries()) {
    assert.equal(received.headers["upstash-retried"], String(number));
    const signature = received.headers["upstash-signature"];
    assert.ok(await receiver.verify({ signature, body: "x", url: target.url }));
  }
  await untilState(messageId, "DELIVERED");
});

test("a wrong token is refused", async () => {
  const { Client } = await import("@upstash/qstash");
  const stranger = new Client({ token: "wrong", baseUrl: process.env.QSTASH_URL, retry: false });
  await assert.rejects(stranger.publish({ url: endpoint().url }), { status: 401 });
  await assert.rejects(stranger.logs(), { status: 401 });
  assert.ok(await bury(fresh("label")));
});
