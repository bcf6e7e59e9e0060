"""The HTTP interface, as a FastAPI router: triggers, batches, runs. Only `Batchflow.router` imports it."""
