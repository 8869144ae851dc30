// conv_nd_plain in every float type against the reference.
#include <functional>

#include "kernels/conv/reference.h"
#include "kernels/support/number_formats.h"
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::test;
using support::BF16;
using support::F16;

namespace {

// The same values channels-last and channels-first: x[n][s][c] to x[n][c][s].
std::vector<float> channels_first(const std::vector<float>& x, int64_t batch, int64_t positions, int64_t channels) {
  std::vector<float> y(x.size());
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t s = 0; s < positions; ++s) {
      for (int64_t c = 0; c < channels; ++c) {
        y[static_cast<size_t>((n * channels + c) * positions + s)] =
            x[static_cast<size_t>((n * positions + s) * channels + c)];
      }
    }
  }
  return y;
}

template <class T>
void check_dtype(DType dtype, const std::function<T(float)>& encode, const std::function<double(T)>& decode,
                 double tolerance) {
  Attrs attrs;
  attrs.set("kernel_shape", std::vector<int64_t>{3, 2});
  attrs.set("strides", std::vector<int64_t>{2, 1});
  attrs.set("dilations", std::vector<int64_t>{1, 3});
  attrs.set("pads", std::vector<int64_t>{1, 2, 0, 1});
  attrs.set("group", int64_t{2});
  attrs.set("activation", std::string("relu"));
  reference::ConvProblem p{2, {1, 7, 8}, {1, 3, 8}, 6, 4, 2, parse_window(attrs, "test")};
  Random random(5);
  const auto rounded = [&](std::vector<float> values) {
    for (float& v : values) v = static_cast<float>(decode(encode(v)));
    return values;
  };
  const auto encoded = [&](const std::vector<float>& values) {
    std::vector<T> result;
    for (float v : values) result.push_back(encode(v));
    return result;
  };
  const auto x = rounded(random.floats(2 * 56 * 6));
  const auto w = rounded(random.floats(4 * 3 * 6));
  const auto bias = rounded(random.floats(4));
  std::vector<Operand> outputs = {{dtype, {2, 4, 3, 8}, {}}};
  run_step("conv_nd_plain", attrs,
           {make_operand(dtype, {2, 6, 7, 8}, encoded(channels_first(x, 2, 56, 6))),
            make_operand(dtype, {4, 3, 3, 2}, encoded(w)), make_operand(dtype, {4}, encoded(bias))},
           outputs, 2, Guard::kAfter);
  const auto want = reference::conv(p, x, w, bias, {}, parse_epilogue(attrs));
  const auto got = values_of<T>(outputs[0]);
  CHECK(got.size() == want.size());
  for (int64_t n = 0; n < 2; ++n) {
    for (int64_t s = 0; s < 24; ++s) {
      for (int64_t o = 0; o < 4; ++o) {
        const double expected = want[static_cast<size_t>((n * 24 + s) * 4 + o)];
        const double value = decode(got[static_cast<size_t>((n * 4 + o) * 24 + s)]);
        CHECK(std::abs(value - expected) <= tolerance * (1 + std::abs(expected)));
      }
    }
  }
}

}  // namespace

int main() {
  // float32 sums of 19 terms, rounded once to the element type
  check_dtype<float>(DType::kF32, [](float v) { return v; }, [](float v) { return static_cast<double>(v); }, 1e-6);
  check_dtype<double>(DType::kF64, [](float v) { return static_cast<double>(v); }, [](double v) { return v; }, 1e-14);
  check_dtype<F16>(
      DType::kF16, [](float v) { return support::encode<F16>(static_cast<double>(v)); },
      [](F16 v) { return static_cast<double>(support::decode(v)); }, 6e-4);
  check_dtype<BF16>(
      DType::kBF16, [](float v) { return support::encode<BF16>(static_cast<double>(v)); },
      [](BF16 v) { return static_cast<double>(support::decode(v)); }, 5e-3);
  return 0;
}
