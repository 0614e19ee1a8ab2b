"""Measurements: `python -m bench`. Contenders take turns within a round, so that they share the machine's mood."""
