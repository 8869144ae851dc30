// gemm and conv on bfloat16 pairs against the same steps in float32 on rounded operands.
#include <bit>

#include "kernels/conv/pack.h"
#include "kernels/gemm/driver.h"
#include "kernels/gemm/pack.h"
#include "kernels_dense.h"
#include "runtime/cpu.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

using Ints = std::vector<int64_t>;

uint32_t round_bits(float x) {
  uint32_t out = 0;
  gemm_kernels().round(&x, 1, 1, 1, &out, 1);
  return out;
}

float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }

std::vector<float> rounded(std::vector<float> values) {
  for (float& x : values) x = as_float(round_bits(x) << 16U);
  return values;
}

// Pairs along the axis of `size` in [outer][size][inner]; an odd last one is paired with zero.
std::vector<float> pairs_along(const std::vector<float>& values, int64_t outer, int64_t size, int64_t inner) {
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

Operand packed_pairs(const std::vector<float>& packed) {
  return make_operand(DType::kU32, {static_cast<int64_t>(packed.size())}, packed);
}

void check_gemm(int64_t m, int64_t k, int64_t n, const std::string& activation, bool residual) {
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

void check_conv(int64_t size, int64_t cin, int64_t cout, int64_t kernel, int64_t stride, int64_t pad) {
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
  const int64_t half = (cin + 1) / 2;
  packed.resize(packed_conv_size(cout, half, taps, 1));
  pack_conv(pairs_along(w, cout, cin, taps).data(), cout, half, taps, 1, packed.data());
  const auto got = run_everywhere("conv", attrs, {f32(x_shape, x), packed_pairs(packed), bias}, y_shape);
  CHECK(relative_error(got, {want.begin(), want.end()}) <= kTolerance);
}

void test_rounding() {
  CHECK(round_bits(1.0F) == 0x3f80);
  CHECK(round_bits(as_float(0x3f808000)) == 0x3f80);  // halfway: to even, down
  CHECK(round_bits(as_float(0x3f818000)) == 0x3f82);  // and up
  CHECK(round_bits(as_float(0x3f808001)) == 0x3f81);
  CHECK(round_bits(-0.0F) == 0x8000);
  CHECK(round_bits(as_float(0x7f7fffff)) == 0x7f80);  // the largest float: to infinity
  CHECK(round_bits(as_float(0x7f800000)) == 0x7f80);
  CHECK((round_bits(as_float(0x7f800001)) & 0x7fU) != 0);  // a NaN whose payload is all in the low half
}

void test_errors() {
  Attrs attrs;
  attrs.set("k", int64_t{4});
  attrs.set("n", int64_t{4});
  attrs.set("bf16", int64_t{1});
  const std::vector<Operand> inputs = {f32({1, 4}, std::vector<float>(4)), f32({32}, std::vector<float>(32))};
  std::vector<Operand> outputs = {{DType::kF32, {1, 4}, {}}};
  CHECK_THROWS(run_step("gemm", attrs, inputs, outputs, 1, Guard::kAfter), "W must be uint32");
  attrs = Attrs();
  attrs.set("kernel_shape", Ints{1, 1});
  attrs.set("cin", int64_t{4});
  attrs.set("cout", int64_t{4});
  attrs.set("group", int64_t{2});
  attrs.set("bf16", int64_t{1});
  CHECK_THROWS(find_kernel("conv")(attrs), "without groups");
}

}  // namespace

int main() {
  test_rounding();
  for (int64_t m : {1, 5, 12, 13, 40}) {
    for (int64_t k : {1, 2, 7, 32, 33}) {
      for (int64_t n : {1, 16, 17, 70}) check_gemm(m, k, n, n == 17 ? "gelu" : "relu", k % 2 == 0);
    }
  }
  check_gemm(30, 3333, 40, "none", true);  // K in several blocks
  check_gemm(7, 1024, 200, "relu", false);
  for (int64_t cin : {1, 3, 16, 35}) {
    check_conv(9, cin, 20, 1, 1, 0);
    check_conv(9, cin, 20, 1, 2, 0);
    check_conv(9, cin, 37, 3, 1, 1);
    check_conv(10, cin, 16, 5, 2, 2);
  }
  test_errors();
  return 0;
}
