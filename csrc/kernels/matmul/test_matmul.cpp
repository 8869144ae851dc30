// matmul against the reference: transposition, broadcast batches, sizes around the tiles, every dtype.
#include "kernels/matmul/reference.h"
#include "kernels/support/number_formats.h"
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

using Ints = std::vector<int64_t>;

struct Case {
  Ints a_batch;
  Ints b_batch;
  int64_t m;
  int64_t n;
  int64_t k;
  bool trans_a = false;
  bool trans_b = false;
  double scale = 1;
  std::string activation = "none";
  int residual = 0;  // 1 before the activation, 2 after it
};

int64_t product(const Ints& values) {
  int64_t result = 1;
  for (int64_t v : values) result *= v;
  return result;
}

// Sizes, counted here independently of the kernel's own way.
struct Prepared {
  Attrs attrs;
  MatmulShape shape;
  Ints a_shape;
  Ints b_shape;
  Ints y_shape;
};

Prepared prepare(const Case& c) {
  Prepared r;
  r.attrs.set("trans_a", int64_t{c.trans_a});
  r.attrs.set("trans_b", int64_t{c.trans_b});
  r.attrs.set("scale", c.scale);
  r.attrs.set("activation", c.activation);
  r.attrs.set("alpha", c.activation == "clip" ? -0.4 : 0.3);
  r.attrs.set("beta", 0.7);
  r.attrs.set("residual_after", int64_t{c.residual == 2});
  MatmulShape& s = r.shape;
  s.m = c.m, s.n = c.n, s.k = c.k, s.trans_a = c.trans_a, s.trans_b = c.trans_b;
  r.a_shape = c.a_batch;
  r.b_shape = c.b_batch;
  const size_t rank = std::max(c.a_batch.size(), c.b_batch.size());
  s.batch_rank = static_cast<int>(rank);
  const auto dim = [rank](const Ints& dims, size_t axis) {
    const size_t missing = rank - dims.size();
    return axis < missing ? 1 : dims[axis - missing];
  };
  int64_t a_step = c.m * c.k;
  int64_t b_step = c.k * c.n;
  for (size_t axis = rank; axis-- > 0;) {
    const int64_t a = dim(c.a_batch, axis);
    const int64_t b = dim(c.b_batch, axis);
    s.batch_dims[axis] = a == 1 ? b : a;
    s.a_steps[axis] = a == 1 ? 0 : a_step;
    s.b_steps[axis] = b == 1 ? 0 : b_step;
    a_step *= a;
    b_step *= b;
    s.batch *= s.batch_dims[axis];
    r.y_shape.insert(r.y_shape.begin(), s.batch_dims[axis]);
  }
  r.a_shape.insert(r.a_shape.end(), {c.trans_a ? c.k : c.m, c.trans_a ? c.m : c.k});
  r.b_shape.insert(r.b_shape.end(), {c.trans_b ? c.n : c.k, c.trans_b ? c.k : c.n});
  r.y_shape.insert(r.y_shape.end(), {c.m, c.n});
  return r;
}

std::vector<double> widened(const std::vector<float>& x) { return {x.begin(), x.end()}; }

void check_matmul(const Case& c) {
  const Prepared r = prepare(c);
  Random random(static_cast<uint64_t>(c.m * 10007 + c.n * 101 + c.k));
  const auto a = random.floats(product(r.a_shape));
  const auto b = random.floats(product(r.b_shape));
  const bool with_bias = c.n % 2 == 0;
  const auto bias = with_bias ? random.floats(c.n) : std::vector<float>{};
  const auto residual = c.residual > 0 ? random.floats(product(r.y_shape)) : std::vector<float>{};
  const std::vector<Operand> inputs = {f32(r.a_shape, a), f32(r.b_shape, b), with_bias ? f32({c.n}, bias) : Operand{},
                                       c.residual > 0 ? f32(r.y_shape, residual) : Operand{}};
  const auto got = run_everywhere("matmul", r.attrs, inputs, r.y_shape);
  const auto want = reference::matmul(r.shape, widened(a), widened(b), c.scale, widened(bias), widened(residual),
                                      parse_epilogue(r.attrs));
  const double error = relative_error(got, want);
  if (error > kTolerance) {
    std::printf("m %ld n %ld k %ld trans %d %d: %g\n", long(c.m), long(c.n), long(c.k), c.trans_a, c.trans_b, error);
  }
  CHECK(error <= kTolerance);
}

