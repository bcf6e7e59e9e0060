"""`python -m examples.welcome_placeholder` is the demo."""

from examples.welcome_placeholder.demo import main

main()
