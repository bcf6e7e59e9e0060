// What the programs share: the SDK's client, a server that records what is delivered to it, and waiting.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { after } from "node:test";

import { Client, Receiver } from "@upstash/qstash";

export const client = new Client({ retry: false });
export const receiver = new Receiver();

const endpoints = new Map();
const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const endpoint = endpoints.get(request.url.split("?")[0]);
  const answer = endpoint?.answers[Math.min(endpoint.received.length, endpoint.answers.length - 1)];
  endpoint?.received.push({ method: request.method, headers: request.headers, body: Buffer.concat(chunks).toString() });
  await answer?.held;
  response.writeHead(answer?.status ?? 404, answer?.headers ?? {}).end(answer?.body ?? "");
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
after(() => {
  server.close();
  server.closeAllConnections();
});

/** A name that no other test uses. */
export const fresh = (kind) => `${kind}-${randomUUID()}`;

/** A URL with what has arrived there; the last answer is given again and again. */
export function endpoint(...answers) {
  const path = `/${fresh("endpoint")}`;
  const made = {
    url: `http://127.0.0.1:${server.address().port}${path}`,
    answers: answers.length > 0 ? answers : [{ status: 200, body: "fine" }],
    received: [],
    /** The first requests, once so many have arrived. */
    first: async (number) => {
      await until(() => made.received.length >= number, `${number} requests have arrived`);
      return made.received.slice(0, number);
    },
  };
  endpoints.set(path, made);
  return made;
}

/** Returns once the predicate holds. */
export async function until(predicate, description) {
  const deadline = Date.now() + 30_000;
  while (!(await predicate())) {
    if (Date.now() > deadline) throw new Error(`waited in vain until ${description}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The states of a message in the log, oldest first. */
export const states = async (messageId) =>
  (await client.logs({ filter: { messageId } })).logs.map((log) => log.state).reverse();

/** Returns once the log has this state of the message. */
export const untilState = (messageId, state) =>
  until(async () => (await states(messageId)).includes(state), `${messageId} is ${state}`);

/** A message that was not delivered and is not tried again; its dead letter. */
export async function bury(label) {
  const target = endpoint({ status: 500, body: "broken", headers: { "X-Reason": "a" } });
  const { messageId } = await client.publishJSON({ url: target.url, body: { a: 1 }, retries: 0, label });
  await untilState(messageId, "FAILED");
  const { messages } = await client.dlq.listMessages({ filter: { messageId } });
  return messages[0];
}
