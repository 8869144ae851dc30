// max_pool, average_pool and lp_pool against the reference, in every element type.
#include <functional>

#include "kernels/pool/reference.h"
#include "kernels/support/number_formats.h"
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

using Ints = std::vector<int64_t>;

struct Case {
  int64_t batch;
  Ints in;
  int64_t channels;
  Ints kernel;
  Ints strides;
  Ints dilations;
  Ints pads;
  bool ceil_mode = false;
  bool count_padding = false;
  int64_t p = 2;
};

struct Prepared {
  Attrs attrs;
  reference::PoolProblem problem;
  Ints x_shape;
  Ints y_shape;
};

int64_t product(const Ints& values) {
  int64_t result = 1;
  for (int64_t v : values) result *= v;
  return result;
}

Prepared prepare(const Case& c) {
  Prepared r;
  r.attrs.set("kernel_shape", c.kernel);
  r.attrs.set("strides", c.strides);
  r.attrs.set("dilations", c.dilations);
  r.attrs.set("pads", c.pads);
  r.attrs.set("ceil_mode", int64_t{c.ceil_mode});
  r.attrs.set("count_include_pad", int64_t{c.count_padding});
  r.attrs.set("p", c.p);
  const Window w = parse_window(r.attrs, "test");
  r.problem.batch = c.batch;
  r.problem.channels = c.channels;
  r.problem.window = w;
  r.problem.p = c.p;
  r.problem.count_padding = c.count_padding;
  r.x_shape = r.y_shape = {c.batch};
  for (size_t i = 0; i < c.in.size(); ++i) {
    const size_t axis = 3 - c.in.size() + i;
    const int64_t room = c.in[i] + w.begin[axis] + w.end[axis] - w.extent(axis);
    const double windows = static_cast<double>(room) / static_cast<double>(w.stride[axis]);
    auto out = static_cast<int64_t>(c.ceil_mode ? std::ceil(windows) : std::floor(windows)) + 1;
    if (c.ceil_mode && (out - 1) * w.stride[axis] >= c.in[i] + w.begin[axis]) --out;
    r.problem.in[axis] = c.in[i];
    r.problem.out[axis] = out;
    r.x_shape.push_back(c.in[i]);
    r.y_shape.push_back(out);
  }
  r.x_shape.push_back(c.channels);
  r.y_shape.push_back(c.channels);
  return r;
}

std::vector<double> widened(const std::vector<float>& x) { return {x.begin(), x.end()}; }

void check_pool(const std::string& step, const Case& c) {
  const Prepared r = prepare(c);
  Random random(static_cast<uint64_t>(c.channels));
  const auto x = random.floats(product(r.x_shape));
  const auto got = run_everywhere(step, r.attrs, {f32(r.x_shape, x)}, r.y_shape);
  const double error = relative_error(got, reference::pool(step, r.problem, widened(x), nullptr));
  if (error > kTolerance) std::printf("%s channels %ld: %g\n", step.c_str(), long(c.channels), error);
  CHECK(error <= kTolerance);
}

