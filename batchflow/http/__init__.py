"""The HTTP interface: endpoints, and the router that has them. Only `Batchflow.router` imports FastAPI."""
