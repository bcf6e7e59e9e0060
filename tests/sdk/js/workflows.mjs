// Programs on the unmodified workflow SDK, which run at the same time.
import { describe, test } from "node:test";

import "./workflows/steps.mjs";
import "./workflows/events.mjs";
import "./workflows/invoke.mjs";
import "./workflows/failures.mjs";
import "./workflows/dlq.mjs";
import { cancelAll } from "./workflows/control.mjs";
import { checkHits, programs } from "./workflows/stage.mjs";

describe("workflows", { concurrency: programs.length }, () => {
  for (const [name, check] of programs) test(name, check);
});

test("all runs are cancelled, and all entries of the DLQ deleted", cancelAll);

test("no request has arrived that is not accounted for", checkHits);