void test_windows() {
  for (const char* step : {"max_pool", "average_pool", "lp_pool"}) {
    for (int64_t channels : {1, 3, 8, 15, 16, 17, 40, 64, 67, 130}) {
      check_pool(step, {2, {9, 13}, channels, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}});
      check_pool(step, {1, {9, 13}, channels, {3, 3}, {1, 1}, {1, 1}, {1, 0, 0, 2}, false, true});
      check_pool(step, {1, {10, 12}, channels, {3, 2}, {2, 3}, {1, 1}, {0, 0, 0, 0}, true});
      check_pool(step, {1, {7, 7}, channels, {7, 7}, {7, 7}, {1, 1}, {0, 0, 0, 0}});
      check_pool(step, {1, {10, 12}, channels, {3, 2}, {2, 1}, {2, 4}, {1, 1, 2, 2}, true, true});
    }
    // windows that overhang both the input and its padding, or begin behind the input
    check_pool(step, {1, {5, 8}, 20, {2, 3}, {3, 4}, {1, 1}, {0, 1, 1, 1}, true, true});
    check_pool(step, {1, {2, 2}, 5, {2, 2}, {2, 2}, {1, 1}, {0, 0, 1, 1}, true, false});
    check_pool(step, {3, {19}, 20, {4}, {3}, {1}, {2, 1}, true});
    check_pool(step, {1, {4, 5, 6}, 18, {2, 3, 2}, {1, 2, 2}, {1, 1, 1}, {1, 1, 0, 0, 1, 1}, false, true});
    check_pool(step, {1, {1, 40}, 12, {1, 5}, {1, 2}, {1, 1}, {0, 2, 0, 2}});
    check_pool(step, {0, {5, 5}, 8, {2, 2}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
    check_pool(step, {1, {5, 5}, 0, {2, 2}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
  }
  check_pool("lp_pool", {1, {9, 9}, 20, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, false, false, 1});
  check_pool("lp_pool", {1, {9, 9}, 20, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, false, false, 3});
}

// A window of padding alone: -inf, and 0 / 0.
void test_only_padding() {
  const Case c{1, {3, 3}, 18, {2, 2}, {2, 2}, {1, 1}, {3, 3, 3, 3}};
  check_pool("max_pool", c);
  check_pool("average_pool", c);
  check_pool("lp_pool", c);
}

void test_specials() {
  const Prepared r = prepare({1, {6, 6}, 17, {2, 2}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
  Random random(7);
  auto x = random.floats(product(r.x_shape));
  const float specials[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()};
  for (size_t i = 0; i < x.size(); i += 3) x[i] = specials[i % 9 / 3];
  for (const char* step : {"max_pool", "average_pool"}) {
    const auto got = run_everywhere(step, r.attrs, {f32(r.x_shape, x)}, r.y_shape);
    CHECK(relative_error(got, reference::pool(step, r.problem, widened(x), nullptr)) <= kTolerance);
  }
}

void test_indices() {
  for (bool column_major : {false, true}) {
    for (const Case& c : {Case{2, {6, 7}, 5, {3, 2}, {2, 1}, {1, 1}, {1, 1, 1, 0}},
                          Case{1, {4, 5, 3}, 3, {2, 2, 2}, {1, 2, 1}, {1, 1, 2}, {0, 1, 1, 1, 0, 0}, true},
                          Case{2, {20}, 4, {3}, {2}, {3}, {3, 3}}}) {
      Prepared r = prepare(c);
      r.attrs.set("storage_order", int64_t{column_major});
      r.problem.column_major = column_major;
      Random random(11);
      std::vector<float> x(static_cast<size_t>(product(r.x_shape)));
      for (float& v : x) v = static_cast<float>(random.below(5));  // many ties
      std::vector<Operand> outputs = {{DType::kF32, r.y_shape, {}}, {DType::kI64, r.y_shape, {}}};
      run_step("max_pool", r.attrs, {f32(r.x_shape, x)}, outputs, 2, Guard::kAfter);
      // 1-d and 2-d images are 3-d with leading ones, which column-major order doesn't change.
      std::vector<int64_t> want_indices;
      const auto want = reference::pool("max_pool", r.problem, widened(x), &want_indices);
      CHECK(relative_error(values_of<float>(outputs[0]), want) == 0);
      CHECK(values_of<int64_t>(outputs[1]) == want_indices);
    }
  }
}

template <class T>
void check_dtype(DType dtype, const std::string& step, const std::vector<T>& x, const std::vector<double>& wide,
                 const std::function<double(T)>& decode, double tolerance) {
  const Prepared r = prepare({1, {6, 7}, 5, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}});
  std::vector<Operand> outputs = {{dtype, r.y_shape, {}}};
  run_step(step, r.attrs, {make_operand(dtype, r.x_shape, x)}, outputs, 2, Guard::kAfter);
  const auto want = reference::pool(step, r.problem, wide, nullptr);
  const auto got = values_of<T>(outputs[0]);
  for (size_t i = 0; i < got.size(); ++i) CHECK(std::abs(decode(got[i]) - want[i]) <= tolerance * std::abs(want[i]));
}

void test_dtypes() {
  constexpr int64_t kCount = 6 * 7 * 5;
  Random random(3);
  std::vector<double> f64;
  std::vector<support::F16> f16;
  std::vector<support::BF16> bf16;
  std::vector<int8_t> i8;
  std::vector<uint8_t> u8;
  std::vector<double> wide[5];
  for (int64_t i = 0; i < kCount; ++i) {
    const float v = random.uniform(0.5F, 2);
    f64.push_back(static_cast<double>(v));
    f16.push_back(support::encode<support::F16>(static_cast<double>(v)));
    bf16.push_back(support::encode<support::BF16>(static_cast<double>(v)));
    i8.push_back(static_cast<int8_t>(random.below(256) - 128));
    u8.push_back(static_cast<uint8_t>(random.below(256)));
    wide[0].push_back(f64.back());
    wide[1].push_back(static_cast<double>(support::decode(f16.back())));
    wide[2].push_back(static_cast<double>(support::decode(bf16.back())));
    wide[3].push_back(i8.back());
    wide[4].push_back(u8.back());
  }
  for (const char* step : {"max_pool", "average_pool", "lp_pool"}) {
    // half an ulp of the element type
    check_dtype<double>(DType::kF64, step, f64, wide[0], [](double v) { return v; }, 1e-14);
    check_dtype<support::F16>(
        DType::kF16, step, f16, wide[1], [](support::F16 v) { return static_cast<double>(support::decode(v)); }, 5e-4);
    check_dtype<support::BF16>(
        DType::kBF16, step, bf16, wide[2], [](support::BF16 v) { return static_cast<double>(support::decode(v)); },
        4e-3);
  }
  check_dtype<int8_t>(DType::kI8, "max_pool", i8, wide[3], [](int8_t v) { return double{static_cast<double>(v)}; }, 0);
  check_dtype<uint8_t>(
      DType::kU8, "max_pool", u8, wide[4], [](uint8_t v) { return double{static_cast<double>(v)}; }, 0);
}

void test_errors() {
  const Prepared r = prepare({1, {6, 7}, 5, {3, 3}, {2, 2}, {1, 1}, {0, 0, 0, 0}});
  const Operand x = f32(r.x_shape, std::vector<float>(static_cast<size_t>(product(r.x_shape))));
  std::vector<Operand> outputs = {{DType::kF32, {1, 3, 3, 5}, {}}};
  CHECK_THROWS(run_step("max_pool", r.attrs, {x}, outputs, 1, Guard::kAfter), "wrong spatial size");
  outputs = {{DType::kF32, r.y_shape, {}}, {DType::kI32, r.y_shape, {}}};
  CHECK_THROWS(run_step("max_pool", r.attrs, {x}, outputs, 1, Guard::kAfter), "Indices must be int64");
}

}  // namespace

int main() {
  test_windows();
  test_only_padding();
  test_specials();
  test_indices();
  test_dtypes();
  test_errors();
  return 0;
}
