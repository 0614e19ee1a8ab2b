"""Which instruction set runs: detection, STREAMGAN_ISA, and the introspection module."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import engine.ops
from engine import _native
from tests.ops.cases import MATRIX_ISA

ROOT = Path(__file__).parents[2]
IS_ARM = platform.machine() in ("aarch64", "arm64")
X86_ISAS = ["avx2", "avx512", "avx512_bf16", "avx512_amx"]
ARM_ISAS = ["neon", "neon_bf16"]
ISAS = ["scalar", *(ARM_ISAS if IS_ARM else X86_ISAS)]  # of this platform


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True
    )


def test_every_tier_has_a_file() -> None:
    files = {path.stem for path in (ROOT / "csrc" / "cpu" / "tiers").glob("*.cpp")}
    assert files == {"scalar", *X86_ISAS, *ARM_ISAS}


def test_supported_isas_are_the_lowest_up_to_the_detected_one() -> None:
    supported = _native.supported_isas()
    assert supported == ISAS[: len(supported)]
    assert supported[-1] == _native.detected_isa()


@pytest.mark.skipif(IS_ARM, reason="the names are those of x86")
def test_detection_agrees_with_torch() -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    assert ("avx2" in _native.supported_isas()) == (capability in ("AVX2", "AVX512"))
    assert ("avx512" in _native.supported_isas()) == (capability == "AVX512")


def test_every_operator_has_a_scalar_kernel() -> None:
    kernels = _native.kernels()
    assert {"frames_to_tensor", "tensor_to_frames"} <= kernels.keys()
    for op, isas in kernels.items():
        assert isas[0] == "scalar", op
        assert isas == [isa for isa in ISAS if isa in isas], op


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_set_isa(isa: str) -> None:
    try:
        _native.set_isa(isa)
        assert _native.active_isa() == isa
    finally:
        _native.set_isa(None)


def test_set_isa_rejects_an_unknown_name_and_keeps_the_old_one() -> None:
    before = _native.active_isa()
    with pytest.raises(ValueError, match="set_isa is 'sse9', which is no instruction set; this processor has: scalar"):
        _native.set_isa("sse9")
    assert _native.active_isa() == before


def test_environment_forces_an_isa() -> None:
    code = "import engine.ops; from engine import _native; print(_native.active_isa(), _native.detected_isa())"
    done = run_python(code, STREAMGAN_ISA="scalar")
    assert done.stdout.split() == ["scalar", _native.detected_isa()], done.stderr


def test_unknown_isa_in_environment_is_one_clear_error() -> None:
    code = "\n".join(
        [
            "from engine.errors import BackendError",
            "try: import engine.ops",
            "except BackendError as error: print(error)",
        ]
    )
    done = run_python(code, STREAMGAN_ISA="mmx")
    assert done.stdout.startswith("STREAMGAN_ISA is 'mmx', which is no instruction set; this processor has: scalar")
    assert done.stdout.count("\n") == 1, done.stderr


def test_isa_that_the_processor_lacks_is_refused() -> None:
    """Of another platform, and of this one."""
    lacking = [isa for isa in X86_ISAS + ARM_ISAS if isa not in _native.supported_isas()]
    assert lacking
    for isa in lacking:
        with pytest.raises(ValueError, match=f"asks for '{isa}', which this processor or build lacks; it has: scalar"):
            _native.set_isa(isa)


def test_operators_refuse_an_unknown_isa_without_the_python_package() -> None:
    """A process that only loads the library hears of it at the first call."""
    code = "\n".join(
        [
            "import torch",
            f"torch.ops.load_library({str(engine.ops.LIBRARY)!r})",
            "frames = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)",
            "torch.ops.streamgan.frames_to_tensor(frames, -1.0, 1.0, 2, 2, torch.float32)",
        ]
    )
    done = run_python(code, STREAMGAN_ISA="mmx")
    assert done.returncode != 0
    assert "STREAMGAN_ISA is 'mmx'" in done.stderr


# A system that does not permit the tiles of AMX.
_REFUSING_SYSTEM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>

long syscall(long number, ...) {
  long values[6];
  va_list arguments;
  va_start(arguments, number);
  for (int i = 0; i < 6; ++i) values[i] = va_arg(arguments, long);
  va_end(arguments);
  if (number == SYS_arch_prctl && values[0] == 0x1023) {
    errno = ENOSPC;
    return -1;
  }
  long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  return real(number, values[0], values[1], values[2], values[3], values[4], values[5]);
}
"""


@pytest.mark.skipif(MATRIX_ISA not in _native.supported_isas(), reason="this processor has no AMX, or may not use it")
def test_amx_that_the_system_refuses(tmp_path: Path) -> None:
    """The next lower tier runs, and the doctor says why."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc")
    source, library = tmp_path / "refusing.c", tmp_path / "refusing.so"
    source.write_text(_REFUSING_SYSTEM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    preloaded = f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()  # a sanitizer has to come first
    done = run_python("import engine.doctor; engine.doctor.main([])", LD_PRELOAD=preloaded, STREAMGAN_ISA="")
    lines = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line)
    assert lines["instruction set"].strip() == "avx512_bf16 in use: the best here", done.stderr
    assert "AMX, but the operating system does not permit it" in lines["instructions refused"]
    assert "avx512_amx" not in lines["operators"]
    forced = run_python(
        "from engine import _native; _native.active_isa()", LD_PRELOAD=preloaded, STREAMGAN_ISA=MATRIX_ISA
    )
    assert "asks for 'avx512_amx', which this processor or build lacks" in forced.stderr


def test_build_info() -> None:
    info = _native.build_info()
    assert info.keys() == {"version", "compiler", "flags", "torch"}
    assert info["version"] == engine.__version__
    assert info["torch"].split(".")[0].isdigit()
    assert "-march=native" not in info["flags"]
