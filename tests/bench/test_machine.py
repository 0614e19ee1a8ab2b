"""The short name of a processor, from what the system says of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import machine, results
from bench.__main__ import main

REPOSITORY = Path(__file__).parents[2]


def amd(family: int, model: int) -> str:
    return (
        f"processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: {family}\nmodel\t\t: {model}\nflags\t\t: avx512f\n"
    )


def intel(flags: str) -> str:
    return f"processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nflags\t\t: fpu {flags}\n"


def arm(features: str) -> str:
    return f"processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp {features}\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (amd(25, 17), "amd-zen4"),  # Genoa
        (amd(25, 97), "amd-zen4"),  # Raphael
        (amd(25, 160), "amd-zen4"),  # Bergamo
        (amd(25, 1), "amd-zen3"),  # Milan
        (amd(25, 80), "amd-zen3"),  # Cezanne
        (amd(26, 2), "amd-zen5"),
        (amd(23, 49), "amd-zen2"),
        (amd(21, 2), "amd-family-15"),
        (intel("avx2 avx512f avx512_bf16 amx_tile amx_bf16"), "intel-amx"),
        (intel("avx2 avx512f"), "intel-avx512"),
        (intel("avx2"), "intel-avx2"),
        (arm("asimd sve bf16"), "arm-sve"),
        (arm("asimd"), "arm-neon"),
    ],
)
def test_a_processor_is_named_by_what_decides_its_speed(cpuinfo: str, name: str) -> None:
    assert machine.name(cpuinfo) == name
    # Of several cores the first counts.
    assert machine.name(f"{cpuinfo}\n{intel('avx2') if 'Intel' not in cpuinfo else amd(25, 17)}") == name


def test_a_system_that_says_nothing_has_a_name_too() -> None:
    assert machine.name("") != ""


def test_the_command_and_the_module_print_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["machine"]) == 0
    printed = capsys.readouterr().out
    done = subprocess.run([sys.executable, "-m", "bench.machine"], capture_output=True, text=True, cwd=REPOSITORY)
    assert printed == done.stdout == f"{machine.name()}\n"


def test_results_have_the_name() -> None:
    described = results.describe_machine(threads=1)
    assert described["name"] == machine.name()
    assert machine.machine_title({"name": "amd-zen4", "processor": "AMD EPYC"}) == "AMD Zen 4"
    assert machine.machine_title({"processor": "AMD EPYC"}) == "AMD EPYC"
    assert machine.machine_title({"name": "riscv64", "processor": "SiFive"}) == "SiFive"


def test_every_committed_file_carries_the_name_of_its_processor() -> None:
    for path in results.FOLDER.glob("*.json"):
        name = results.read(path).machine.get("name")
        assert name, path
        assert name in path.stem, path
