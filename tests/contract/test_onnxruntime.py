"""What we use of ONNX Runtime, looked up in its packages for the CPU and for CUDA, which load without a GPU."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.inference import Inference
from tests.contract.renaming import ROOT, guarded_problems, problems, program, with_other_name
from tests.contract.surface import Contract, package_in
from tests.contract.values import Use
from tests.contract.wheels import unpacked

USES_IT = "onnxruntime"
GPU_VERSION = "1.31"

# The wheel for CUDA is of 255 MB.
for_cuda = [pytest.mark.slow, pytest.mark.time_limit(1200)]


def folder_of(kind: str) -> Path | None:
    """Where the package lies; None: it is installed."""
    if kind == "cuda":
        return unpacked(f"onnxruntime-gpu=={GPU_VERSION}.*", slow=True)
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return None


def inferred(kind: str, *renamed: Use) -> Inference:
    modules = program(USES_IT)
    for use in renamed:
        modules = with_other_name(use, modules)
    return Inference(modules, Contract({"onnxruntime": package_in(folder_of(kind), "onnxruntime")}))


@functools.cache
def uses(kind: str) -> list[Use]:
    return inferred(kind).uses


each_kind = pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=for_cuda)])


@each_kind
def test_what_is_used_is_there(kind: str) -> None:
    found = uses(kind)
    assert problems(found) + guarded_problems(found) == []
    names = {use.place.text for use in found if use.place.file == "engine/backends/onnxruntime.py"}
    assert names >= {
        *("SessionOptions", "intra_op_num_threads", "inter_op_num_threads", "log_severity_level"),
        *("add_session_config_entry", "InferenceSession", "providers", "get_providers", "get_inputs", "get_outputs"),
        *("get_modelmeta", "custom_metadata_map", "type", "shape", "name", "io_binding", "bind_input", "bind_output"),
        "run_with_iobinding",
    }


@each_kind
def test_objects_are_followed(kind: str) -> None:
    assert sorted(map(str, inferred(kind).out_of_sight())) == []


@pytest.mark.slow
def test_every_renamed_use_is_noticed() -> None:
    renamable = [use for use in uses("cpu") if use.place.text != "onnxruntime"]
    assert len(renamable) > 20
    found = {str(use.place): inferred("cpu", use).uses for use in renamable}
    assert [place for place, now in found.items() if not problems(now) + guarded_problems(now)] == []


# --- names that are strings


def strings_given(file: str) -> set[str]:
    """The names of options that our backend gives to CUDA's provider and to a session."""
    text = (ROOT / file).read_text()
    return {*re.findall(r'"(\w+)": (?:str\(|")', text), *re.findall(r'config_entry\("([\w.]+)"', text)}


def test_the_names_of_options_are_read_from_our_sources() -> None:
    found = strings_given("engine/backends/onnxruntime.py")
    assert found >= {"device_id", "use_tf32", "session.disable_cpu_ep_fallback"}


@pytest.mark.slow
@pytest.mark.time_limit(1200)
def test_options_are_names_in_the_libraries() -> None:
    """CUDA's provider refuses others, but only once it has a device; a session ignores them."""
    folder = folder_of("cuda")
    assert folder is not None
    libraries = sorted(folder.glob("onnxruntime/capi/libonnxruntime*"))
    data = {library.name.split(".so")[0]: library.read_bytes() for library in libraries}
    for option in strings_given("engine/backends/onnxruntime.py"):
        library = "libonnxruntime" if "." in option else "libonnxruntime_providers_cuda"
        assert b"\0" + option.encode() + b"\0" in data[library], option


SCRIPT = """
import sys
from pathlib import Path
import onnxruntime, torch
from engine.backends import BACKENDS
from engine.errors import BackendError
from tests.engine.cuda_stand_in import cuda_on_the_host
from tests.engine.small_generators import small_generator

assert "CUDAExecutionProvider" in onnxruntime.get_available_providers()
backend, path = BACKENDS["onnxruntime"], Path(sys.argv[1])
print(backend.version(torch.device("cpu")))
example = torch.zeros(1, 3, 64, 96)
backend.build(small_generator("resnet"), example, "fp32", path)
assert backend.load(path, example, "fp32")(example).shape == example.shape
with cuda_on_the_host():
    assert backend.unavailable(torch.device("cuda")) is None
    try:
        backend.load(path, torch.zeros(1, 3, 64, 96, device="cuda"), "fp32")
    except BackendError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.time_limit(1200)
def test_a_cuda_provider_that_does_not_load_is_one_line(tmp_path: Path) -> None:
    """As it is where CUDA's libraries are missing; the file runs on the CPU with the same package."""
    folder = folder_of("cuda")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "generator.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    version, line = done.stdout.splitlines()
    assert f"onnxruntime-gpu {GPU_VERSION}." in version
    start = "ONNX Runtime can't run all of generator.onnx on CUDAExecutionProvider: "
    assert re.fullmatch(rf"{start}lib\w+\.so\.\d+: cannot open shared object file: [\w ]+", line)
    assert done.stderr == ""
