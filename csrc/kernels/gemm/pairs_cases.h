// Cases of gemm and conv on bfloat16 pairs against the same steps in float32 on rounded operands.
#pragma once

#include <bit>

#include "kernels/conv/pack.h"
#include "kernels/gemm/driver.h"
#include "kernels/gemm/pack.h"
#include "kernels_dense.h"

namespace graphopt::test {

using Ints = std::vector<int64_t>;

inline uint32_t round_bits(float x) {
  uint32_t out = 0;
  gemm_kernels().round(&x, 1, 1, 1, &out, 1);
  return out;
}

inline float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }

inline std::vector<float> rounded(std::vector<float> values) {
  for (float& x : values) x = as_float(round_bits(x) << 16U);
  return values;
}

// Pairs along the axis of `size` in [outer][size][inner]; an odd last one is paired with zero.
inline std::vector<float> pairs_along(const std::vector<float>& values, int64_t outer, int64_t size, int64_t inner) {
  std::vector<float> out;
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < size; i += 2) {
      for (int64_t j = 0; j < inner; ++j) {
        const auto at = static_cast<size_t>((o * size + i) * inner + j);
        const uint32_t high = i + 1 < size ? round_bits(values[at + static_cast<size_t>(inner)]) : 0;
        out.push_back(as_float(round_bits(values[at]) | high << 16U));
      }
    }
  }
  return out;
}

inline Operand packed_pairs(const std::vector<float>& packed) {
  return make_operand(DType::kU32, {static_cast<int64_t>(packed.size())}, packed);
}

inline void check_pairs_gemm(int64_t m, int64_t k, int64_t n, const std::string& activation, bool residual) {
  Attrs attrs;
  attrs.set("k", k);
  attrs.set("n", n);
  attrs.set("activation", activation);
  Random random(static_cast<uint64_t>(m + 100 * k + 10000 * n));
  const auto a = random.floats(m * k);
  const auto w = random.floats(k * n);
  const Operand bias = f32({n}, random.floats(n));
  const Operand rest = residual ? f32({m, n}, random.floats(m * n)) : Operand{};
  std::vector<float> packed(packed_gemm_size(k, n));
  pack_gemm(rounded(w).data(), k, n, packed.data());
  const Operand plain = f32({static_cast<int64_t>(packed.size())}, packed);
  const auto want = run_everywhere("gemm", attrs, {f32({m, k}, rounded(a)), plain, bias, rest}, {m, n});
  attrs.set("bf16", int64_t{1});
  packed.resize(packed_gemm_size((k + 1) / 2, n));
  pack_gemm(pairs_along(w, 1, k, n).data(), (k + 1) / 2, n, packed.data());
  const auto got = run_everywhere("gemm", attrs, {f32({m, k}, a), packed_pairs(packed), bias, rest}, {m, n});
  CHECK(relative_error(got, {want.begin(), want.end()}) <= kTolerance);
}

// Merged: pairs run through the taps of a line, for few channels.
inline void check_pairs_conv(int64_t size, int64_t cin, int64_t cout, int64_t kernel, int64_t stride, int64_t pad,
                             bool merged = false) {
  Attrs attrs;
  attrs.set("kernel_shape", Ints{kernel, kernel});
  attrs.set("strides", Ints{stride, stride});
  attrs.set("pads", Ints{pad, pad, pad, pad});
  attrs.set("cin", cin);
  attrs.set("cout", cout);
  attrs.set("activation", std::string("relu"));
  const int64_t taps = kernel * kernel;
  const int64_t out = (size + 2 * pad - kernel) / stride + 1;
  const Ints x_shape{2, size, size, cin};
  const Ints y_shape{2, out, out, cout};
  Random random(static_cast<uint64_t>(size + 100 * cin + 10000 * cout));
  const auto x = random.floats(2 * size * size * cin);
  const auto w = random.floats(cout * cin * taps);
  const Operand bias = f32({cout}, random.floats(cout));
  std::vector<float> packed(packed_conv_size(cout, cin, taps, 1));
  pack_conv(rounded(w).data(), cout, cin, taps, 1, packed.data());
  const Operand plain = f32({static_cast<int64_t>(packed.size())}, packed);
  const auto want = run_everywhere("conv", attrs, {f32(x_shape, rounded(x)), plain, bias}, y_shape);
  attrs.set("bf16", int64_t{1});
  if (merged) {
    attrs.set("merged", int64_t{1});
    // [panel][line of taps][tap of the line and channel][16 columns]
    packed = pairs_along(packed, (cout + 15) / 16 * kernel, kernel * cin, 16);
  } else {
    const int64_t half = (cin + 1) / 2;
    packed.resize(packed_conv_size(cout, half, taps, 1));
    pack_conv(pairs_along(w, cout, cin, taps).data(), cout, half, taps, 1, packed.data());
  }
  const auto got = run_everywhere("conv", attrs, {f32(x_shape, x), packed_pairs(packed), bias}, y_shape);
  CHECK(relative_error(got, {want.begin(), want.end()}) <= kTolerance);
}

// Bytes of the first output, of any type, on one, two and three threads.
inline std::vector<std::byte> run_bytes(const std::string& name, const Attrs& attrs, const std::vector<Operand>& inputs,
                                        DType dtype, const Ints& shape) {
  std::vector<std::byte> first;
  for (int threads = 1; threads <= 3; ++threads) {
    std::vector<Operand> outputs = {{dtype, shape, {}}};
    run_step(name, attrs, inputs, outputs, threads, threads == 2 ? Guard::kBefore : Guard::kAfter);
    if (threads == 1) first = outputs[0].bytes;
    CHECK(outputs[0].bytes == first);
  }
  return first;
}

