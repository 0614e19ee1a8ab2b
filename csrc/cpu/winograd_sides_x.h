// The transforms of Winograd convolutions, a side of a tile at a time (Lavin and Gray, arXiv:1509.09308):
// Y = A^T [(G g G^T) * (B^T d B)] A. Included after micro_kernel_x.h.
//
// An example of one side, F(2, 3): 2 outputs of 3 taps from 4 inputs d, in 4 products instead of 6.
//
//   inputs   d = 1 2 3 4        taps g = 1 0 2          outputs: 1*1 + 2*0 + 3*2 = 7, 2*1 + 3*0 + 4*2 = 10
//   B^T d    d0 - d2,  d1 + d2,  d2 - d1,  d3 - d1             = -2   5    1    2
//   G g      g0,  (g0 + g1 + g2) / 2,  (g0 - g1 + g2) / 2,  g2  =  1  1.5  1.5   2
//   m        their products, frequency by frequency            = -2  7.5  1.5   4
//   A^T m    m0 + m1 + m2,  m1 - m2 + m3                        =  7  10
//
// A tile of two sides transforms its rows, then its columns: F(2x2) takes 16 products for 4 outputs of 9 taps, 36 of
// the definition. Products of input channels are summed between the transforms, so these are done once a tile.
// (kToomCook2 below has both factors of the first frequency with the other sign.)

template <const TileSide& kOf>
struct Side {
  static constexpr int kIn = static_cast<int>(kOf.in), kFrequencies = static_cast<int>(kOf.frequencies);
  static constexpr int kOut = static_cast<int>(kOf.out), kStep = static_cast<int>(kOf.step);
  static constexpr int kTaps = static_cast<int>(kOf.taps);
};

// kInput is B^T, kFilter G, kOutput A^T.

template <int kRows, int kColumns>
struct Matrix {
  float values[kRows][kColumns] = {};

  constexpr const float (&operator[](int row) const)[kColumns] { return values[row]; }
};

// Toom and Cook's algorithm with the points p and -p of each pair, infinity, and 0 if kHasZero. A point's row of G is
// its powers over the product of its distances to the others, its row of B^T the polynomial that is zero at the others;
// where there is no 0 both have the other sign for -p, so that pairs differ in odd powers only.
template <int kPairs, int kTaps = 3, bool kHasZero = true>
struct ToomCook {
  static constexpr int kSize = 2 * kPairs + (kHasZero ? 2 : 1), kOut = kSize - kTaps + 1;
  Matrix<kSize, kSize> input;
  Matrix<kSize, kTaps> filter;
  Matrix<kOut, kSize> output;

  constexpr explicit ToomCook(const double (&points)[kPairs]) {
    constexpr int kZero = kHasZero ? 1 : 0;
    // The product of x^2 - p^2 over all pairs but one.
    const auto product = [&](int left_out, double (&polynomial)[kSize]) {
      for (double& factor : polynomial) factor = 0.0;
      polynomial[0] = 1.0;
      for (int pair = 0; pair < kPairs; ++pair) {
        if (pair == left_out) continue;
        for (int i = kSize - 1; i >= 0; --i) {
          polynomial[i] = (i >= 2 ? polynomial[i - 2] : 0.0) - points[pair] * points[pair] * polynomial[i];
        }
      }
    };
    double polynomial[kSize] = {};
    product(kPairs, polynomial);
    for (int i = 0; i < kSize; ++i) {
      if (kHasZero) input.values[0][i] = static_cast<float>(polynomial[i]);
      input.values[kSize - 1][i] = i >= kZero ? static_cast<float>(polynomial[i - kZero]) : 0.0f;
    }
    if (kHasZero) {
      filter.values[0][0] = static_cast<float>(1.0 / polynomial[0]);
      output.values[0][0] = 1.0f;
    }
    filter.values[kSize - 1][kTaps - 1] = output.values[kOut - 1][kSize - 1] = 1.0f;
    for (int pair = 0; pair < kPairs; ++pair) {
      product(pair, polynomial);
      const double p = points[pair];
      double distance = 0.0, power = kHasZero ? 2.0 * p * p : 2.0 * p;
      for (int i = 0; i < kSize; i += 2, power *= p * p) distance += polynomial[i] * power;
      for (int sign = 0; sign < 2; ++sign) {
        const int row = kZero + 2 * pair + sign;
        // The polynomial times x + p or x - p and, with zero, times x.
        for (int i = 0; i < kSize; ++i) {
          const double once = i >= kZero ? polynomial[i - kZero] : 0.0,
                       next = i > kZero ? polynomial[i - kZero - 1] : 0.0;
          const double value = sign == 0 ? next + p * once : next - p * once;
          input.values[row][i] = static_cast<float>(sign == 1 && !kHasZero ? -value : value);
        }
        power = 1.0;
        for (int i = 0; i < kSize; ++i, power *= sign == 0 ? p : -p) {
          if (i < kTaps) filter.values[row][i] = static_cast<float>(power / distance);
          if (i < kOut) output.values[i][row] = static_cast<float>(power);
        }
      }
    }
  }
};

