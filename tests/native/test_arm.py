"""The tiers of AArch64 on emulated processors: the conversions, instance_norm_act, and every kind of generator.

The tests of the tiers that this machine has are in tests/ops and tests/engine; these hold the others to the same
definitions and tolerances, by way of files.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine import reference
from engine.fused import steps as steps_module
from engine.fused.lowering import fuse
from engine.fused.program import TILES, FusedGenerator, Packing, steps_of
from engine.generators import Generator, GeneratorConfig, ResNetConfig, TransformerNetConfig, UNetConfig
from engine.parity import psnr_db
from engine.sizes import padded_size
from tests.engine.fused.cases import error_db, expected_of, made, picture_for, writing_bfloat16
from tests.engine.runners.test_packed import frame_of
from tests.engine.small_generators import CONFIGS, small_generator
from tests.native import arm
from tests.native.arm import CPUS, TIERS, Case, answers, read_values, run, write_values
from tests.native.symbols import check_tiers
from tests.ops.cases import CACHES, DTYPES, RANGES, assert_norm_close, assert_same_bits, random_frames
from tests.ops.cases import threads as torch_threads
from tests.tolerances import (
    FUSED_BF16_DB,
    FUSED_FAST_DB,
    FUSED_FP32_DB,
    FUSED_HALVES_DB,
    FUSED_TILES8_DB,
    INSTANCE_NORM_RTOL,
    PARITY_PSNR_DB,
)

pytestmark = [
    pytest.mark.time_limit(900),
    pytest.mark.skipif(arm.why_not() is not None, reason=str(arm.why_not())),
]


@pytest.fixture(autouse=True)
def one_thread_of_torch() -> Iterator[None]:
    """More would wait for each other: the pictures are small, and the emulator keeps a core busy."""
    with torch_threads(1):
        yield


every_tier = pytest.mark.parametrize("tier", TIERS)
SMALL_CACHES = [CACHES["small caches"]]
WIDTHS = [1, 2, 15, 16, 17, 31, 32, 33, 47, 101]  # around blocks of 16 pixels


class TestTiers:
    @pytest.mark.parametrize("cpu", CPUS)
    def test_the_highest_runs_and_others_can_be_forced(self, cpu: str) -> None:
        tiers = CPUS[cpu]
        commands = ["isas", *(line for tier in tiers for line in (f"isa {tier}", "isas"))]
        listed = " ".join(tiers)
        forced = [answer for tier in tiers for answer in ("ok ", f"ok {tier} {listed}")]
        assert answers(cpu, commands) == [f"ok {tiers[-1]} {listed}", *forced]

    @pytest.mark.parametrize("name", ["neon_bf16", "avx2", "avx512_amx"])
    def test_tiers_of_other_processors_are_refused(self, name: str) -> None:
        refusal = f"asks for '{name}', which this processor or build lacks; it has: scalar, neon"
        assert answers("cortex-a72", [f"isa {name}"]) == [f"error set_isa {refusal}"]
        assert answers("cortex-a72", ["isas"], STREAMGAN_ISA=name) == [f"error STREAMGAN_ISA {refusal}"]

    def test_unknown_names_are_refused(self) -> None:
        refusal = "error STREAMGAN_ISA is 'sse9', which is no instruction set; this processor has: scalar, neon"
        assert answers("cortex-a53", ["isas"], STREAMGAN_ISA="sse9") == [refusal]

    def test_the_environment_forces_a_tier(self) -> None:
        assert answers("max", ["isas"], STREAMGAN_ISA="neon") == ["ok neon scalar neon neon_bf16"]

    def test_every_operator_has_kernels(self) -> None:
        operators = ["frames_to_tensor", "fused_generator", "instance_norm_act"]
        expected = [f"{name}:scalar,neon,neon_bf16," for name in operators]
        expected += ["steady:scalar,neon,", "tensor_to_frames:scalar,neon,"]
        assert answers("max", ["tiers"])[0].split()[1:] == expected

    def test_tiers_share_no_function(self) -> None:
        check_tiers(arm.built().parent, nm="aarch64-linux-gnu-nm")

    def test_peak_loops_do_what_they_count(self) -> None:
        """Sums over 24 accumulators of 4 lanes, the first of which starts at 0, the next at 1, and so on."""
        rounds, started = 1000, 4 * sum(range(24))
        float32, bfloat16, int8 = (f"peak {kind} {rounds}" for kind in range(3))
        float32_sum, bfloat16_sum = started + 24 * 4 * rounds, started + 24 * 4 * 4 * rounds
        assert answers("cortex-a53", [float32, bfloat16, int8]) == [f"ok {float32_sum}.000000", "ok ", "ok "]
        assert answers("max", [bfloat16, int8]) == [f"ok {bfloat16_sum}.000000", "ok "]


def float32_text(value: float) -> str:
    return repr(float(torch.tensor(value, dtype=torch.float32)))


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@every_tier
@pytest.mark.parametrize("dtype", DTYPES)
class TestConversions:
    """Bit for bit; no byte before or after a row is read or written."""

    def test_frames_to_tensor(self, dtype: torch.dtype, tier: str, tmp_path: Path) -> None:
        ramp = torch.arange(256, dtype=torch.uint8)
        all_bytes = torch.stack([ramp, ramp.roll(85), ramp.roll(170)], dim=-1).reshape(1, 1, 256, 3)
        commands, expected = [f"isa {tier}"], {}
        for number, frame in enumerate([all_bytes, *(random_frames(1, 1, width) for width in WIDTHS)]):
            source = write_values(frame, tmp_path / f"frame{number}")
            for low, high in RANGES if number == 0 else [(-1.0, 1.0)]:
                target = tmp_path / f"tensor{len(expected)}"
                divisor = float32_text(255 / (high - low))
                commands.append(f"frames_to_tensor {name_of(dtype)} {divisor} {float32_text(low)} {source} {target}")
                expected[target] = reference.frames_to_tensor(
                    frame, value_range=(low, high), size=(1, frame.shape[2]), dtype=dtype
                )
        run(TIERS[tier], commands)
        for target, tensor in expected.items():
            assert_same_bits(read_values(target, dtype), tensor.permute(0, 2, 3, 1).flatten())

    @pytest.mark.parametrize("layout", ["interleaved", "planar"])
    def test_tensor_to_frames(self, layout: str, dtype: torch.dtype, tier: str, tmp_path: Path) -> None:
        commands, expected = [f"isa {tier}"], {}
        for values, (low, high) in self.tensors(dtype):
            source = tmp_path / f"tensor{len(expected)}"
            write_values(values if layout == "planar" else values.permute(0, 2, 3, 1), source)
            target = tmp_path / f"frame{len(expected)}"
            scale = float32_text(255 / (high - low))
            commands.append(f"tensor_to_frames {layout} {name_of(dtype)} {float32_text(low)} {scale} {source} {target}")
            expected[target] = reference.tensor_to_frames(values, value_range=(low, high), size=(1, values.shape[3]))
        run(TIERS[tier], commands)
        for target, frame in expected.items():
            assert_same_bits(read_values(target, torch.uint8), frame.flatten())

    @staticmethod
    def tensors(dtype: torch.dtype) -> list[tuple[Tensor, tuple[float, float]]]:
        """[1, 3, 1, W] and what 0 and 255 stand for: sizes, halves, values out of range, all 16-bit values."""
        source = torch.Generator().manual_seed(0)
        sizes = [torch.rand(1, 3, 1, width, generator=source) * 2.6 - 1.3 for width in WIDTHS]
        made = [(values.to(dtype), (-1.0, 1.0)) for values in sizes]
        largest = torch.finfo(dtype).max
        special = [math.nan, -math.nan, math.inf, -math.inf, largest, -largest, 1e4, -1e4, 1.01, -1.01, -0.0, 1e-7]
        rows = [(torch.arange(-2, 128, 0.5), (0.0, 255.0)), (torch.tensor([*special, *special]), (-1.0, 1.0))]
        if dtype != torch.float32:
            every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
            rows += [(every, value_range) for value_range in RANGES]
        for row, value_range in rows:
            values = row.to(dtype)
            made.append((torch.stack([values, values.roll(1), values.roll(2)]).reshape(1, 3, 1, -1), value_range))
        return made


@every_tier
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["interleaved", "planar"])
def test_instance_norm_act(layout: str, dtype: torch.dtype, tier: str, tmp_path: Path) -> None:
    """The formulas of csrc/cpu/instance_norm_act.h in float64; channels or pixels around whole vectors."""
    source = torch.Generator().manual_seed(0)
    commands, cases = [f"isa {tier}"], {}
    sizes = [(5, 1), (7, 3), (6, 16), (9, 17), (130, 40)] if layout == "interleaved" else [(n, 1) for n in (3, 16, 99)]
    for pixels, channels in sizes:
        for slope in (1.0, 0.0, 0.2):
            rows = (torch.randn(3, pixels, channels, generator=source) * 2 + 1).to(dtype)
            coefficients = torch.randn(6, channels, generator=source)
            files = [tmp_path / f"{kind}{len(cases)}" for kind in ("in", "out")]
            parts = [write_values(part, tmp_path / "part").read_bytes() for part in (rows, coefficients)]
            files[0].write_bytes(b"".join(parts))
            commands.append(
                f"instance_norm_act {layout} {name_of(dtype)} {pixels} {channels} {slope} {files[0]} {files[1]}"
            )
            cases[files[1]] = (rows, coefficients, slope)
    run(TIERS[tier], commands)
    for file, (rows, coefficients, slope) in cases.items():
        (pixels, channels), data = rows.shape[1:], file.read_bytes()
        sums = torch.frombuffer(bytearray(data[: 16 * channels]), dtype=torch.float32).view(4, channels)
        values = torch.frombuffer(bytearray(data[16 * channels :]), dtype=dtype).view(3, pixels, channels)
        expected_sums, expected_values = expected_norms(rows.double(), coefficients.double(), slope)
        for actual, expected in zip(sums, expected_sums, strict=True):
            assert_norm_close(actual, expected, INSTANCE_NORM_RTOL["float32"])
        for actual, expected in zip(values, expected_values, strict=True):
            assert_norm_close(actual, expected, INSTANCE_NORM_RTOL[name_of(dtype)])


def expected_norms(rows: Tensor, coefficients: Tensor, slope: float) -> tuple[list[Tensor], list[Tensor]]:
    """Mean, m2 and the two sums; forward with the residual and without it, and backward."""
    x, residual, grad = rows
    scale, shift, rstd, offset, a, b = coefficients
    before = x * scale + shift
    forward = torch.where(before > 0, before, before * slope)
    g = torch.where(before > 0, grad, grad * slope)
    normalised = x * rstd + offset
    mean = x.mean(dim=0)
    sums = [mean, (x - mean).square().sum(dim=0), g.sum(dim=0), (g * normalised).sum(dim=0)]
    return sums, [forward + residual, forward, g * scale + normalised * a + b]


def check_outputs(
    fused: FusedGenerator,
    tier: str,
    image: Tensor,
    expected: Tensor,
    least_db: float,
    folder: Path,
    *,
    threads: tuple[int, ...] = (1,),
    caches: list[tuple[int, int]] = SMALL_CACHES,
) -> None:
    """Runs it with each number of threads and size of caches; the signal over noise has to be above `least_db`."""
    outputs = Case(fused, folder).outputs(tier, image, threads=list(threads), caches=caches)
    errors = [error_db(output, expected) for output in outputs]
    assert len(errors) == len(threads) * len(caches)
    assert all(error > least_db for error in errors), errors


def least_bf16_db(generator: Generator, image: Tensor, expected: Tensor) -> float:
    """A little more error than PyTorch makes in bfloat16."""
    eager = copy.deepcopy(generator).bfloat16()(image.bfloat16())
    return error_db(eager, expected) - 4


@every_tier
@pytest.mark.parametrize("name", CONFIGS)
def test_every_family(name: str, tier: str, tmp_path: Path) -> None:
    """In each precision, with one thread and several. A bf16 product takes the emulator longest."""
    generator = small_generator(name)
    height, width = (64, 32) if generator.multiple > 8 else (24, 32)
    image = picture_for(generator, height=height, width=width)
    expected = expected_of(generator, image)
    least = {
        "fp32": FUSED_FP32_DB,
        "bf16": least_bf16_db(generator, image, expected),
        "fast": FUSED_FAST_DB,
    }
    for precision, least_db in least.items():
        threads = (1, 3) if precision == "fp32" else (1,)
        check_outputs(fuse(generator, precision), tier, image, expected, least_db, tmp_path, threads=threads)


@every_tier
@pytest.mark.parametrize("name", ["resnet", "unet", "transformer_net", "animegan"])
def test_frames(name: str, tier: str, tmp_path: Path) -> None:
    """From bytes to bytes, padded and cropped."""
    generator = small_generator(name)
    case = Case(fuse(generator, "fp32"), tmp_path)
    ranges = (*generator.input_range, *generator.output_range)
    commands, expected = [f"isa {tier}"], {}
    for width, height in [(61, 47), (33, 50), (17, 9)]:
        frame = torch.from_numpy(frame_of(width, height))
        padded = padded_size(generator, height, width)
        source, target = write_values(frame, tmp_path / f"frame{width}"), tmp_path / f"translated{width}"
        numbers = " ".join(map(str, (2, height, width, *padded, *ranges)))
        commands.append(f"translate {case.weights} {case.program} {numbers} {source} {target}")
        image = reference.frames_to_tensor(
            frame[None], value_range=generator.input_range, size=(padded[0], padded[1]), dtype=torch.float32
        )
        expected[target] = reference.tensor_to_frames(
            generator(image), value_range=generator.output_range, size=(height, width)
        )
    run(TIERS[tier], commands)
    for target, frame in expected.items():
        actual = read_values(target, torch.uint8).view(frame.shape)
        assert psnr_db(actual.numpy(), frame.numpy()) >= PARITY_PSNR_DB["fp32"], target.name


@every_tier
@pytest.mark.parametrize("tile", TILES)
def test_every_size_of_tiles(tile: tuple[int, int], tier: str, tmp_path: Path) -> None:
    """At odd sizes, with both sizes of caches."""
    generator = made(ResNetConfig(width=32, blocks=1, downsamplings=0))
    image = picture_for(generator, height=13, width=37)
    expected = expected_of(generator, image)
    float32_least = FUSED_TILES8_DB if TILES[tile] == Packing.WINOGRAD8 else FUSED_FP32_DB
    for precision, least in (("fp32", float32_least), ("bf16", FUSED_BF16_DB)):
        if precision == "bf16" and TILES[tile] == Packing.WINOGRAD8:
            continue
        fused = fuse(generator, precision, tile=tile)
        assert TILES[tile] in [step.packing for step in steps_of(fused)]
        check_outputs(fused, tier, image, expected, least, tmp_path, caches=[*CACHES.values()])


# Layers that Winograd's algorithm takes in these forms, and sizes in which tiles are small, large and shared by phases.
FORMS: dict[str, tuple[GeneratorConfig, set[int]]] = {
    "pairs": (UNetConfig(width=32, downsamplings=2), {Packing.WINOGRAD_PAIRS}),
    "pairs enlarged": (TransformerNetConfig(width=32, blocks=1), {Packing.WINOGRAD_PAIRS}),
    "strided and transposed": (
        ResNetConfig(width=32, blocks=1),
        {Packing.WINOGRAD_STRIDED, Packing.WINOGRAD_TRANSPOSED},
    ),
}


def check_form(name: str, tier: str, sizes: list[tuple[int, int]], folder: Path) -> None:
    config, packings = FORMS[name]
    generator = made(config)
    for height, width in sizes:
        image = picture_for(generator, height=height, width=width)
        expected = expected_of(generator, image)
        for precision, least in (("fp32", FUSED_FP32_DB), ("bf16", FUSED_BF16_DB)):
            fused = fuse(generator, precision, tile=(2, 2))
            assert packings <= {step.packing for step in steps_of(fused)}
            check_outputs(fused, tier, image, expected, least, folder)


@pytest.fixture
def winograd_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "_WINOGRAD_SIDE", 1)
    monkeypatch.setattr(steps_module, "_WINOGRAD_DEEP_CHANNELS", 32)


@every_tier
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.usefixtures("winograd_everywhere")
def test_other_forms_of_winograd(name: str, tier: str, tmp_path: Path) -> None:
    check_form(name, tier, [(20, 12), (24, 44)], tmp_path)


@pytest.mark.slow
@every_tier
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.usefixtures("winograd_everywhere")
def test_other_forms_of_winograd_on_larger_pictures(name: str, tier: str, tmp_path: Path) -> None:
    check_form(name, tier, [(40, 264), (72, 152)], tmp_path)


@every_tier
@pytest.mark.parametrize("pictures", [1, 2, 3, 4, 5])
def test_tall_kernels(pictures: int, tier: str, tmp_path: Path) -> None:
    """Seven and nine rows in the first and the last layer; strips that are only partly there."""
    for config in (
        ResNetConfig(width=10, blocks=1, downsamplings=0, out_channels=pictures),
        TransformerNetConfig(width=12, blocks=1, out_channels=pictures),
    ):
        generator = made(config)
        image = picture_for(generator, height=12, width=132)
        expected = expected_of(generator, image)
        check_outputs(fuse(generator, "fp32"), tier, image, expected, FUSED_FP32_DB, tmp_path, threads=(2,))


@every_tier
def test_bfloat16_between_layers(tier: str, tmp_path: Path) -> None:
    generator = made(ResNetConfig(width=16, blocks=1, downsamplings=1))
    image = picture_for(generator, height=36, width=44)
    fused = writing_bfloat16(fuse(generator, "fp32"))
    check_outputs(fused, tier, image, expected_of(generator, image), FUSED_HALVES_DB, tmp_path)


@every_tier
def test_not_a_number_spreads_as_in_other_tiers(tier: str, tmp_path: Path) -> None:
    """A ReLU makes 0 of it, and the last tanh -1."""
    generator = made(ResNetConfig(width=16, blocks=1, downsamplings=0, norm="none"))
    image = picture_for(generator, height=13, width=37)
    image[0, 1, 6, 18] = math.nan
    fused = fuse(generator, "fp32")
    (output,) = Case(fused, tmp_path).outputs(tier, image, threads=[1], caches=SMALL_CACHES)
    torch.testing.assert_close(output, fused(image), atol=1e-3, rtol=0, equal_nan=True)


@pytest.mark.slow
@every_tier
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pictures_of_several_chunks_and_parts(precision: str, tier: str, tmp_path: Path) -> None:
    """With more threads than channels, and outputs too large for the caches."""
    least = FUSED_TILES8_DB if precision == "fp32" else FUSED_BF16_DB
    for config, height, width in (
        (ResNetConfig(width=32, blocks=1, downsamplings=0), 70, 187),
        (ResNetConfig(width=128, blocks=1, downsamplings=0), 28, 99),
        (ResNetConfig(width=16, blocks=1, downsamplings=1), 224, 228),
    ):
        generator = made(config)
        image = picture_for(generator, height=height, width=width)
        expected = expected_of(generator, image)
        check_outputs(
            fuse(generator, precision),
            tier,
            image,
            expected,
            least,
            tmp_path,
            threads=(5,),
            caches=[*CACHES.values()],
        )
