"""The `batchflow` command. `import batchflow` never imports it."""

from batchflow.cli.command import invoke, main

__all__ = ["invoke", "main"]
