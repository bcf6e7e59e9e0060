"""The HTTP interface, as a FastAPI router: triggers, batches, runs, events. Only `Batchflow.router` imports FastAPI."""