inline std::vector<uint16_t> halves(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (float x : values) out.push_back(static_cast<uint16_t>(round_bits(x)));
  return out;
}

// The same numbers, in float32 and in bfloat16.
struct BothForms {
  Operand whole;
  Operand half;
  BothForms(const Ints& shape, const std::vector<float>& values)
      : whole(f32(shape, rounded(values))), half(make_operand(DType::kBF16, shape, halves(values))) {}
};

// Operands stored in bfloat16 mean what the same numbers in float32 do, and a result is rounded once: to the bit.
// inputs[0] and inputs[3] come from `x` and `residual` (may be null).
inline void check_halves(const std::string& name, const Attrs& attrs, std::vector<Operand> inputs, const BothForms& x,
                         const BothForms* residual, const Ints& shape) {
  inputs.resize(residual != nullptr ? 4 : inputs.size());
  inputs[0] = x.whole;
  if (residual != nullptr) inputs[3] = residual->whole;
  const auto want = run_bytes(name, attrs, inputs, DType::kF32, shape);
  std::vector<float> values(want.size() / sizeof(float));
  if (!want.empty()) std::memcpy(values.data(), want.data(), want.size());
  Operand want_half = make_operand(DType::kBF16, shape, halves(values));
  if (attrs.s("activation") == "gelu") {  // which is computed more roughly for such a result
    const auto got = run_bytes(name, attrs, inputs, DType::kBF16, shape);
    std::vector<float> rough;
    for (size_t i = 0; i < got.size(); i += sizeof(uint16_t)) {
      uint16_t bits = 0;
      std::memcpy(&bits, &got[i], sizeof bits);
      rough.push_back(as_float(uint32_t{bits} << 16U));
    }
    CHECK(relative_error(rough, {values.begin(), values.end()}) <= 3e-3);
    want_half.bytes = got;
  }
  CHECK(run_bytes(name, attrs, inputs, DType::kBF16, shape) == want_half.bytes);
  inputs[0] = x.half;
  CHECK(run_bytes(name, attrs, inputs, DType::kF32, shape) == want);
  CHECK(run_bytes(name, attrs, inputs, DType::kBF16, shape) == want_half.bytes);
  if (residual == nullptr) return;
  inputs[3] = residual->half;
  CHECK(run_bytes(name, attrs, inputs, DType::kF32, shape) == want);
  CHECK(run_bytes(name, attrs, inputs, DType::kBF16, shape) == want_half.bytes);
}

inline void check_half_gemm(int64_t m, int64_t k, int64_t n, const std::string& activation, int residual) {
  Attrs attrs;
  attrs.set("k", k);
  attrs.set("n", n);
  attrs.set("bf16", int64_t{1});
  attrs.set("activation", activation);
  attrs.set("residual_after", int64_t{residual == 2});
  Random random(static_cast<uint64_t>(m + 100 * k + 10000 * n));
  const BothForms x({m, k}, random.floats(m * k));
  const BothForms rest({m, n}, random.floats(m * n));
  std::vector<float> packed(packed_gemm_size(k / 2, n));
  pack_gemm(pairs_along(random.floats(k * n), 1, k, n).data(), k / 2, n, packed.data());
  const std::vector<Operand> inputs = {Operand{}, packed_pairs(packed), f32({n}, random.floats(n))};
  check_halves("gemm", attrs, inputs, x, residual > 0 ? &rest : nullptr, {m, n});
}

// A convolution without groups on bfloat16 weights, or a depthwise one (cin == 0: of cout channels).
inline void check_half_conv(int64_t size, int64_t cin, int64_t cout, int64_t kernel, int64_t stride,
                            const std::string& activation, bool with_residual) {
  const bool depthwise = cin == 0;
  const int64_t channels = depthwise ? cout : cin;
  const int64_t pad = kernel / 2;
  Attrs attrs;
  attrs.set("kernel_shape", Ints{kernel, kernel});
  attrs.set("strides", Ints{stride, stride});
  attrs.set("pads", Ints{pad, pad, pad, pad});
  attrs.set("cin", channels);
  attrs.set("cout", cout);
  attrs.set("activation", activation);
  attrs.set("group", depthwise ? cout : int64_t{1});
  if (!depthwise) attrs.set("bf16", int64_t{1});
  const int64_t taps = kernel * kernel;
  const int64_t out = (size + 2 * pad - kernel) / stride + 1;
  const Ints y_shape{2, out, out, cout};
  Random random(static_cast<uint64_t>(size + 100 * cin + 10000 * cout));
  const BothForms x({2, size, size, channels}, random.floats(2 * size * size * channels));
  const BothForms rest(y_shape, random.floats(2 * out * out * cout));
  std::vector<float> packed;
  Operand weights;
  if (depthwise) {
    packed.resize(packed_conv_size(cout, 1, taps, cout));
    pack_conv(random.floats(cout * taps).data(), cout, 1, taps, cout, packed.data());
    weights = f32({static_cast<int64_t>(packed.size())}, packed);
  } else {
    packed.resize(packed_conv_size(cout, cin / 2, taps, 1));
    pack_conv(pairs_along(random.floats(cout * cin * taps), cout, cin, taps).data(), cout, cin / 2, taps, 1,
              packed.data());
    weights = packed_pairs(packed);
  }
  const std::vector<Operand> inputs = {Operand{}, weights, f32({cout}, random.floats(cout))};
  check_halves("conv", attrs, inputs, x, with_residual ? &rest : nullptr, y_shape);
}

}  // namespace graphopt::test
