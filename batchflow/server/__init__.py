"""The QStash-compatible server: its REST API over a store, and the tokens of its tenants."""
