"""The short name of this processor, as results and tables have it: `python -m bench machine` prints `amd-zen4`.

Figures hold for one kind of processor, so files of results carry its name: bench/results/model-amd-zen4.json.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

# What the documents call a processor. Others are called by the name that they give themselves.
TITLES = {
    "amd-zen2": "AMD Zen 2",
    "amd-zen3": "AMD Zen 3",
    "amd-zen4": "AMD Zen 4",
    "amd-zen5": "AMD Zen 5",
    "intel-amx": "Intel Xeon with AMX",
    "intel-avx512": "Intel with AVX-512, without AMX",
    "intel-avx2": "Intel with AVX2",
    "arm-sve": "Arm with SVE",
    "arm-neon": "Arm with NEON",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`python -m bench machine` has no options."""


def run(arguments: argparse.Namespace) -> None:
    """Prints the name."""
    print(name())


def name(cpuinfo: str | None = None) -> str:
    """The short name of a processor.

    Args:
        cpuinfo: what /proc/cpuinfo holds; None: this system's.
    """
    if cpuinfo is None:
        path = Path("/proc/cpuinfo")
        cpuinfo = path.read_text() if path.exists() else ""
    facts: dict[str, str] = {}
    for line in cpuinfo.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    vendor = facts.get("vendor_id")
    if vendor == "AuthenticAMD":
        return _amd(int(facts.get("cpu family", 0)), int(facts.get("model", 0)))
    if vendor == "GenuineIntel":
        instructions = "amx" if "amx_bf16" in flags else "avx512" if "avx512f" in flags else "avx2"
        return f"intel-{instructions}"
    if "CPU implementer" in facts:
        return "arm-sve" if "sve" in flags else "arm-neon"
    return platform.machine().lower() or "cpu"


def machine_title(machine: dict[str, Any]) -> str:
    """What documents call the machine of some results."""
    return TITLES.get(machine.get("name", ""), str(machine["processor"]))


def _amd(family: int, model: int) -> str:
    if family == 0x1A:
        return "amd-zen5"
    if family == 0x19:  # models from 0x10 on are Zen 4, but for those of desktop and mobile Zen 3
        return "amd-zen4" if 0x10 <= model < 0x20 or 0x60 <= model < 0x80 or model >= 0xA0 else "amd-zen3"
    return "amd-zen2" if family == 0x17 else f"amd-family-{family:x}"


if __name__ == "__main__":
    print(name())
