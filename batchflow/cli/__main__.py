"""`python -m batchflow.cli`: the command, without its script."""

from batchflow.cli.app import main

main()
