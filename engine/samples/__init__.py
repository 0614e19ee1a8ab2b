"""The sample clip: what `python -m engine.run` translates if nothing is named, and what the tests use."""

from pathlib import Path

SAMPLE = Path(__file__).with_name("sample.mp4")
