// The requests that the SDK makes for one program, as JSON: one list for each of these deliveries and triggers.
import http from "node:http";
import { Client } from "@upstash/workflow";
import { createWorkflow, serveMany } from "@upstash/workflow/astro";

const URL_OF_APP = "https://app.example.com/parent";
const encode = (text) => Buffer.from(text).toString("base64");

const requests = [];
const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    requests.push({ method: request.method, path: request.url, headers: request.headers, body: Buffer.concat(chunks).toString() });
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(request.url.startsWith("/v2/notify") ? [] : [{ messageId: "msg_1" }]));
  });
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

const env = {
  QSTASH_URL: `http://127.0.0.1:${server.address().port}`,
  QSTASH_TOKEN: encode(JSON.stringify({ UserID: "user", Password: "secret" })),
};
Object.assign(process.env, env);

const { deliveries, callback, limits, triggers } = JSON.parse(process.argv[2]);
const child = createWorkflow(async (context) => context.requestPayload);
const parent = createWorkflow(async (context) => {
  await context.run("one", () => ({ text: "é", number: 1 }));
  await context.sleepUntil("until", 1900000000);
  await context.call("ask", { url: "https://api.example.com/x", method: "POST", body: '{"q":1}', headers: { "x-a": "b" }, timeout: "30s", ...limits });
  await context.waitForEvent("wait", "paid/1", { timeout: "20s" });
  await Promise.all([context.run("left", () => 1), context.sleepUntil("right", 1900000005)]);
  await context.notify("note", "other", { a: 1 });
  await context.invoke("child", { workflow: child, body: "7", workflowRunId: "child-1", ...limits });
  return { done: true };
});
const { POST } = serveMany({ parent, child }, { baseUrl: "https://app.example.com", disableTelemetry: true });

const answers = [];

async function post(headers, body) {
  requests.length = 0;
  const request = new Request(URL_OF_APP, { method: "POST", headers: { "content-type": "application/json", ...headers }, body });
  const response = await POST({ request });
  answers.push({ status: response.status, text: await response.text(), requests: [...requests] });
}

const common = { "upstash-workflow-runid": "wfr_1", "upstash-workflow-createdat": "1700000000000", "upstash-message-id": "msg_0" };
for (const entries of deliveries) {
  const steps = entries.map((body, place) => ({ messageId: `msg_${place}`, body: encode(body), callType: "step" }));
  await post({ ...common, "upstash-workflow-sdk-version": "1" }, JSON.stringify(steps));
}
await post({ ...common, ...callback.headers }, JSON.stringify(callback.body));
const client = new Client({ baseUrl: env.QSTASH_URL, token: env.QSTASH_TOKEN });
for (const trigger of triggers) {
  requests.length = 0;
  const { workflowRunId } = await client.trigger({ ...trigger, disableTelemetry: true });
  answers.push({ status: 200, text: JSON.stringify({ workflowRunId }), requests: [...requests] });
}
console.log(JSON.stringify(answers));
server.close();
process.exit(0);
