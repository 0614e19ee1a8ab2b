"""Mutated inputs against the readers: `make fuzz MINUTES=10`, or `python -m tests.fuzz --help`."""
