"""`--isa`: contenders held to one instruction set, by the variables that their libraries read when they start.

STREAMGAN_ISA is ours. PyTorch reads ATEN_CPU_CAPABILITY, for its own kernels and for the code that torch.compile and
AOTInductor generate. oneDNN, inside PyTorch and OpenVINO, reads ONEDNN_MAX_CPU_ISA, and MKL inside PyTorch
MKL_ENABLE_INSTRUCTIONS. ONNX Runtime, ncnn and MNN ask the processor themselves, and have no such variable. Of AVX-512
without AMX torch's compiler knows nothing: where the processor has both, it may use both.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.contenders import Contender
from engine import _native
from engine.errors import EngineError

# Tier -> the variables. oneDNN's lowest is SSE4.1. Where a library has no name of its own for a tier, it gets the next
# lower one; for the highest tier nothing has to be held back.
_VARIABLES = {
    "scalar": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
    "avx512_bf16": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "avx512_amx": {},
}

# Modules of bench.peers whose libraries can't be held to an instruction set.
_UNFORCED = ("onnx_runtime", "ncnn_runtime", "mnn_runtime")

# Tiers whose name for torch's compiler includes AMX.
_WITHOUT_AMX = ("avx512", "avx512_bf16")

# Tiers that multiply bfloat16. Below them the product would emulate it.
_BF16_TIERS = ("avx512_bf16", "avx512_amx")


def variables(isa: str | None) -> dict[str, str]:
    """The environment of a contender's process; nothing where it may use what the processor has.

    Raises:
        EngineError: this processor does not have that instruction set.
    """
    if isa is None:
        return {}
    here = _native.supported_isas()
    if isa not in here or isa not in _VARIABLES:
        raise EngineError(f"unknown instruction set {isa!r}: this processor has {', '.join(here)}")
    return {"STREAMGAN_ISA": isa, **_VARIABLES[isa]}


def emulates_bf16(isa: str | None) -> bool:
    """Whether bfloat16 has no instructions of its own in that set."""
    return isa is not None and isa not in _BF16_TIERS


def is_forced(contender: Contender, isa: str) -> bool:
    """Whether `variables` hold that contender to the instruction set."""
    leaves_amx = isa in _WITHOUT_AMX and "avx512_amx" in _native.supported_isas()
    return contender.module not in _UNFORCED and not (contender.uses_inductor and leaves_amx)


def unforced(contenders: Iterable[Contender], isa: str | None) -> list[str]:
    """Names of those that may use more of the processor than was asked for."""
    return [] if isa is None else [contender.name for contender in contenders if not is_forced(contender, isa)]
