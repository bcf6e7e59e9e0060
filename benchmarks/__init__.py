"""Measures the costs of batchflow, each beside a reference measured in the same run: `python -m benchmarks`."""
