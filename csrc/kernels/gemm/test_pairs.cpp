// gemm and conv on bfloat16 pairs, at every instruction-set level.
#include "kernels/gemm/pairs_cases.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

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

// Results and operands in bfloat16, where a tile, a row of tiles and a vector of channels end.
void test_halves() {
  for (int64_t m : {1, 11, 13, 40}) {
    for (int64_t n : {2, 16, 18, 70}) {
      check_half_gemm(m, 34, n, "relu", 0);
      check_half_gemm(m, 34, n, "clip", 1);
      check_half_gemm(m, 2, n, "none", 2);
      check_half_gemm(m, 66, n, "gelu", n == 16 ? 2 : 1);
    }
  }
  check_half_gemm(30, 2048, 160, "none", 1);  // rows that collide in the cache
  for (int64_t cin : {2, 16, 36}) {
    check_half_conv(9, cin, 20, 1, 1, "relu", true);
    check_half_conv(9, cin, 20, 1, 2, "hardswish", true);
    check_half_conv(9, cin, 38, 3, 1, "relu", false);
    check_half_conv(10, cin, 16, 5, 2, "none", true);
  }
  for (int64_t channels : {2, 16, 22, 64}) {
    for (int64_t kernel : {3, 5, 7}) {
      for (int64_t stride : {1, 2}) check_half_conv(17, 0, channels, kernel, stride, "relu", false);
    }
  }
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
  attrs = Attrs();
  attrs.set("k", int64_t{3});
  attrs.set("n", int64_t{4});
  const std::vector<uint16_t> three(3);
  const std::vector<Operand> odd = {make_operand(DType::kBF16, {1, 3}, three), f32({48}, std::vector<float>(48))};
  CHECK_THROWS(run_step("gemm", attrs, odd, outputs, 1, Guard::kAfter), "odd rows");
  attrs.set("k", int64_t{2});
  const std::vector<Operand> plain = {make_operand(DType::kBF16, {1, 2}, std::vector<uint16_t>(2)),
                                      f32({32}, std::vector<float>(32))};
  CHECK_THROWS(run_step("gemm", attrs, plain, outputs, 1, Guard::kAfter), "A is bfloat16, W isn't");
}

}  // namespace

int main() {
  test_rounding();
  for (int64_t m : {1, 5, 12, 13, 40}) {
    for (int64_t k : {1, 2, 7, 32, 33}) {
      for (int64_t n : {1, 16, 17, 70}) check_pairs_gemm(m, k, n, n == 17 ? "gelu" : "relu", k % 2 == 0);
    }
  }
  check_pairs_gemm(30, 3333, 40, "none", true);  // K in several blocks
  check_pairs_gemm(7, 1024, 200, "relu", false);
  for (int64_t cin : {1, 3, 16, 35}) {
    check_pairs_conv(9, cin, 20, 1, 1, 0);
    check_pairs_conv(9, cin, 20, 1, 2, 0);
    check_pairs_conv(9, cin, 37, 3, 1, 1);
    check_pairs_conv(10, cin, 16, 5, 2, 2);
  }
  for (int64_t cin : {1, 3, 6}) {
    check_pairs_conv(19, cin, 20, 3, 2, 1, true);
    check_pairs_conv(18, cin, 37, 7, 2, 3, true);
    check_pairs_conv(16, cin, 16, 4, 4, 0, true);
  }
  test_halves();
  test_errors();
  return 0;
}
