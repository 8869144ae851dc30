// gemm against the reference, at sizes around the tiles, and the activations against libm.
#include <limits>

#include "kernels/gemm/driver.h"
#include "kernels/gemm/pack.h"
#include "kernels/gemm/reference.h"
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

constexpr const char* kActivations[] = {"none",      "relu", "clip",        "leaky_relu", "sigmoid",
                                        "silu",      "tanh", "hardsigmoid", "hardswish",  "gelu",
                                        "gelu_tanh", "elu",  "mish",        "softplus"};

Attrs make_attrs(int64_t k, int64_t n, const std::string& activation, bool residual_after) {
  Attrs attrs;
  attrs.set("k", k);
  attrs.set("n", n);
  attrs.set("activation", activation);
  attrs.set("alpha", activation == "clip" ? -0.5 : 0.3);
  attrs.set("beta", 0.6);
  attrs.set("residual_after", int64_t{residual_after});
  return attrs;
}

void check_gemm(int64_t m, int64_t n, int64_t k, const std::string& activation, bool with_bias, int residual_mode,
                const GemmChoice& choice = {}) {
  Random random(static_cast<uint64_t>(m * 1000003 + n * 1009 + k));
  const auto a = random.floats(m * k);
  const auto b = random.floats(k * n);
  std::vector<float> packed(packed_gemm_size(k, n));
  pack_gemm(b.data(), k, n, packed.data());
  const auto bias = with_bias ? random.floats(n) : std::vector<float>{};
  const auto residual = residual_mode > 0 ? random.floats(m * n) : std::vector<float>{};
  Attrs attrs = make_attrs(k, n, activation, residual_mode == 2);
  attrs.set("tile", choice.tile);
  attrs.set("share", choice.share);
  const auto packed_size = static_cast<int64_t>(packed.size());
  const std::vector<Operand> inputs = {f32({m, k}, a), f32({packed_size}, packed),
                                       with_bias ? f32({n}, bias) : Operand{},
                                       residual_mode > 0 ? f32({m, n}, residual) : Operand{}};
  const auto got = run_everywhere("gemm", attrs, inputs, {m, n});
  const double error = relative_error(got, reference::gemm(a, b, m, n, k, bias, residual, parse_epilogue(attrs)));
  if (error > kTolerance)
    std::printf("m %ld n %ld k %ld %s: %g\n", long(m), long(n), long(k), activation.c_str(), error);
  CHECK(error <= kTolerance);
}

void test_sizes() {
  for (int64_t m : {1, 2, 3, 5, 6, 7, 9, 10, 12, 13, 19, 25, 37}) {
    for (int64_t n : {1, 3, 4, 5, 15, 16, 17, 31, 33, 49, 64, 65}) {
      for (int64_t k : {1, 2, 7, 33}) check_gemm(m, n, k, "none", (m + n) % 2 == 0, static_cast<int>(k % 3));
    }
  }
  // several blocks of K, rows that collide in the cache, several threads
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{5, 40, 1536},
                                {5, 40, 1537},
                                {30, 160, 1024},
                                {70, 144, 3072},
                                {130, 200, 2500},
                                {700, 33, 64},
                                {1300, 20, 40}}) {
    check_gemm(m, n, k, "relu", true, 1);
    check_gemm(m, n, k, "gelu", true, 2);
  }
}

// Tiles of every width, shared out by rows and by columns, at sizes below, at and above them.
void test_choices() {
  for (int64_t tile = 1; tile <= kMaxPanels; ++tile) {
    for (int64_t share : {0, 1, 2}) {
      for (int64_t m : {1, 6, 13, 50}) {
        for (int64_t n : {15, 64, 70}) check_gemm(m, n, 33, "relu", true, 1, {tile, share});
      }
      check_gemm(130, 200, 1600, "gelu", true, 2, {tile, share});
    }
  }
}

void test_epilogues() {
  for (const char* activation : kActivations) {
    for (int residual = 0; residual < 3; ++residual) {
      check_gemm(17, 37, 8, activation, true, residual);
      check_gemm(3, 5, 8, activation, false, residual);
    }
  }
}

// Nothing to sum: the epilogue of zero. Nothing to compute: no access at all.
void test_empty() {
  for (const char* activation : {"none", "relu", "sigmoid"}) check_gemm(5, 19, 0, activation, true, 1);
  check_gemm(0, 19, 4, "none", true, 0);
  check_gemm(5, 0, 4, "none", false, 0);
}

// k = 1 and a weight of one: the step is its activation. Checked at every magnitude against libm.
void test_accuracy() {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  std::vector<float> x = {0.0F,
                          -0.0F,
                          1e-30F,
                          -1e-30F,
                          200.0F,
                          -200.0F,
                          3e38F,
                          -3e38F,
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()};
  for (float v = -100; v < 100; v += 0.0137F) x.push_back(v);
  for (float v = 1e-8F; v < 100; v *= 1.01F) x.insert(x.end(), {v, -v});
  const std::vector<float> packed = [] {
    std::vector<float> w(16, 0.0F);
    w[0] = 1;
    return w;
  }();
  const auto m = static_cast<int64_t>(x.size());
  for (const char* activation : kActivations) {
    const Attrs attrs = make_attrs(1, 1, activation, false);
    const Epilogue epilogue = parse_epilogue(attrs);
    const auto got = run_everywhere("gemm", attrs, {f32({m, 1}, x), f32({16}, packed)}, {m, 1});
    for (size_t i = 0; i < x.size(); ++i) {
      // The other lanes of a panel are zero, and inf * 0 is not our subject.
      const double want = apply_activation(epilogue, x[i]);
      const auto y = static_cast<double>(got[i]);
      // Relative, but where the definition itself subtracts (to the size of what it subtracts) and
      // below the normal range of a float.
      const std::string name = activation;
      const bool subtracts = name.starts_with("gelu") || name.starts_with("hard");
      const double bound =
          subtracts ? 1e-6 * std::max(1.0, std::abs(static_cast<double>(x[i]))) : 1e-6 * std::abs(want) + 1.2e-38;
      const bool same =
          std::isnan(want) ? std::isnan(y) : (std::abs(want) == kInf ? y == want : std::abs(y - want) <= bound);
      if (!same) std::printf("%s(%.9g) = %.9g, not %.9g\n", activation, static_cast<double>(x[i]), y, want);
      CHECK(same);
    }
  }
}

void test_errors() {
  Attrs attrs = make_attrs(4, 3, "no such", false);
  CHECK_THROWS(find_kernel("gemm")(attrs), "unknown activation 'no such'");
  attrs = make_attrs(4, 3, "none", false);
  attrs.set("tile", int64_t{5});
  CHECK_THROWS(find_kernel("gemm")(attrs), "at most 4 panels");
  attrs.set("tile", int64_t{4});
  attrs.set("share", int64_t{3});
  CHECK_THROWS(find_kernel("gemm")(attrs), "share");
  attrs = make_attrs(4, 3, "none", false);
  std::vector<Operand> outputs = {{DType::kF32, {2, 3}, {}}};
  const std::vector<float> eight(8);
  const std::vector<float> weights(64);
  CHECK_THROWS(run_step("gemm", attrs, {f32({2, 4}, eight), f32({4, 2}, eight)}, outputs, 1, Guard::kAfter), "packed");
  CHECK_THROWS(run_step("gemm", attrs, {f32({4, 2}, eight), f32({64}, weights)}, outputs, 1, Guard::kAfter), "isn't k");
}

}  // namespace

int main() {
  test_sizes();
  test_choices();
  test_epilogues();
  test_empty();
  test_accuracy();
  test_errors();
  return 0;
}
