// Byte shuffles between BGR and RGB, 16 pixels (48 bytes) at a time. Included inside an anonymous namespace after
// <immintrin.h>; needs SSSE3.
//
// A window is 16 of the 48 bytes. With both colour orders three bytes wide, the window at 16 * j of one order needs
// bytes of the other from 15 * j to 15 * j + 17: two bytes more than a register holds, so each takes two shuffles.

#include "csrc/cpu/pixel_blocks.h"

struct ShuffleMask {
  alignas(16) uint8_t byte[16];
};

constexpr uint8_t kZero = 0x80;  // pshufb writes 0 for it

// Where byte `i` of one order is in the other.
constexpr int swapped(int i) { return i / 3 * 3 + 2 - i % 3; }

// Fills the window at `window` from a register that holds the bytes from `start`, leaving out those before `skip`.
constexpr ShuffleMask swap_mask(int window, int start, int skip) {
  ShuffleMask mask{};
  for (int i = 0; i < 16; ++i) {
    const int source = swapped(window + i);
    const bool here = source >= start && source < start + 16 && source >= skip;
    mask.byte[i] = here ? static_cast<uint8_t>(source - start) : kZero;
  }
  return mask;
}

// Fills the window at `window` of three interleaved planes with the bytes of plane `channel`.
constexpr ShuffleMask interleave_mask(int window, int channel) {
  ShuffleMask mask{};
  for (int i = 0; i < 16; ++i) {
    const int source = window + i;
    mask.byte[i] = source % 3 == channel ? static_cast<uint8_t>(source / 3) : kZero;
  }
  return mask;
}

inline __m128i shuffle(__m128i bytes, const ShuffleMask& mask) {
  return _mm_shuffle_epi8(bytes, _mm_load_si128(reinterpret_cast<const __m128i*>(mask.byte)));
}

inline __m128i load_bytes(const uint8_t* bytes) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)); }

inline void store_bytes(uint8_t* bytes, __m128i value) { _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), value); }
