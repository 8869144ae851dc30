// attention against the reference: sizes around the blocks, masks of every shape, causal, windows, GQA.
#include "kernels/attention/reference.h"
#include "kernels/gemm/amx.h"
#include "kernels_dense.h"

namespace graphopt {
extern const TileRegisters tile_registers_emulated;
}  // namespace graphopt

using namespace graphopt;
using namespace graphopt::test;

namespace {

using Problem = reference::AttentionProblem;
using Ints = std::vector<int64_t>;

constexpr double kHidden = -std::numeric_limits<double>::infinity();

Attrs make_attrs(const Problem& p) {
  Attrs attrs;
  attrs.set("scale", p.scale);
  attrs.set("softcap", p.softcap);
  attrs.set("causal", int64_t{p.causal});
  attrs.set("causal_offset", p.causal_offset);
  attrs.set("left_window", p.left_window);
  attrs.set("right_window", p.right_window);
  return attrs;
}

struct Data {
  std::vector<float> q, k, v;
  std::vector<Operand> operands;
};

Data make_data(const Problem& p, float size = 1) {
  Random random(static_cast<uint64_t>(p.queries * 131 + p.keys));
  Data d;
  d.q = random.floats(p.batch * p.heads * p.queries * p.size, -size, size);
  d.k = random.floats(p.batch * p.key_heads * p.keys * p.size, -size, size);
  d.v = random.floats(p.batch * p.key_heads * p.keys * p.value_size);
  d.operands = {f32({p.batch, p.heads, p.queries, p.size}, d.q), f32({p.batch, p.key_heads, p.keys, p.size}, d.k),
                f32({p.batch, p.key_heads, p.keys, p.value_size}, d.v)};
  return d;
}

// mask: an operand that broadcasts, or an absent one.
void check_attention(const Problem& p, const Operand& mask = {}, float size = 1) {
  Data d = make_data(p, size);
  std::vector<double> bias(static_cast<size_t>(p.batch * p.heads * p.queries * p.keys), 0.0);
  if (mask.dtype != DType::kUndefined) {
    d.operands.push_back(mask);
    Ints shape(4 - mask.shape.size(), 1);
    shape.insert(shape.end(), mask.shape.begin(), mask.shape.end());
    const int64_t sizes[] = {p.batch, p.heads, p.queries, p.keys};
    const auto floats = mask.dtype == DType::kF32 ? values_of<float>(mask) : std::vector<float>{};
    for (size_t i = 0; i < bias.size(); ++i) {
      auto rest = static_cast<int64_t>(i);
      int64_t at = 0;
      int64_t step = 1;
      for (size_t axis = 4; axis-- > 0;) {
        const int64_t index = rest % sizes[axis];
        rest /= sizes[axis];
        if (shape[axis] != 1) at += index * step;
        step *= shape[axis];
      }
      const auto from = static_cast<size_t>(at);
      bias[i] = mask.dtype == DType::kF32 ? static_cast<double>(floats[from])
                                          : (mask.bytes[from] == std::byte{0} ? kHidden : 0.0);
    }
  }
  const auto got = run_everywhere("attention", make_attrs(p), d.operands, {p.batch, p.heads, p.queries, p.value_size});
  const double error = relative_error(got, reference::attention(p, d.q, d.k, d.v, bias));
  if (error > kTolerance)
    std::printf("queries %ld keys %ld size %ld: %g\n", long(p.queries), long(p.keys), long(p.size), error);
  CHECK(error <= kTolerance);
}

Operand random_mask(const Ints& shape, bool boolean, uint64_t seed) {
  int64_t count = 1;
  for (int64_t d : shape) count *= d;
  Random random(seed);
  if (boolean) {
    std::vector<uint8_t> keep(static_cast<size_t>(count));
    for (uint8_t& b : keep) b = random.below(3) != 0;
    return make_operand(DType::kBool, shape, keep);
  }
  std::vector<float> added = random.floats(count, -2, 2);
  for (size_t i = 0; i < added.size(); i += 5) added[i] = -std::numeric_limits<float>::infinity();
  return f32(shape, added);
}

// Products on bfloat16: within its rounding of the same in float32, whatever the sizes.
void check_rounded(const Problem& p) {
  const Data d = make_data(p);
  Attrs attrs = make_attrs(p);
  const Ints shape{p.batch, p.heads, p.queries, p.value_size};
  const auto want = run_everywhere("attention", attrs, d.operands, shape);
  attrs.set("bf16", int64_t{1});
  const auto got = run_everywhere("attention", attrs, d.operands, shape);
  const double error = relative_error(got, {want.begin(), want.end()});
  CHECK(error <= 1e-2 && (error > 0 || p.queries * p.heads / p.key_heads <= 2));
}

void test_rounded() {
  for (int64_t queries : {1, 3, 12, 17, 100}) {
    for (int64_t keys : {1, 2, 15, 16, 33, 255, 257, 600}) {
      check_rounded({1, 2, 2, queries, keys, 8, 8, 0.35});
      check_rounded({2, 2, 1, queries, keys, 21, 19, 0.2, 3.0, true});
    }
  }
  check_rounded({1, 3, 3, 197, 197, 64, 64, 0.125});
  check_rounded({1, 1, 1, 30, 40, 260, 130, 0.06});
}

void test_sizes() {
  for (int64_t queries : {1, 3, 12, 17, 100}) {
    for (int64_t keys : {1, 2, 15, 16, 33, 255, 256, 257, 600}) {
      check_attention({1, 2, 2, queries, keys, 8, 8, 0.35});
      check_attention({2, 2, 1, queries, keys, 20, 19, 0.2, 3.0, true});
    }
  }
  check_attention({1, 12, 12, 128, 128, 64, 64, 0.125});
  check_attention({1, 3, 3, 197, 197, 64, 64, 0.125});
  check_attention({1, 5, 5, 7, 9, 1, 1, 1});
  check_attention({1, 1, 1, 30, 40, 260, 130, 0.06});
}

void test_masks() {
  for (bool boolean : {false, true}) {
    uint64_t seed = 1;
    for (const Ints& shape :
         {Ints{2, 4, 9, 300}, {1, 1, 9, 300}, {2, 1, 1, 300}, {9, 300}, {300}, {4, 1, 300}, {4, 9, 300}}) {
      check_attention({2, 4, 2, 9, 300, 16, 16, 0.25}, random_mask(shape, boolean, ++seed));
      check_attention({2, 4, 4, 9, 300, 16, 16, 0.25, 0, true, 100}, random_mask(shape, boolean, ++seed));
    }
  }
  check_attention({2, 4, 2, 9, 30, 16, 16, 0.25}, f32({2, 4, 9, 1}, Random(4).floats(72)));
  check_attention({2, 4, 2, 9, 30, 16, 16, 0.25}, f32({}, {1.5F}));
}

void test_windows() {
  for (int64_t offset : {0, 5, 290}) {
    for (int64_t left : {-1, 0, 7, 270}) {
      for (int64_t right : {-1, 0, 3}) check_attention({1, 2, 1, 50, 340, 8, 8, 0.3, 0, false, offset, left, right});
      check_attention({1, 2, 1, 50, 340, 8, 8, 0.3, 0, true, offset, left});
    }
  }
}

// Large scores, and rows that see no key at all: NaN, as softmax of nothing but -inf is; or zero on demand.
void test_extremes() {
  check_attention({1, 2, 2, 20, 300, 16, 16, 1}, {}, 30);
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> added(4 * 300, 0);
  std::fill_n(added.begin() + 300, 300, -inf);  // query 1: all
  std::fill_n(added.begin() + 600, 260, -inf);  // query 2: the first block
  const Operand mask = f32({4, 300}, added);
  const Problem p{1, 1, 1, 4, 300, 8, 8, 0.3};
  check_attention(p, mask);
  Attrs attrs = make_attrs(p);
  attrs.set("zero_masked_rows", int64_t{1});
  Data d = make_data(p);
  d.operands.push_back(mask);
  const auto y = run_everywhere("attention", attrs, d.operands, {1, 1, 4, 8});
  for (size_t i = 0; i < y.size(); ++i) CHECK(i / 8 == 1 ? y[i] == 0 : std::isfinite(y[i]) && y[i] != 0);
  // a NaN spoils its own row only
  d = make_data(p);
  d.q[9] = std::numeric_limits<float>::quiet_NaN();
  d.operands[0] = f32({1, 1, 4, 8}, d.q);
  const auto z = run_everywhere("attention", make_attrs(p), d.operands, {1, 1, 4, 8});
  for (size_t i = 0; i < z.size(); ++i) CHECK(std::isnan(z[i]) == (i / 8 == 1));
}

// [batch, heads, length, size] written to [batch, length, features] from feature `begin` on.
void put_heads(const std::vector<float>& x, const Ints& shape, int64_t begin, int64_t features,
               std::vector<float>& to) {
  size_t from = 0;
  for (int64_t b = 0; b < shape[0]; ++b) {
    for (int64_t h = 0; h < shape[1]; ++h) {
      for (int64_t s = 0; s < shape[2]; ++s) {
        const int64_t at = (b * shape[2] + s) * features + begin + h * shape[3];
        for (int64_t i = 0; i < shape[3]; ++i) to[static_cast<size_t>(at + i)] = x[from++];
      }
    }
  }
}

// Queries, keys and values of a head lie side by side.
void test_interleaved(const Problem& p, const Data& d, const std::vector<float>& heads) {
  if (p.heads != p.key_heads) return;
  const int64_t step = 2 * p.size + p.value_size;
  std::vector<float> all(static_cast<size_t>(p.batch * p.queries * p.heads * step));
  for (int64_t h = 0; h < p.heads; ++h) {
    for (int64_t b = 0; b < p.batch; ++b) {
      for (int64_t s = 0; s < p.queries; ++s) {
        const auto from = static_cast<size_t>((b * p.heads + h) * p.queries + s);
        const auto to = static_cast<size_t>(((b * p.queries + s) * p.heads + h) * step);
        const auto size = static_cast<size_t>(p.size);
        const auto value_size = static_cast<size_t>(p.value_size);
        std::copy_n(d.q.data() + from * size, size, all.data() + to);
        std::copy_n(d.k.data() + from * size, size, all.data() + to + size);
        std::copy_n(d.v.data() + from * value_size, value_size, all.data() + to + 2 * size);
      }
    }
  }
  Attrs attrs = make_attrs(p);
  attrs.set("heads", p.heads);
  attrs.set("key_heads", p.key_heads);
  attrs.set("size", p.size);
  attrs.set("value_size", p.value_size);
  attrs.set("k_begin", p.size);
  attrs.set("v_begin", 2 * p.size);
  for (const char* name : {"q_step", "k_step", "v_step"}) attrs.set(name, step);
  const Operand packed = f32({p.batch, p.queries, p.heads * step}, all);
  CHECK(run_everywhere("attention", attrs, {packed, packed, packed}, {p.batch, p.heads, p.queries, p.value_size}) ==
        heads);
}

// One tensor that holds queries, keys and values, heads among the features, or any of the three so.
void test_features() {
  for (const Problem& p : {Problem{2, 4, 2, 9, 9, 16, 8, 0.25}, Problem{1, 3, 3, 130, 130, 20, 20, 0.2, 0, true},
                           Problem{2, 2, 1, 1, 1, 8, 8, 0.3}, Problem{3, 8, 1, 40, 40, 4, 6, 0.5}}) {
    const Data d = make_data(p);
    const Ints q_shape = {p.batch, p.heads, p.queries, p.size};
    const Ints k_shape = {p.batch, p.key_heads, p.keys, p.size};
    const Ints v_shape = {p.batch, p.key_heads, p.keys, p.value_size};
    const int64_t k_begin = 3 + p.heads * p.size;
    const int64_t v_begin = k_begin + p.key_heads * p.size;
    const int64_t features = v_begin + p.key_heads * p.value_size + 2;
    std::vector<float> all(static_cast<size_t>(p.batch * p.queries * features), 9.0F);
    put_heads(d.q, q_shape, 3, features, all);
    put_heads(d.k, k_shape, k_begin, features, all);
    put_heads(d.v, v_shape, v_begin, features, all);
    const Operand packed = f32({p.batch, p.queries, features}, all);
    const Ints y_shape = {p.batch, p.queries, p.heads * p.value_size};
    const auto heads =
        run_everywhere("attention", make_attrs(p), d.operands, {p.batch, p.heads, p.queries, p.value_size});
    std::vector<float> y(heads.size());
    put_heads(heads, {p.batch, p.heads, p.queries, p.value_size}, 0, p.heads * p.value_size, y);
    Attrs attrs = make_attrs(p);
    attrs.set("heads", p.heads);
    attrs.set("key_heads", p.key_heads);
    attrs.set("size", p.size);
    attrs.set("value_size", p.value_size);
    attrs.set("q_begin", int64_t{3});
    attrs.set("k_begin", k_begin);
    attrs.set("v_begin", v_begin);
    for (int flat = 0; flat < 8; ++flat) {
      std::vector<Operand> operands = d.operands;
      for (size_t i = 0; i < 3; ++i) {
        if ((flat >> i & 1) != 0) operands[i] = packed;
      }
      CHECK(run_everywhere("attention", attrs, operands, {p.batch, p.heads, p.queries, p.value_size}) == heads);
      CHECK(run_everywhere("attention", attrs, operands, y_shape) == y);
    }
    test_interleaved(p, d, heads);
    attrs.set("v_begin", v_begin + 3);
    std::vector<Operand> outputs = {{DType::kF32, y_shape, {}}};
    CHECK_THROWS(run_step("attention", attrs, {packed, packed, packed}, outputs, 1, Guard::kAfter), "don't fit into");
  }
}

// Hidden scores become a number, whatever they were: a row without any key averages all.
void test_fill() {
  const Problem p{1, 2, 2, 4, 300, 8, 8, 0.3};
  Data d = make_data(p);
  std::vector<uint8_t> keep(4 * 300, 1);
  std::fill_n(keep.begin() + 300, 300, uint8_t{0});
  for (size_t i = 600; i < 900; i += 3) keep[i] = 0;
  d.operands.push_back(make_operand(DType::kBool, {4, 300}, keep));
  Attrs attrs = make_attrs(p);
  attrs.set("replace", int64_t{1});
  attrs.set("fill", -1e9);
  const auto y = run_everywhere("attention", attrs, d.operands, {1, 2, 4, 8});
  for (size_t h = 0; h < 2; ++h) {
    for (size_t i = 0; i < 8; ++i) {
      double mean = 0;
      for (size_t t = 0; t < 300; ++t) mean += static_cast<double>(d.v[(h * 300 + t) * 8 + i]) / 300;
      CHECK(std::abs(static_cast<double>(y[(h * 4 + 1) * 8 + i]) - mean) < 1e-6);
    }
  }
}

void test_empty() {
  check_attention({0, 2, 2, 5, 6, 8, 8, 1});
  check_attention({1, 2, 2, 0, 6, 8, 8, 1});
  check_attention({1, 2, 2, 5, 6, 8, 0, 1});
  check_attention({1, 2, 2, 5, 6, 0, 8, 1});
  const Problem p{1, 2, 2, 5, 0, 8, 8, 1};
  const auto y = run_everywhere("attention", make_attrs(p), make_data(p).operands, {1, 2, 5, 8});
  for (float v : y) CHECK(v == 0);  // a sum over no keys
}

void test_errors() {
  const Problem p{1, 3, 2, 5, 6, 8, 8, 1};
  std::vector<Operand> outputs = {{DType::kF32, {1, 3, 5, 8}, {}}};
  CHECK_THROWS(run_step("attention", make_attrs(p), make_data(p).operands, outputs, 1, Guard::kAfter), "must divide");
  const Problem q{1, 2, 2, 5, 6, 8, 8, 1};
  Data d = make_data(q);
  d.operands.push_back(f32({7}, std::vector<float>(7)));
  outputs = {{DType::kF32, {1, 2, 5, 8}, {}}};
  CHECK_THROWS(run_step("attention", make_attrs(q), d.operands, outputs, 1, Guard::kAfter), "doesn't broadcast");
}

}  // namespace

int main() {
  test_sizes();
  test_rounded();
  set_tile_registers(&tile_registers_emulated);
  test_rounded();
  set_tile_registers(nullptr);
  test_masks();
  test_windows();
  test_extremes();
  test_features();
  test_fill();
  test_empty();
  test_errors();
  return 0;
}
