"""Memory does not depend on a film's length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FRAMES = int(os.environ.get("STREAMGAN_TEST_FRAMES", "100000"))

# Bytes a frame that FFmpeg itself keeps for the containers' indexes: of MP4 all packets until the index is written, of
# Matroska the places of the packets read. Transport streams have none.
INDEX_BYTES = {".ts": 0, ".mkv": 50, ".mp4": 300}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("suffix", list(INDEX_BYTES))
def test_memory_is_flat_after_the_first_frames(suffix: str) -> None:
    """Within 1 % after 10,000 frames; STREAMGAN_TEST_FRAMES=1000000 for a longer film."""
    command = [sys.executable, "-m", "tests.engine.video.memory", str(FRAMES), "--suffix", suffix]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3500)
    assert done.returncode == 0, done.stderr
    resident = {int(frames): size for frames, size in json.loads(done.stdout).items()}
    assert max(resident) >= FRAMES - 5000
    first = resident[10_000]
    later = {frames: size - first for frames, size in resident.items() if frames > 10_000}
    grown = {
        frames: size for frames, size in later.items() if size > 0.01 * first + INDEX_BYTES[suffix] * (frames - 10_000)
    }
    assert not grown, f"{first} bytes after 10,000 frames; then {grown}"