void test_sizes() {
  for (bool trans_a : {false, true}) {
    for (bool trans_b : {false, true}) {
      for (int64_t m : {1, 2, 5, 8, 13, 25, 30}) {
        for (int64_t n : {1, 4, 15, 17, 34, 65}) {
          for (int64_t k : {1, 5, 16, 33}) check_matmul({{}, {}, m, n, k, trans_a, trans_b});
        }
      }
      check_matmul({{}, {}, 70, 90, 1100, trans_a, trans_b, 0.5, "gelu", 2});
      check_matmul({{}, {}, 40, 300, 2600, trans_a, trans_b, 2, "relu", 1});
      check_matmul({{}, {}, 20, 1024, 100, trans_a, trans_b, 1, "clip", 1});  // rows of B collide in the cache
      check_matmul({{}, {}, 33, 200, 1024, trans_a, trans_b, 0.25, "elu", 1});
      check_matmul({{}, {}, 300, 40, 30, trans_a, trans_b});
    }
  }
}

void test_batches() {
  for (bool trans_a : {false, true}) {
    for (bool trans_b : {false, true}) {
      check_matmul({{3}, {3}, 20, 19, 8, trans_a, trans_b});
      check_matmul({{2, 3}, {2, 3}, 33, 34, 20, trans_a, trans_b, 0.125, "leaky_relu", 1});
      check_matmul({{2, 3}, {1}, 9, 34, 20, trans_a, trans_b, 1, "relu", 1});
      check_matmul({{4}, {}, 40, 34, 20, trans_a, trans_b});
      check_matmul({{}, {5}, 9, 34, 20, trans_a, trans_b, 3});
      check_matmul({{2, 1}, {3}, 9, 34, 20, trans_a, trans_b});
      check_matmul({{1, 3, 1}, {2, 1, 2}, 30, 10, 7, trans_a, trans_b, 1, "none", 2});
      check_matmul({{12}, {12}, 128, 128, 64, trans_a, trans_b, 0.125});
    }
  }
}

// A matrix and a vector, on either side.
void test_vectors() {
  for (bool trans_a : {false, true}) {
    for (bool trans_b : {false, true}) {
      for (int64_t count : {1, 3, 4, 30, 301}) {
        for (int64_t k : {1, 7, 16, 40, 700}) {
          check_matmul({{}, {}, count, 1, k, trans_a, trans_b, 0.5, "relu", 1});
          check_matmul({{3}, {3}, 1, count, k, trans_a, trans_b, 2, "silu", 2});
        }
      }
    }
  }
}

void test_empty() {
  check_matmul({{}, {}, 0, 5, 4});
  check_matmul({{}, {}, 5, 0, 4});
  check_matmul({{0}, {0}, 5, 4, 4});
  check_matmul({{0}, {}, 5, 4, 4});
  for (bool trans : {false, true}) check_matmul({{2}, {2}, 5, 6, 0, trans, trans, 1, "sigmoid", 1});
}

template <class T, class Encode, class Decode>
void check_dtype(DType dtype, Encode encode, Decode decode, double tolerance, const std::string& activation) {
  for (bool trans : {false, true}) {
    const Prepared r = prepare({{2, 1}, {3}, 19, 7, 11, trans, !trans, 1, activation, 1});
    Random random(9);
    std::vector<T> values[4];
    std::vector<double> wide[4];
    const int64_t sizes[] = {product(r.a_shape), product(r.b_shape), 7, product(r.y_shape)};
    for (size_t i = 0; i < 4; ++i) {
      for (int64_t j = 0; j < sizes[i]; ++j) {
        values[i].push_back(encode(random));
        wide[i].push_back(static_cast<double>(decode(values[i].back())));
      }
    }
    std::vector<Operand> outputs = {{dtype, r.y_shape, {}}};
    run_step("matmul", r.attrs,
             {make_operand(dtype, r.a_shape, values[0]), make_operand(dtype, r.b_shape, values[1]),
              make_operand(dtype, {7}, values[2]), make_operand(dtype, r.y_shape, values[3])},
             outputs, 2, Guard::kAfter);
    const auto want = reference::matmul(r.shape, wide[0], wide[1], 1, wide[2], wide[3], parse_epilogue(r.attrs));
    const auto got = values_of<T>(outputs[0]);
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK(std::abs(static_cast<double>(decode(got[i])) - want[i]) <= tolerance * (1 + std::abs(want[i])));
    }
  }
}

