// rotary_embedding against plain loops: both pairings, part of the features, positions, heads among the features.
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

struct Problem {
  int64_t batch = 1, heads = 1, length = 1, size = 2, width = 2;
  bool interleaved = false;
};

struct Data {
  std::vector<float> x, c, s;
};

Data make_data(const Problem& p, int64_t rows) {
  Random random(static_cast<uint64_t>(p.length * 7 + p.size));
  Data d;
  d.x = random.floats(p.batch * p.heads * p.length * p.size);
  d.c = random.floats(rows * p.width / 2);
  d.s = random.floats(rows * p.width / 2);
  return d;
}

// row(b, s): which row of angles
template <class Row>
std::vector<double> expected(const Problem& p, const Data& d, const Row& row) {
  std::vector<double> y(d.x.begin(), d.x.end());
  const int64_t half = p.width / 2;
  for (int64_t i = 0; i < p.batch * p.heads * p.length; ++i) {
    const int64_t at = row(i / (p.heads * p.length), i % p.length) * half;
    for (int64_t j = 0; j < half; ++j) {
      const auto first = static_cast<size_t>(i * p.size + (p.interleaved ? 2 * j : j));
      const auto second = static_cast<size_t>(i * p.size + (p.interleaved ? 2 * j + 1 : j + half));
      const double c = static_cast<double>(d.c[static_cast<size_t>(at + j)]);
      const double s = static_cast<double>(d.s[static_cast<size_t>(at + j)]);
      const double a = static_cast<double>(d.x[first]);
      const double b = static_cast<double>(d.x[second]);
      y[first] = c * a - s * b;
      y[second] = s * a + c * b;
    }
  }
  return y;
}

Attrs make_attrs(const Problem& p) {
  Attrs attrs;
  attrs.set("interleaved", int64_t{p.interleaved});
  attrs.set("width", p.width == p.size ? int64_t{0} : p.width);
  return attrs;
}

void check(const Problem& p) {
  const std::vector<int64_t> shape = {p.batch, p.heads, p.length, p.size};
  const Data d = make_data(p, p.batch * p.length);
  const Operand x = f32(shape, d.x);
  const int64_t half = p.width / 2;
  const auto every = [&](int64_t b, int64_t s) { return b * p.length + s; };
  const auto shared = [](int64_t, int64_t s) { return s; };
  const auto one = [](int64_t, int64_t) { return int64_t{0}; };
  const auto run = [&](const Operand& c, const Operand& s) {
    return run_everywhere("rotary_embedding", make_attrs(p), {x, c, s}, shape);
  };
  const std::vector<int64_t> all = {p.batch, p.length, half};
  CHECK(relative_error(run(f32(all, d.c), f32(all, d.s)), expected(p, d, every)) < 1e-6);
  const auto part = [&](const std::vector<float>& v, int64_t rows) {
    return f32({1, rows, half}, std::vector<float>(v.begin(), v.begin() + rows * half));
  };
  CHECK(relative_error(run(part(d.c, p.length), part(d.s, p.length)), expected(p, d, shared)) < 1e-6);
  CHECK(relative_error(run(part(d.c, 1), part(d.s, 1)), expected(p, d, one)) < 1e-6);
  // positions: every row its own angles, backwards
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < p.batch * p.length; ++i) positions.push_back(p.batch * p.length - 1 - i);
  const Operand at = make_operand(DType::kI64, {p.batch, p.length}, positions);
  const Operand c = f32({p.batch * p.length, half}, d.c);
  const Operand s = f32({p.batch * p.length, half}, d.s);
  const auto back = [&](int64_t b, int64_t i) { return p.batch * p.length - 1 - every(b, i); };
  const auto turned = run_everywhere("rotary_embedding", make_attrs(p), {x, c, s, at}, shape);
  CHECK(relative_error(turned, expected(p, d, back)) < 1e-6);
  // heads among the features, before and after
  const int64_t step = p.size + 3;
  std::vector<float> wide(static_cast<size_t>(p.batch * p.length * (p.heads * step + 2)), 7.0F);
  std::vector<float> flat(turned.size());
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t h = 0; h < p.heads; ++h) {
      for (int64_t i = 0; i < p.length; ++i) {
        for (int64_t j = 0; j < p.size; ++j) {
          const auto from = static_cast<size_t>(((b * p.heads + h) * p.length + i) * p.size + j);
          const int64_t row = b * p.length + i;
          wide[static_cast<size_t>(row * (p.heads * step + 2) + 2 + h * step + j)] = d.x[from];
          flat[static_cast<size_t>((row * p.heads + h) * p.size + j)] = turned[from];
        }
      }
    }
  }
  Attrs attrs = make_attrs(p);
  attrs.set("heads", p.heads);
  attrs.set("size", p.size);
  attrs.set("begin", int64_t{2});
  attrs.set("step", step);
  const Operand features = f32({p.batch, p.length, p.heads * step + 2}, wide);
  CHECK(run_everywhere("rotary_embedding", attrs, {features, c, s, at}, shape) == turned);
  CHECK(run_everywhere("rotary_embedding", attrs, {features, c, s, at}, {p.batch, p.length, p.heads * p.size}) == flat);
}

void test_empty() {
  const Operand x = f32({0, 2, 3, 4}, {});
  const Operand angles = f32({1, 3, 2}, std::vector<float>(6));
  CHECK(run_everywhere("rotary_embedding", {}, {x, angles, angles}, {0, 2, 3, 4}).empty());
}

void test_errors() {
  const Operand x = f32({1, 1, 2, 4}, std::vector<float>(8));
  const Operand angles = f32({3, 2}, std::vector<float>(6));
  std::vector<Operand> outputs = {{DType::kF32, {1, 1, 2, 4}, {}}};
  const Operand wild = make_operand(DType::kI64, {1, 2}, std::vector<int64_t>{0, 3});
  CHECK_THROWS(run_step("rotary_embedding", {}, {x, angles, angles, wild}, outputs, 1, Guard::kAfter), "position 3");
  const Operand few = f32({1, 2, 1}, std::vector<float>(2));
  CHECK_THROWS(run_step("rotary_embedding", {}, {x, few, few}, outputs, 1, Guard::kAfter), "don't fit");
  const Operand rows = f32({1, 3, 2}, std::vector<float>(6));
  CHECK_THROWS(run_step("rotary_embedding", {}, {x, rows, rows}, outputs, 1, Guard::kAfter), "every row");
}

}  // namespace

int main() {
  for (bool interleaved : {false, true}) {
    check({1, 1, 1, 2, 2, interleaved});
    check({2, 3, 5, 8, 8, interleaved});
    check({2, 2, 7, 64, 64, interleaved});
    check({1, 4, 130, 80, 32, interleaved});
    check({3, 2, 4, 6, 2, interleaved});
  }
  test_empty();
  test_errors();
  return 0;
}
