"""The command `streamgan`: it calls what the modules' own command lines call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine import cli
from engine.command_line import command_name, errors_in_one_line
from engine.errors import CheckpointError

ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
CODE = "from engine.cli import console_script; console_script()"


def streamgan(*arguments: str, code: str = CODE, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own, as the installed program does."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd)


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: streamgan ")
    for command in ("run", "train", "evaluate", "export", "doctor", "cache", "bench"):
        assert [line for line in lines if line.startswith(f"  {command} ")], command


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"streamgan {engine.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "problem"), [(["translate", "clip.mp4"], "unknown command 'translate'"), ([], "no command")]
)
def test_unknown_command_is_one_line(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    accepted = "run, serve, train, test, evaluate, export, doctor, cache, bench"
    assert printed.err == f"error: {problem}: accepted are {accepted}; see streamgan --help\n"
    assert printed.out == ""


def test_help_and_version_load_next_to_nothing() -> None:
    code = "import sys; from engine import cli; cli.main(sys.argv[1:]); print(*sys.modules)"
    for option in ("--help", "--version"):
        *_, modules = streamgan(option, code=code).stdout.splitlines()
        assert not {"torch", "numpy", "cv2", "engine.run", "argparse"} & set(modules.split())


def test_run_loads_what_the_module_loads() -> None:
    code = "import sys; from engine import cli\ntry: cli.main(sys.argv[1:])\nfinally: print(*sys.modules)"
    *_, modules = streamgan("run", "--version", code=code).stdout.splitlines()
    assert "engine.run" in modules.split()
    assert not {"torch", "cv2", "av"} & set(modules.split())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_has_its_name(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/streamgan"])  # which main changes
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: streamgan {command} ")


def test_name_of_a_module_that_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/site-packages/engine/doctor.py", "--help"])
    assert command_name("engine.doctor") == "python -m engine.doctor"


def test_it_is_a_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "engine.cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"streamgan {engine.__version__}\n")


def test_status_is_that_of_the_command(tmp_path: Path) -> None:
    done = streamgan("run", "missing.mp4", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: missing.mp4")
    assert len(done.stderr.splitlines()) == 1
    assert streamgan("cache", "burn", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("error", [CheckpointError("no such file: x"), OSError("no such file: x")])
def test_errors_are_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    @errors_in_one_line
    def main(fails: bool) -> int:
        if fails:
            raise error
        return 7

    assert main(fails=False) == 7
    assert main(fails=True) == 1
    assert capsys.readouterr().err == "error: no such file: x\n"


def test_nobody_reads_what_is_printed() -> None:
    """As in `streamgan run --help | head -0`: no complaint at the end of the interpreter."""
    command = f"{sys.executable} -c '{CODE}' run --help | :"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs /dev/null")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_never_another_file(closed: str, tmp_path: Path) -> None:
    """What prints to standard output by its number would write into a video that had got it."""
    code = """if True:
        import os, sys
        from engine.command_line import exit_with

        def main():
            with open("film.mp4", "wb") as film:
                os.write(1, b"printed")
                print("printed", file=sys.stderr)
                return film.fileno()

        exit_with(main)
    """
    done = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "$1" {closed}', "bash", code], cwd=tmp_path, env=ENV)
    assert done.returncode > 2
    assert (tmp_path / "film.mp4").read_bytes() == b""
