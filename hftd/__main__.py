"""`python -m hftd NAME`: what an agent's shim runs."""

from hftd.cli.main import main

main()
