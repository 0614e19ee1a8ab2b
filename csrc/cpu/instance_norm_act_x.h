// instance_norm_act for any vector length. Included inside an anonymous namespace, after vector.h.

inline float sum_of(V value) {
  float lanes[kLanes], sum = 0;
  __builtin_memcpy(lanes, &value, sizeof value);
  for (const float lane : lanes) sum += lane;
  return sum;
}

// A coefficient of elements `first` to `first + count` of a pixel, or of all elements of a plane.
template <bool kPlanar>
inline V coefficient(const float* values, int64_t first, int64_t count) {
  return kPlanar ? splat(*values) : load_some<Float32>(values + first, count);
}

template <typename E>
void interleaved_statistics(const void* x, int64_t pixels, int64_t channels, float* mean, float* m2) {
  const auto* from = static_cast<const typename E::Storage*>(x);
  const V share = splat(1.0f / static_cast<float>(pixels));
  for (int64_t c = 0; c < channels; c += kLanes) {
    const int64_t count = channels - c;
    V sum = V{}, squares = V{};
    for (int64_t p = 0; p < pixels; ++p) sum = sum + load_some<E>(from + p * channels + c, count);
    const V middle = sum * share;
    for (int64_t p = 0; p < pixels; ++p) {
      const V distance = load_some<E>(from + p * channels + c, count) - middle;
      squares = multiply_add(distance, distance, squares);
    }
    store_some<Float32>(mean + c, middle, count);
    store_some<Float32>(m2 + c, squares, count);
  }
}

template <typename E>
void planar_statistics(const void* x, int64_t pixels, int64_t, float* mean, float* m2) {
  const auto* from = static_cast<const typename E::Storage*>(x);
  V sum = V{}, squares = V{};
  const int64_t whole = pixels / kLanes * kLanes;
  for (int64_t p = 0; p < pixels; p += kLanes) sum = sum + load_some<E>(from + p, pixels - p);
  *mean = sum_of(sum) / static_cast<float>(pixels);
  const V middle = splat(*mean);
  for (int64_t p = 0; p < whole; p += kLanes) {
    const V distance = E::load(from + p) - middle;
    squares = multiply_add(distance, distance, squares);
  }
  *m2 = sum_of(squares);
  for (int64_t p = whole; p < pixels; ++p) {
    const float distance = sum_of(load_some<E>(from + p, 1)) - *mean;
    *m2 += distance * distance;
  }
}

// Calls use(element, elements left in this pixel, first channel) for vectors of a row: all of a plane as one pixel.
template <bool kPlanar, typename Use>
inline __attribute__((always_inline)) void for_vectors(const NormRow& row, Use&& use) {
  const int64_t pixels = kPlanar ? 1 : row.pixels, inner = kPlanar ? row.pixels : row.channels;
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t i = 0; i < inner; i += kLanes) use(p * inner + i, inner - i, i);
  }
}

template <typename E, bool kPlanar>
void forward_row(const NormRow& row) {
  const auto* x = static_cast<const typename E::Storage*>(row.x);
  const auto* residual = static_cast<const typename E::Storage*>(row.residual);
  auto* to = static_cast<typename E::Storage*>(row.to);
  for_vectors<kPlanar>(row, [&](int64_t at, int64_t count, int64_t c) {
    V value = multiply_add(load_some<E>(x + at, count), coefficient<kPlanar>(row.scale, c, count),
                           coefficient<kPlanar>(row.shift, c, count));
    value = value > V{} ? value : value * row.slope;  // NaN stays NaN
    if (residual) value = value + load_some<E>(residual + at, count);
    store_some<E>(to + at, value, count);
  });
}

// The gradient before the activation.
template <typename E, bool kPlanar>
inline __attribute__((always_inline)) V grad_before_activation(const NormRow& row, V x, int64_t at, int64_t count,
                                                               int64_t c) {
  const V value = multiply_add(x, coefficient<kPlanar>(row.scale, c, count), coefficient<kPlanar>(row.shift, c, count));
  const V grad = load_some<E>(static_cast<const typename E::Storage*>(row.grad) + at, count);
  return value > V{} ? grad : grad * row.slope;
}

template <typename E, bool kPlanar>
void grad_sums_row(const NormRow& row, float* of_grad, float* of_product) {
  const auto* from = static_cast<const typename E::Storage*>(row.x);
  if constexpr (kPlanar) {
    V sum = V{}, product = V{};
    for_vectors<true>(row, [&](int64_t at, int64_t count, int64_t c) {
      const V x = load_some<E>(from + at, count);
      const V grad = grad_before_activation<E, true>(row, x, at, count, c);
      sum = sum + grad;
      product = multiply_add(grad, multiply_add(x, splat(*row.rstd), splat(*row.offset)), product);
    });
    *of_grad += sum_of(sum);
    *of_product += sum_of(product);
  } else {
    for (int64_t c = 0; c < row.channels; c += kLanes) {
      const int64_t count = row.channels - c;
      const V rstd = coefficient<false>(row.rstd, c, count), offset = coefficient<false>(row.offset, c, count);
      V sum = load_some<Float32>(of_grad + c, count), product = load_some<Float32>(of_product + c, count);
      for (int64_t p = 0; p < row.pixels; ++p) {
        const int64_t at = p * row.channels + c;
        const V x = load_some<E>(from + at, count);
        const V grad = grad_before_activation<E, false>(row, x, at, count, c);
        sum = sum + grad;
        product = multiply_add(grad, multiply_add(x, rstd, offset), product);
      }
      store_some<Float32>(of_grad + c, sum, count);
      store_some<Float32>(of_product + c, product, count);
    }
  }
}

template <typename E, bool kPlanar>
void backward_row(const NormRow& row) {
  const auto* from = static_cast<const typename E::Storage*>(row.x);
  auto* to = static_cast<typename E::Storage*>(row.to);
  for_vectors<kPlanar>(row, [&](int64_t at, int64_t count, int64_t c) {
    const V x = load_some<E>(from + at, count);
    const V grad = grad_before_activation<E, kPlanar>(row, x, at, count, c);
    const V normalised =
        multiply_add(x, coefficient<kPlanar>(row.rstd, c, count), coefficient<kPlanar>(row.offset, c, count));
    const V rest =
        multiply_add(normalised, coefficient<kPlanar>(row.a, c, count), coefficient<kPlanar>(row.b, c, count));
    store_some<E>(to + at, multiply_add(grad, coefficient<kPlanar>(row.scale, c, count), rest), count);
  });
}

constexpr InstanceNormActKernels kInstanceNormAct = {
    {{interleaved_statistics<Float32>, interleaved_statistics<BFloat16>},
     {forward_row<Float32, false>, forward_row<BFloat16, false>},
     {grad_sums_row<Float32, false>, grad_sums_row<BFloat16, false>},
     {backward_row<Float32, false>, backward_row<BFloat16, false>}},
    {{planar_statistics<Float32>, planar_statistics<BFloat16>},
     {forward_row<Float32, true>, forward_row<BFloat16, true>},
     {grad_sums_row<Float32, true>, grad_sums_row<BFloat16, true>},
     {backward_row<Float32, true>, backward_row<BFloat16, true>}}};