template <const TileSide& kOf, const auto& kMatrices>
struct ToomCookSide : Side<kOf> {
  static constexpr auto kInput = kMatrices.input;
  static constexpr auto kFilter = kMatrices.filter;
  static constexpr auto kOutput = kMatrices.output;
};

constexpr ToomCook<1> kToomCook2({1.0});
constexpr ToomCook<2> kToomCook4({1.0, 2.0});
// These lose less where factors are bfloat16 (Barabasz et al., arXiv:1803.10986, on how to choose points).
constexpr ToomCook<2> kToomCook4Near({0.6, 1.5});
// The best of a search: each layer's error in float32 is 1.5e-5 of its output, that of F(4, 3) 1.4e-6.
constexpr ToomCook<4> kToomCook8({0.4375, 0.8125, 1.25, 2.5});
// F(4, 2).
constexpr ToomCook<2, 2, false> kToomCookPairs4({0.5, 1.25});

using Side2 = ToomCookSide<kSide2, kToomCook2>;
using Side4 = ToomCookSide<kSide4, kToomCook4>;
using Side4Near = ToomCookSide<kSide4, kToomCook4Near>;
using Side8 = ToomCookSide<kSide8, kToomCook8>;
using SidePairs4 = ToomCookSide<kSidePairs4, kToomCookPairs4>;

// F(2, 2), points 0 and 1.
struct SidePairs : Side<kSidePairs> {
  static constexpr Matrix<3, 3> kInput = {{{1, -1, 0}, {0, 1, 0}, {0, -1, 1}}};
  static constexpr Matrix<3, 2> kFilter = {{{1, 0}, {1, 1}, {0, 1}}};
  static constexpr Matrix<2, 3> kOutput = {{{1, 1, 0}, {0, 1, 1}}};
};

// Three taps, stride 2: pixels of even number see the middle tap, those of odd number `Others` of the two others.
template <typename Others>
struct Strided {
  static constexpr int kOut = Others::kOut, kSize = kOut + Others::kFrequencies;
  Matrix<kSize, kSize> input;
  Matrix<kSize, 3> filter;
  Matrix<kOut, kSize> output;

  constexpr Strided() {
    for (int o = 0; o < kOut; ++o) input.values[o][2 * o + 1] = filter.values[o][1] = output.values[o][o] = 1.0f;
    for (int f = 0; f < Others::kFrequencies; ++f) {
      for (int i = 0; i < Others::kIn; ++i) input.values[kOut + f][2 * i] = Others::kInput[f][i];
      for (int i = 0; i < 2; ++i) filter.values[kOut + f][2 * i] = Others::kFilter[f][i];
      for (int o = 0; o < kOut; ++o) output.values[o][kOut + f] = Others::kOutput[o][f];
    }
  }
};

// Three taps, transposed with stride 2: outputs of even number are the middle tap's, those of odd number the others'.
template <typename Others>
struct Transposed {
  static constexpr int kHalf = Others::kOut, kSize = kHalf + Others::kFrequencies;
  Matrix<kSize, Others::kIn> input;
  Matrix<kSize, 3> filter;
  Matrix<2 * kHalf, kSize> output;

  constexpr Transposed() {
    for (int o = 0; o < kHalf; ++o) input.values[o][o] = filter.values[o][1] = output.values[2 * o][o] = 1.0f;
    for (int f = 0; f < Others::kFrequencies; ++f) {
      for (int i = 0; i < Others::kIn; ++i) input.values[kHalf + f][i] = Others::kInput[f][i];
      for (int i = 0; i < 2; ++i) filter.values[kHalf + f][2 - 2 * i] = Others::kFilter[f][i];
      for (int o = 0; o < kHalf; ++o) output.values[2 * o + 1][kHalf + f] = Others::kOutput[o][f];
    }
  }
};

constexpr Strided<SidePairs> kStrided;
constexpr Strided<SidePairs4> kStrided4;
constexpr Transposed<SidePairs> kTransposed;
constexpr Transposed<SidePairs4> kTransposed4;
using SideStrided = ToomCookSide<kSideStrided, kStrided>;
using SideStrided4 = ToomCookSide<kSideStrided4, kStrided4>;
using SideTransposed = ToomCookSide<kSideTransposed, kTransposed>;
using SideTransposed4 = ToomCookSide<kSideTransposed4, kTransposed4>;
