"""Products of tiles: the emulation of AMX against a definition in integers, and against the instructions themselves."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from engine import _native
from tests.ops.cases import ISAS, MATRIX_ISA, NO_MATRIX_ISAS, forced_isa

ROOT = Path(__file__).parents[2]
needs_amx = pytest.mark.skipif(MATRIX_ISA not in ISAS, reason="this processor has no AMX, or may not use it")

Tiles = tuple[np.ndarray, np.ndarray, np.ndarray]
"""a, uint16 [16, 32]; b, uint16 [16, 16, 2]; sums, uint32 [16, 16]: bits of bfloat16 and of float32."""


# --- the definition: exact integers, rounded once

INFINITY, QUIET, DEFAULT_NAN, SIGN = 0x7F800000, 0x00400000, 0xFFC00000, 0x80000000
UNIT = 298  # values are integers times 2^-298: products of numbers that are multiples of 2^-149


def is_nan(bits: int) -> bool:
    return bits & ~SIGN > INFINITY


def is_infinite(bits: int) -> bool:
    return bits & ~SIGN == INFINITY


def scaled(bits: int) -> int:
    """A finite float32 times 2^149; what is below the normal numbers counts as 0."""
    exponent = bits >> 23 & 0xFF
    magnitude = 0 if exponent == 0 else (1 << 23 | bits & 0x7FFFFF) << (exponent - 1)
    return -magnitude if bits & SIGN else magnitude


def rounded(value: int, zero: int) -> int:
    """Bits of value * 2^-298 to the nearest float32 of any exponent; `zero` where the value is 0."""
    if value == 0:
        return zero
    sign, magnitude = SIGN if value < 0 else 0, abs(value)
    extra = magnitude.bit_length() - 24
    if extra > 0:
        kept, rest, half = magnitude >> extra, magnitude & (1 << extra) - 1, 1 << extra - 1
        magnitude = kept + (rest > half or (rest == half and kept & 1)) << extra
    if magnitude < 1 << UNIT - 126:
        return sign
    if magnitude >= 1 << UNIT + 128:
        return sign | INFINITY
    digits = magnitude.bit_length()
    return sign | digits - 1 - UNIT + 127 << 23 | magnitude >> digits - 24 & 0x7FFFFF


def sum_of(x: int, y: int, exact: int) -> int:
    """Bits of x + y, of which `exact` is the value where both are finite. A product has the bits of its kind."""
    if is_infinite(x) and is_infinite(y) and x != y:
        return DEFAULT_NAN
    if is_infinite(x) or is_infinite(y):
        return x if is_infinite(x) else y
    # Zeros keep their sign if they have the same; what cancels is +0.
    both_zero = scaled(x) == 0 and scaled(y) == 0
    return rounded(exact, x & y & SIGN if both_zero else 0)


def multiplied_and_added(a: int, b: int, c: int) -> int:
    for operand in (a, b, c):
        if is_nan(operand):
            return operand | QUIET
    sign = (a ^ b) & SIGN
    if is_infinite(a) or is_infinite(b):
        is_invalid = 0 in (scaled(a), scaled(b))
        return DEFAULT_NAN if is_invalid else sum_of(sign | INFINITY, c, 0)
    product = scaled(a) * scaled(b)
    kind = sign | (0x3F800000 if product else 0)  # some number of its sign, or a zero
    return sum_of(kind, c, 0 if is_infinite(c) else product + (scaled(c) << 149))


def added(a: int, b: int) -> int:
    for operand in (a, b):
        if is_nan(operand):
            return operand | QUIET
    is_finite = not is_infinite(a) and not is_infinite(b)
    return sum_of(a, b, scaled(a) + scaled(b) << 149 if is_finite else 0)


def expected_of(tiles: Tiles) -> np.ndarray:
    """Sums plus the product, uint32 [16, 16]: two chains over the pairs of a row, then c + (even + odd)."""
    a, b, sums = (values.tolist() for values in tiles)
    result = np.empty((16, 16), dtype=np.uint32)
    for i in range(16):
        for j in range(16):
            even = odd = 0
            for k in range(16):
                even = multiplied_and_added(a[i][2 * k] << 16, b[k][j][0] << 16, even)
                odd = multiplied_and_added(a[i][2 * k + 1] << 16, b[k][j][1] << 16, odd)
            result[i, j] = added(sums[i][j], added(even, odd))
    return result


# --- directed cases: what random data miss


def bfloat16(value: float | int) -> int:
    """Bits of a value that bfloat16 holds exactly; an int is taken for bits."""
    if isinstance(value, int):
        return value
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    assert bits & 0xFFFF == 0, value
    return int(bits >> 16)


def float32(value: float | int) -> int:
    return value if isinstance(value, int) else int(struct.unpack("<I", struct.pack("<f", value))[0])


SMALLEST = 2.0**-126  # normal number
LARGEST = float(np.finfo(np.float32).max)
INF = float("inf")
# c, the products {element: (a, b)}, and what comes out. Elements of even numbers are one chain, odd ones the other.
# Floats are values, ints are bits.
Products = dict[int, tuple[float | int, float | int]]
DIRECTED: dict[str, tuple[float | int, Products, float | int]] = {
    # Results below the normal numbers
    "a half less than the smallest is rounded up to it": (
        0.0,
        {0: (SMALLEST, 1.0), 2: (2.0**-75, -(2.0**-76))},
        SMALLEST,
    ),
    "the last number below the smallest gives 0": (0.0, {0: (SMALLEST, 1.0), 2: (2.0**-75, -(2.0**-75))}, 0.0),
    "the same of negative ones": (0.0, {0: (SMALLEST, -1.0), 2: (2.0**-75, 2.0**-75)}, 0.0),
    "products are flushed one by one": (0.0, {0: (SMALLEST, 0.5), 2: (SMALLEST, 0.5), 4: (SMALLEST, 0.5)}, 0.0),
    "a chain is flushed": (0.0, {0: (SMALLEST, 1.5), 2: (SMALLEST, -1.0), 4: (SMALLEST, 1.0)}, SMALLEST),
    "even + odd is flushed": (SMALLEST, {0: (SMALLEST, 1.5), 1: (SMALLEST, -1.0)}, SMALLEST),
    "c + products is flushed": (1.5 * SMALLEST, {0: (SMALLEST, -1.0)}, 0.0),
    "c + products is flushed to -0": (-1.5 * SMALLEST, {0: (SMALLEST, 1.0)}, -0.0),
    # Operands below the normal numbers
    "a denormal c is 0": (0x00400000, {0: (2.0**-126, 1.0)}, SMALLEST),
    "a negative denormal c is 0": (0x807FFFFF, {}, 0.0),
    "a denormal a is 0": (1.0, {0: (0x007F, 2.0**127)}, 1.0),
    "a denormal b is 0": (1.0, {1: (2.0**127, 0x807F)}, 1.0),
    "infinity times a denormal is invalid": (1.0, {0: (INF, 0x007F)}, DEFAULT_NAN),
    # Order
    "even and odd elements are apart": (0.0, {0: (2.0**24, 1.0), 1: (2.0**24, -1.0), 2: (1.0, 1.0)}, 0.0),
    "c comes last": (2.0**24, {0: (1.0, 1.0), 1: (1.0, 1.0)}, 2.0**24 + 2),
    "c is in no chain": (2.0**24, {0: (1.0, 1.0), 2: (1.0, 1.0)}, 2.0**24 + 2),
    "chains go upwards": (0.0, {0: (1.0, 1.0), 2: (1.0, 1.0), 30: (2.0**24, 1.0)}, 2.0**24 + 2),
    "chains go upwards, not by pairs": (0.0, {1: (2.0**24, 1.0), 29: (1.0, 1.0), 31: (1.0, 1.0)}, 2.0**24),
    # Rounding
    "a half goes down to the even one": (0.0, {0: (2.0**24, 1.0), 2: (1.0, 1.0)}, 2.0**24),
    "a half goes up to the even one": (0.0, {0: (2.0**24, 1.0), 2: (3.0, 1.0)}, 2.0**24 + 4),
    "more than a half goes up": (0.0, {0: (2.0**24, 1.0), 2: (1.0 + 2.0**-7, 1.0)}, 2.0**24 + 2),
    "less than a half goes down": (0.0, {0: (2.0**24, 1.0), 2: (2.0 - 2.0**-6, 0.5)}, 2.0**24),
    "a half and far beyond it": (0.0, {0: (2.0**24, 1.0), 2: (1.0 + 2.0**-7, 1.0 + 2.0**-7)}, 2.0**24 + 2),
    "what is far below changes nothing": (0.0, {0: (1.0, 1.0), 2: (2.0**-100, -1.0)}, 1.0),
    "products have no exponent too small": (0.0, {0: (SMALLEST, 1.0), 2: (2.0**-70, 2.0**-70)}, 0x00800200),
    "products have no exponent too large": (0.0, {0: (2.0**127, -1.5), 2: (2.0**64, 2.0**64)}, 2.0**126),
    # Overflow
    "a sum too large": (0.0, {0: (2.0**127, 1.0), 2: (2.0**127, 1.0)}, INF),
    "a negative product too large": (1.0, {1: (2.0**64, -(2.0**64))}, -INF),
    "half a step above the largest": (LARGEST, {0: (2.0**103, 1.0)}, INF),
    "less than half a step above the largest": (LARGEST, {0: (2.0**103, 1.0 - 2.0**-8)}, LARGEST),
    # Infinities and invalid operations
    "infinity stays": (-LARGEST, {0: (INF, 1.0), 2: (2.0**127, -(2.0**127))}, INF),
    "inf - inf in a chain": (0.0, {0: (INF, 1.0), 2: (INF, -1.0)}, DEFAULT_NAN),
    "inf - inf of the chains": (0.0, {0: (INF, 1.0), 1: (INF, -1.0)}, DEFAULT_NAN),
    "inf - inf with c": (INF, {0: (-INF, 1.0)}, DEFAULT_NAN),
    "infinity times 0": (0.0, {0: (0.0, INF)}, DEFAULT_NAN),
    # NaN
    "a signalling a is quieted": (0.0, {0: (0x7F81, 1.0)}, 0x7FC10000),
    "a signalling b is quieted": (0.0, {1: (1.0, 0xFF83)}, 0xFFC30000),
    "a signalling c is quieted": (0xFF800001, {0: (1.0, 1.0)}, 0xFFC00001),
    "a before b": (0.0, {0: (0x7FC5, 0xFFC6)}, 0x7FC50000),
    "a before b, and before what is invalid": (0.0, {1: (0xFF82, 0x7FC6), 3: (INF, 0.0)}, 0xFFC20000),
    "b before the chain": (0.0, {0: (0x7FC5, 1.0), 2: (1.0, 0x7FC6)}, 0x7FC60000),
    "the chain before what is invalid": (0.0, {0: (0x7FC9, 1.0), 2: (INF, 0.0)}, 0x7FC90000),
    "even before odd": (0.0, {1: (0x7FC1, 1.0), 2: (0x7FC2, 1.0)}, 0x7FC20000),
    "c before the products": (0x7FC00007, {0: (0xFFC1, 1.0)}, 0x7FC00007),
    "c before what is invalid": (0x7F800007, {0: (INF, 1.0), 1: (INF, -1.0)}, 0x7FC00007),
    # Zeros
    "c of -0 and no products": (-0.0, {}, 0.0),
    "c of -0 and products of -0": (-0.0, {0: (-1.0, 0.0), 1: (0.0, -1.0)}, 0.0),
    "c of -0 and one chain of -0": (-0.0, {30: (SMALLEST, -0.5)}, 0.0),
    "c of -0 and two chains of -0": (-0.0, {30: (SMALLEST, -0.5), 31: (SMALLEST, -0.5)}, -0.0),
    "products of 0 after them": (-0.0, {28: (SMALLEST, -0.5), 29: (SMALLEST, -0.5)}, 0.0),
    "what cancels is +0": (-1.0, {0: (1.0, 1.0)}, 0.0),
}


def directed_tiles() -> list[Tiles]:
    """Sixteen cases on the diagonal of each; other outputs are what comes of their neighbours' operands."""
    cases, result = list(DIRECTED.values()), []
    for first in range(0, len(cases), 16):
        a, b = np.zeros((16, 32), dtype=np.uint16), np.zeros((16, 16, 2), dtype=np.uint16)
        sums = np.zeros((16, 16), dtype=np.uint32)
        for i, (c, products, _) in enumerate(cases[first : first + 16]):
            sums[i, i] = float32(c)
            for element, (x, y) in products.items():
                a[i, element], b[element // 2, i, element % 2] = bfloat16(x), bfloat16(y)
        result.append((a, b, sums))
    return result


def on_diagonals(results: list[np.ndarray]) -> list[str]:
    return [f"{bits:08x}" for result in results for bits in np.diagonal(result)][: len(DIRECTED)]


# --- random data


def floats(source: np.random.Generator, shape: tuple[int, ...], exponents: tuple[int, int]) -> np.ndarray:
    """Bits of float32 of these exponents, biased, both included."""
    bits = source.integers(0, 1 << 32, shape, dtype=np.uint32) & np.uint32(0x807FFFFF)
    return bits | source.integers(exponents[0], exponents[1] + 1, shape, dtype=np.uint32) << np.uint32(23)


# Biased exponents of a and b, and of the sums.
EXPONENTS = {
    "raw bits": ((0, 255), (0, 255)),
    "finite": ((0, 254), (0, 254)),
    "usual": ((120, 128), (124, 132)),
    "narrow": ((126, 127), (126, 131)),
    "near-denormal": ((55, 66), (0, 12)),
    "denormal products": ((40, 70), (0, 30)),
    "large": ((186, 191), (248, 254)),
    "infinite": ((252, 255), (250, 255)),
}


def random_tiles(name: str, count: int) -> list[Tiles]:
    """The same on every call. Every other tile is mostly zeros, so that single products show."""
    source = np.random.default_rng(list(EXPONENTS).index(name))
    operands, sums = EXPONENTS[name]
    result = []
    for number in range(count):
        a = (floats(source, (16, 32), operands) >> np.uint32(16)).astype(np.uint16)
        b = (floats(source, (16, 16, 2), operands) >> np.uint32(16)).astype(np.uint16)
        if number % 2:
            a[source.random(a.shape) < 0.9] &= 0x8000
        result.append((a, b, floats(source, (16, 16), sums)))
    return result


def product_of(tiles: Tiles) -> np.ndarray:
    """By the instruction set in use."""
    a, b, sums = tiles
    return _native.multiply_tiles(a, b, sums.view(np.float32)).view(np.uint32)


def assert_same(actual: np.ndarray, expected: np.ndarray, tiles: Tiles) -> None:
    different = np.argwhere(actual != expected)
    if len(different):
        i, j = different[0]
        pytest.fail(
            f"{len(different)} of 256 outputs differ, the first at row {i}, column {j}: {actual[i, j]:08x}, expected "
            f"{expected[i, j]:08x}; c {tiles[2][i, j]:08x}, a {tiles[0][i].tolist()}, b {tiles[1][:, j].tolist()}"
        )


def test_the_definition_gives_what_the_directed_cases_say() -> None:
    actual = on_diagonals([expected_of(tiles) for tiles in directed_tiles()])
    for (name, (_, _, expected)), bits in zip(DIRECTED.items(), actual, strict=True):
        assert bits == f"{float32(expected):08x}", name


@pytest.mark.parametrize("isa", ISAS)
def test_directed_cases(isa: str) -> None:
    with forced_isa(isa):
        results = [product_of(tiles) for tiles in directed_tiles()]
    for (name, (_, _, expected)), bits in zip(DIRECTED.items(), on_diagonals(results), strict=True):
        assert bits == f"{float32(expected):08x}", name
    for tiles, result in zip(directed_tiles(), results, strict=True):
        assert_same(result, expected_of(tiles), tiles)


@pytest.mark.parametrize("name", EXPONENTS)
def test_random_tiles_are_as_defined(name: str) -> None:
    for tiles in random_tiles(name, 4):
        expected = expected_of(tiles)
        for isa in ISAS:
            with forced_isa(isa):
                assert_same(product_of(tiles), expected, tiles)


@needs_amx
@pytest.mark.parametrize("name", EXPONENTS)
def test_the_emulation_gives_the_bits_of_the_hardware(name: str) -> None:
    """Two million outputs in all; of other tiers, whose compiler options differ, fewer."""
    every = random_tiles(name, 1000)
    with forced_isa(MATRIX_ISA):
        expected = [product_of(tiles) for tiles in every]
    for isa in NO_MATRIX_ISAS:
        count = 1000 if isa == NO_MATRIX_ISAS[-1] else 60
        with forced_isa(isa):
            for tiles, bits in zip(every[:count], expected, strict=False):
                assert_same(product_of(tiles), bits, tiles)


def test_wrong_shapes_are_refused() -> None:
    a, b, sums = np.zeros((16, 32), np.uint16), np.zeros((16, 16, 2), np.uint16), np.zeros((16, 16), np.float32)
    for wrong in ((a[:8], b, sums), (a, b[1:], sums), (a, b, sums[:, :15])):
        with pytest.raises(ValueError, match="multiply_tiles: a is"):
            _native.multiply_tiles(*map(np.ascontiguousarray, wrong))


# --- that these cases notice mistakes

HEADER = ROOT / "csrc" / "cpu" / "matrix_unit_emulated.h"
# What is changed in the header.
MISTAKES = {
    "one chain": ("odd[column] = multiply_add_bits(pair & 0xffff0000u, weights & 0xffff0000u, odd[column]);",
                  "even[column] = multiply_add_bits(pair & 0xffff0000u, weights & 0xffff0000u, even[column]);"),
    "denormal operands": ("if ((bits & kInfinity) == 0) bits &= kSignBit;", ""),
    "denormal results": ("if (magnitude < kSmallest) return sign;", ""),
    "tininess before rounding": ("magnitude = value < 0 ? -value : value;", "magnitude = sum < 0 ? -sum : sum;"),
    "flushed to +0": ("if (magnitude < kSmallest) return sign;", "if (magnitude < kSmallest) return 0;"),
    "halves go up": ("0x0fffffffu + ((bits >> 29) & 1)", "0x10000000u"),
    "cut off": ("bits += 0x0fffffffu + ((bits >> 29) & 1);", ""),
    "overflow": ("if (magnitude >= kTooLarge) return sign | kInfinity;",
                 "if (magnitude >= kTooLarge) return sign | 0x7f7fffffu;"),
    "products rounded": ("sum = operand(a) * operand(b) + operand(c);",
                         "sum = operand(rounded(operand(a) * operand(b))) + operand(c);"),
    "c in a chain": ("add_bits(tiles_[kSums][row][column], add_bits(even[column], odd[column]))",
                     "add_bits(add_bits(tiles_[kSums][row][column], even[column]), odd[column])"),
    "odd before even": ("add_bits(even[column], odd[column])", "add_bits(odd[column], even[column])"),
    "products before c": ("add_bits(tiles_[kSums][row][column], add_bits(even[column], odd[column]))",
                          "add_bits(add_bits(even[column], odd[column]), tiles_[kSums][row][column])"),
    "b before a": ("if (is_nan(a)) return a | kQuietBit;\n  if (is_nan(b)) return b | kQuietBit;\n  if (is_nan(c))",
                   "if (is_nan(b)) return b | kQuietBit;\n  if (is_nan(a)) return a | kQuietBit;\n  if (is_nan(c))"),
    "the chain first": ("inline uint32_t multiply_add_bits(uint32_t a, uint32_t b, uint32_t c) {",
                        "inline uint32_t multiply_add_bits(uint32_t a, uint32_t b, uint32_t c) {\n"
                        "  if (is_nan(c)) return c;"),
    "signalling": ("if (is_nan(a)) return a | kQuietBit;\n  if (is_nan(b)) return b | kQuietBit;\n  const",
                   "if (is_nan(a)) return a;\n  if (is_nan(b)) return b | kQuietBit;\n  const"),
    "positive default": ("kDefaultNan = 0xffc00000u", "kDefaultNan = 0x7fc00000u"),
    "fifteen rows": ("for (int row = 0; row < 16; ++row) {\n      uint32_t",
                     "for (int row = 0; row < 15; ++row) {\n      uint32_t"),
    "fifteen columns": ("for (int column = 0; column < 16; ++column) {\n        tiles_",
                        "for (int column = 0; column < 15; ++column) {\n        tiles_"),
    "fifteen pairs": ("for (int k = 0; k < 16; ++k)", "for (int k = 0; k < 15; ++k)"),
}  # fmt: skip

PROGRAM = """
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {{
{versions}

using Product = void (*)(const uint16_t*, const uint16_t*, uint32_t*);
constexpr Product kProducts[] = {{{names}}};

template <typename Unit>
void multiply(const uint16_t* a, const uint16_t* b, uint32_t* sums) {{
  Unit unit;
  unit.template load<0>(reinterpret_cast<const char*>(sums), 64);
  unit.template load<1>(reinterpret_cast<const char*>(a), 64);
  unit.template load<2>(reinterpret_cast<const char*>(b), 64);
  unit.template multiply<0, 1, 2>();
  unit.template store<0>(sums, 64);
}}
}}  // namespace

int main(int, char** arguments) {{
  uint16_t a[512], b[512];
  uint32_t sums[256];
  while (std::fread(a, 1, 1024, stdin) && std::fread(b, 1, 1024, stdin) && std::fread(sums, 1, 1024, stdin)) {{
    kProducts[std::atoi(arguments[1])](a, b, sums);
    std::fwrite(sums, 1, 1024, stdout);
  }}
}}
"""


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that multiplies tiles by the header as it is, and with each of the mistakes."""
    compiler = next((found for name in ("g++", "c++", "clang++") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C++ compiler: install g++")
    folder, text = tmp_path_factory.mktemp("matrix_unit"), HEADER.read_text()
    changed = [text]
    for old, new in MISTAKES.values():
        assert text.count(old) >= 1, old
        changed.append(text.replace(old, new, 1))
    for number, version in enumerate(changed):
        (folder / f"unit{number}.h").write_text(version)
    included = [f'namespace v{number} {{\n#include "unit{number}.h"\n}}' for number in range(len(changed))]
    declared = "template <typename Unit>\nvoid multiply(const uint16_t* a, const uint16_t* b, uint32_t* sums);"
    names = ", ".join(f"multiply<v{number}::MatrixUnit>" for number in range(len(changed)))
    source, program = folder / "program.cpp", folder / "program"
    source.write_text(PROGRAM.format(versions="\n".join([*included, declared]), names=names))
    done = subprocess.run(
        [compiler, "-std=c++17", "-O1", "-w", str(source), "-o", str(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return program


def results_of(program: Path, version: int, every: list[Tiles]) -> np.ndarray:
    data = b"".join(values.tobytes() for tiles in every for values in tiles)
    done = subprocess.run([str(program), str(version)], input=data, capture_output=True, check=True)
    return np.frombuffer(done.stdout, dtype=np.uint32).reshape(len(every), 16, 16)


def telling_tiles() -> list[Tiles]:
    return [*directed_tiles(), *random_tiles("usual", 1)]


def test_the_header_alone_is_as_defined(versions: Path) -> None:
    every = telling_tiles()
    for tiles, actual in zip(every, results_of(versions, 0, every), strict=True):
        assert_same(actual, expected_of(tiles), tiles)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_noticed(name: str, versions: Path) -> None:
    every = telling_tiles()
    right, wrong = (results_of(versions, number, every) for number in (0, list(MISTAKES).index(name) + 1))
    assert not np.array_equal(right, wrong)
