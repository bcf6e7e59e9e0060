"""The `batchflow` command. `import batchflow` never imports it."""

from batchflow.cli.app import invoke, main

__all__ = ["invoke", "main"]
