"""Counts in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from engine.serve.sessions import Machine


def exposition(machine: Machine, *, viewers: int, uploads: Mapping[str, int]) -> str:
    """What `/metrics` answers.

    Format: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    lines = [
        *_metric("streamgan_sessions", "gauge", "Live sessions that are open", {"": len(machine.sessions)}),
        *_metric("streamgan_viewers", "gauge", "Browsers that are sent a picture", {"": viewers}),
        *_metric(
            "streamgan_frames_total",
            "counter",
            "Frames of live sessions: received = shown + dropped + at most three under way in each",
            {f'{{state="{name}"}}': count for name, count in machine.totals().items()},
        ),
        *_metric(
            "streamgan_uploads",
            "gauge",
            "Uploaded files by what has become of them",
            {f'{{state="{state}"}}': count for state, count in sorted(uploads.items())},
        ),
    ]
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str, values: Mapping[str, int]) -> list[str]:
    return [
        f"# HELP {name} {text}",
        f"# TYPE {name} {kind}",
        *(f"{name}{labels} {value}" for labels, value in values.items()),
    ]
