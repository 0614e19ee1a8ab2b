"""The steps of `python -m tests.gpu`, with stand-ins that need no GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.gpu import ON_CUDA
from bench.plugin import WITHOUT_PLUGIN
from tests.engine.cuda_stand_in import cuda_on_the_host
from tests.gpu import __main__ as gpu
from tests.gpu.__main__ import Step, is_good, run, table


def step(name: str, code: str, seconds: float = 60, **more: object) -> Step:
    return Step(name, (sys.executable, "-c", code), seconds, **more)  # type: ignore[arg-type]


PASSES = step("passes", "print('4 passed')")
FAILS = step("fails", "print('1 failed, 3 passed'); raise SystemExit(1)")
HANGS = step("hangs", "import time; print('begins', flush=True); time.sleep(60)", seconds=0.5)


def states(*steps: Step, total_seconds: float = 60) -> dict[str, str]:
    return {each.step.name: each.state for each in run(steps, total_seconds)}


def test_steps_that_pass(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = run([PASSES, step("more", "print('done'); print()")])
    assert [(each.state, each.detail) for each in outcomes] == [("passed", "4 passed"), ("passed", "done")]
    assert is_good(outcomes)
    assert "4 passed" in capsys.readouterr().out


def test_the_first_failure_ends_the_run() -> None:
    outcomes = run([PASSES, FAILS, step("last", "raise SystemExit('it ran')")])
    assert [each.state for each in outcomes] == ["passed", "failed", "not run"]
    assert outcomes[1].detail == "1 failed, 3 passed"
    assert not is_good(outcomes)


def test_a_step_that_takes_too_long_ends_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    waits = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.monotonic()
    outcomes = run([step("hangs", waits, seconds=3), PASSES])
    assert [each.state for each in outcomes] == ["timed out", "not run"]
    assert outcomes[0].detail == "after 3 s"
    assert time.monotonic() - start < 30
    assert is_gone(int(pid.read_text()))


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for counts."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
            os.kill(pid, 0)
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_all_steps_together_have_a_limit() -> None:
    slow = step("slow", "import time; time.sleep(60)")
    assert states(slow, PASSES, total_seconds=0.5) == {"slow": "timed out", "passes": "not run"}
    outcomes = run([PASSES], total_seconds=0)
    assert [(each.state, each.detail) for each in outcomes] == [("not run", "no time left")]
    assert not is_good(outcomes)


def test_what_is_not_installed_is_skipped() -> None:
    absent = step("module", "", modules=("no_such_module",))
    outcomes = run([absent, step("program", "", program="no-such-program"), PASSES])
    assert [each.state for each in outcomes] == ["skipped", "skipped", "passed"]
    assert [each.detail for each in outcomes[:2]] == ["no_such_module not installed", "no-such-program not installed"]
    assert is_good(outcomes)
    assert not is_good(run([absent]))


def test_a_command_that_is_not_there_fails() -> None:
    assert states(Step("absent", ("no-such-program",), 60)) == {"absent": "failed"}


def test_tests_that_are_all_skipped_have_not_passed(tmp_path: Path) -> None:
    file = tmp_path / "test_skipped.py"
    file.write_text("import pytest\ndef test_it():\n    pytest.skip('no such GPU')\n")
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, str(file))
    (outcome,) = run([Step("tests", command, 60)])
    assert outcome.state == "skipped"
    assert outcome.detail.startswith("no test ran: 1 skipped")


def test_the_table_tells_step_result_and_seconds() -> None:
    lines = table(run([PASSES, FAILS, HANGS]))
    assert re.fullmatch(r"step +result +seconds", lines[0])
    assert re.fullmatch(r"passes +passed: 4 passed +\d+", lines[1])
    assert re.fullmatch(r"fails +failed: 1 failed, 3 passed +\d+", lines[2])
    assert re.fullmatch(r"hangs +not run +0", lines[3])
    assert re.fullmatch(r"total +\d+ of 480", lines[4])


@pytest.mark.parametrize(("steps", "status"), [([PASSES], 0), ([PASSES, FAILS], 1), ([HANGS], 1)])
def test_exit_status(
    steps: list[Step], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "TESTS", steps)
    with cuda_on_the_host():
        assert gpu.main(["test"]) == status
    first, *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Stand-in, sm89, torch \S+, CUDA \S+", first)
    assert last.endswith("of 480")


def test_steps_may_be_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "TESTS", [FAILS, PASSES])
    with cuda_on_the_host():
        assert gpu.main(["test", "--from", "passes"]) == 0
        assert "fails" not in capsys.readouterr().out
        assert gpu.main(["test", "--from", "exprots"]) == 1
    assert capsys.readouterr().err == "error: no step 'exprots': there are fails, passes\n"


@pytest.mark.parametrize("what", ["test", "bench"])
def test_without_a_gpu_it_is_one_line(what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu", what],
        capture_output=True,
        text=True,
        cwd=gpu.ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: no CUDA device: torch \S+ is built (without CUDA|for CUDA \S+)\n", done.stderr)


@pytest.mark.parametrize("each", [*gpu.TESTS, *gpu.benchmarks(Path("results"))], ids=lambda each: each.name)
def test_steps_name_what_there_is(each: Step) -> None:
    """Files and backends; and each leaves time for others."""
    assert each.seconds < gpu.TOTAL_SECONDS
    files = [word for word in each.command if word.startswith("tests/") or word == "setup.py"]
    assert [file for file in files if not (gpu.ROOT / file).exists()] == []
    assert files or "pytest" not in each.command
    if "--backends" in each.command:
        first = each.command.index("--backends") + 1
        names = each.command[first : each.command.index("--budget")]
        assert names
        assert set(names) <= {*ON_CUDA, WITHOUT_PLUGIN}


def test_engines_come_after_what_they_stand_on() -> None:
    names = [each.name for each in gpu.TESTS]
    order = ["build", "kernels", "frames", "video", "whole videos", "layers", "tensorrt", "plugin", "exports"]
    assert [name for name in names if name in order] == order
    assert names.index("exports") < names.index("cached engines") < names.index("memcheck")


@pytest.mark.parametrize("name", ["layers", "exports", "cached engines"])
def test_steps_that_choose_tests_by_name_find_some(name: str) -> None:
    (each,) = (step for step in gpu.TESTS if step.name == name)
    command = [word for word in each.command if word != "-x"]
    done = subprocess.run([*command, "--collect-only"], capture_output=True, text=True, cwd=gpu.ROOT)
    assert done.returncode == 0, done.stdout
    assert {"layers": 1, "exports": 7, "cached engines": 2}[name] == done.stdout.count("test_engines.py::")


@pytest.mark.parametrize("each", gpu.TESTS, ids=lambda each: each.name)
def test_steps_whose_tests_make_videos_need_pyav(each: Step) -> None:
    """A machine with a GPU may be without it."""
    files = [gpu.ROOT / word for word in each.command if word.startswith("tests/") and word.endswith(".py")]
    needs_it = any(re.search(r"^(import av|from tests\.media)\b", file.read_text(), re.MULTILINE) for file in files)
    assert not needs_it or "av" in each.modules


def test_every_test_that_needs_a_gpu_is_in_a_step() -> None:
    files = [word for each in gpu.TESTS for word in each.command if word.startswith("tests/")]
    marked = [file for file in (gpu.ROOT / "tests").rglob("test_*.py") if "mark.needs_cuda" in file.read_text()]
    names = [str(file.relative_to(gpu.ROOT)) for file in marked]
    assert len(names) > 10
    names.remove("tests/gpu/test_steps.py")  # this one, by what it looks for
    assert sorted(set(names) - set(files)) == []
