"""`python -m batchflow.cli`: the command, without its script."""

from batchflow.cli.command import main

main()
