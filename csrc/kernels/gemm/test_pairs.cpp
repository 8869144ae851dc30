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
  test_errors();
  return 0;
}
