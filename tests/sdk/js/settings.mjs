// Queues, schedules, URL groups, flow control.
import assert from "node:assert/strict";
import { test } from "node:test";

import { client, endpoint, fresh, until } from "./stage.mjs";

const NOT_FOUND = { status: 404 };

test("a queue keeps its order, and is paused and resumed", async () => {
  const queueName = fresh("queue");
  const queue = client.queue({ queueName });
  const target = endpoint({ status: 200 }, { status: 500, headers: { "Retry-After": "0" } }, { status: 200 });
  await queue.upsert({ parallelism: 1 });
  await queue.pause();
  await queue.enqueue({ url: target.url, body: "0" });
  await queue.enqueueJSON({ url: target.url, body: 1 });
  await queue.enqueueJSON({ url: target.url, body: 2 });
  const paused = await queue.get();
  assert.deepEqual([paused.name, paused.parallelism, paused.lag, paused.paused], [queueName, 1, 3, true]);
  assert.ok((await client.queue().list()).some((it) => it.name === queueName));
  assert.deepEqual(target.received, []);

  await queue.resume();

  assert.deepEqual((await target.first(4)).map((it) => it.body), ["0", "1", "1", "2"]);
  await until(async () => (await queue.get()).lag === 0, "the queue is empty");
  await queue.delete();
  await assert.rejects(queue.get(), NOT_FOUND);
});

test("a schedule is made, changed, paused, resumed and deleted", async () => {
  const target = endpoint();
  const { scheduleId } = await client.schedules.create({
    destination: target.url,
    cron: "30 4 * * *",
    body: JSON.stringify({ a: 1 }),
    method: "PUT",
    headers: { "X-Test": "one" },
    retries: 1,
    delay: 10,
    timeout: 20,
    callback: "https://callback.example",
    failureCallback: "https://failure.example",
    flowControl: { key: fresh("flow"), parallelism: 2, rate: 5, period: 60 },
    label: "the-label",
  });
  const schedule = await client.schedules.get(scheduleId);
  assert.equal(schedule.destination, target.url);
  assert.equal(schedule.cron, "30 4 * * *");
  assert.equal(schedule.body, '{"a":1}');
  assert.equal(schedule.method, "PUT");
  assert.deepEqual(schedule.header["X-Test"], ["one"]);
  assert.deepEqual([schedule.retries, schedule.delay, schedule.timeout], [1, 10, 20]);
  assert.deepEqual([schedule.parallelism, schedule.rate, schedule.period], [2, 5, 60]);
  assert.equal(schedule.label, "the-label");
  assert.equal(schedule.isPaused, false);
  await client.schedules.create({ destination: target.url, cron: "0 0 1 1 *", scheduleId, queueName: fresh("queue") });
  assert.equal((await client.schedules.get(scheduleId)).cron, "0 0 1 1 *");
  assert.equal((await client.schedules.list()).filter((it) => it.scheduleId === scheduleId).length, 1);
  await client.schedules.pause({ schedule: scheduleId });
  assert.equal((await client.schedules.get(scheduleId)).isPaused, true);
  await client.schedules.resume({ schedule: scheduleId });
  assert.equal((await client.schedules.get(scheduleId)).isPaused, false);
  await client.schedules.delete(scheduleId);
  await assert.rejects(client.schedules.get(scheduleId), NOT_FOUND);
});

test("a URL group is made, changed and deleted", async () => {
  const name = fresh("group");
  const [one, two] = [endpoint(), endpoint()];
  await client.urlGroups.addEndpoints({ name, endpoints: [{ url: one.url, name: "one" }, { url: two.url }] });
  const answers = await client.publishJSON({ urlGroup: name, body: { a: 1 } });
  assert.deepEqual(answers.map((it) => it.url).sort(), [one.url, two.url].sort());
  await one.first(1);
  await two.first(1);
  await client.urlGroups.removeEndpoints({ name, endpoints: [{ name: "one" }] });
  assert.deepEqual((await client.urlGroups.get(name)).endpoints.map((it) => it.url), [two.url]);
  assert.ok((await client.urlGroups.list()).some((it) => it.name === name));
  await client.urlGroups.delete(name);
  await assert.rejects(client.urlGroups.get(name), NOT_FOUND);
});

test("a flow key is paused, resumed, pinned and unpinned", async () => {
  const [key, target] = [fresh("flow"), endpoint()];
  const publish = () =>
    client.publishJSON({ url: target.url, body: 1, flowControl: { key, parallelism: 4, rate: 9, period: "1m" } });
  await publish();
  await target.first(1);
  const made = await client.flowControl.get(key);
  assert.equal(made.flowControlKey, key);
  assert.deepEqual([made.parallelismMax, made.rateMax, made.ratePeriod], [4, 9, 60]);
  assert.deepEqual([made.isPaused, made.isPinnedParallelism, made.isPinnedRate], [false, false, false]);

  await client.flowControl.pause(key);
  await publish();
  const paused = await client.flowControl.get(key);
  assert.deepEqual([paused.isPaused, paused.waitListSize], [true, 1]);
  await client.flowControl.resume(key);
  await target.first(2);

  await client.flowControl.pin(key, { parallelism: 7, rate: 8, period: 120 });
  await publish();
  const pinned = await client.flowControl.get(key);
  assert.deepEqual([pinned.parallelismMax, pinned.rateMax, pinned.ratePeriod], [7, 8, 120]);
  assert.deepEqual([pinned.isPinnedParallelism, pinned.isPinnedRate], [true, true]);
  await client.flowControl.unpin(key, { parallelism: true });
  const half = await client.flowControl.get(key);
  assert.deepEqual([half.isPinnedParallelism, half.isPinnedRate], [false, true]);
  await client.flowControl.unpin(key, { rate: true });
  await client.flowControl.resetRate(key);
  await publish();
  await target.first(4);
  const unpinned = await client.flowControl.get(key);
  assert.deepEqual([unpinned.parallelismMax, unpinned.rateMax, unpinned.ratePeriod], [4, 9, 60]);
  assert.ok((await client.flowControl.getGlobalParallelism()).parallelismCount >= 0);
});