void test_dtypes() {
  using support::BF16;
  using support::F16;
  const auto same = [](auto v) { return v; };
  check_dtype<double>(DType::kF64, [](Random& r) { return static_cast<double>(r.uniform()); }, same, 1e-14, "tanh");
  // half an ulp of the element type
  check_dtype<F16>(
      DType::kF16, [](Random& r) { return support::encode<F16>(static_cast<double>(r.uniform())); },
      [](F16 v) { return support::decode(v); }, 5e-4, "relu");
  check_dtype<BF16>(
      DType::kBF16, [](Random& r) { return support::encode<BF16>(static_cast<double>(r.uniform())); },
      [](BF16 v) { return support::decode(v); }, 4e-3, "none");
  check_dtype<int32_t>(
      DType::kI32, [](Random& r) { return static_cast<int32_t>(r.below(2000) - 1000); }, same, 0, "none");
  check_dtype<uint32_t>(DType::kU32, [](Random& r) { return static_cast<uint32_t>(r.below(9000)); }, same, 0, "none");
  check_dtype<int64_t>(DType::kI64, [](Random& r) { return r.below(2000000) - 1000000; }, same, 0, "none");
  check_dtype<uint64_t>(
      DType::kU64, [](Random& r) { return static_cast<uint64_t>(r.below(2000000)); }, same, 0, "none");
}

// Integers wrap around; they are neither scaled nor activated.
void test_integers() {
  Prepared r = prepare({{}, {}, 1, 1, 1});
  std::vector<Operand> outputs = {{DType::kI32, {1, 1}, {}}};
  const auto one = make_operand<int32_t>(DType::kI32, {1, 1}, {1 << 20});
  run_step("matmul", r.attrs, {one, make_operand<int32_t>(DType::kI32, {1, 1}, {(1 << 12) + 3})}, outputs, 1,
           Guard::kAfter);
  CHECK(values_of<int32_t>(outputs[0])[0] == 3 << 20);
  r.attrs.set("activation", std::string("relu"));
  CHECK_THROWS(run_step("matmul", r.attrs, {one, one}, outputs, 1, Guard::kAfter), "integers can't");
}

// NaN and infinity of rows and columns that are computed stay there: padding must not spread them.
void test_specials() {
  const Prepared r = prepare({{}, {}, 30, 21, 5});
  Random random(1);
  auto a = random.floats(150);
  auto b = random.floats(105);
  a[7] = std::numeric_limits<float>::quiet_NaN();
  b[20] = std::numeric_limits<float>::infinity();
  const auto got = run_everywhere("matmul", r.attrs, {f32(r.a_shape, a), f32(r.b_shape, b)}, r.y_shape);
  CHECK(relative_error(got, reference::matmul(r.shape, widened(a), widened(b), 1, {}, {}, Epilogue{})) <= kTolerance);
}

void test_errors() {
  Attrs attrs;
  std::vector<Operand> outputs = {{DType::kF32, {2, 2}, {}}};
  const Operand x = f32({2, 3}, std::vector<float>(6));
  CHECK_THROWS(run_step("matmul", attrs, {x, x}, outputs, 1, Guard::kAfter), "agree on K");
  const Operand y = f32({2, 2, 2}, std::vector<float>(8));
  const Operand z = f32({3, 2, 2}, std::vector<float>(12));
  CHECK_THROWS(run_step("matmul", attrs, {y, z}, outputs, 1, Guard::kAfter), "broadcast");
}

}  // namespace

int main() {
  test_sizes();
  test_batches();
  test_vectors();
  test_empty();
  test_dtypes();
  test_integers();
  test_specials();
  test_errors();
  return 0;
}
