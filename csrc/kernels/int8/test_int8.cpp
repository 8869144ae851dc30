// conv_int8, gemm_int8 and gemm_int4 against plain loops, those of integers to the bit: kernel sizes, strides, groups,
// depthwise, both kinds of bytes, every finish.
#include <bit>

#include "kernels/gemm/amx.h"
#include "kernels/int8/reference.h"
#include "kernels_dense.h"

namespace graphopt {
extern const TileRegisters tile_registers_emulated;
}  // namespace graphopt

using namespace graphopt;
using namespace graphopt::test;

namespace {

using Ints = std::vector<int64_t>;

std::vector<uint8_t> bytes(Random& random, int64_t count) {
  std::vector<uint8_t> values(static_cast<size_t>(count));
  // Extremes are frequent: sums of them are what saturating instructions get wrong.
  for (uint8_t& x : values) {
    const uint32_t kind = random.next() % 4;
    x = kind == 0 ? 255 : (kind == 1 ? 0x80 : static_cast<uint8_t>(random.next()));
  }
  return values;
}

std::vector<int8_t> weights(Random& random, int64_t count) {
  std::vector<int8_t> values(static_cast<size_t>(count));
  for (int8_t& x : values) {
    const uint32_t kind = random.next() % 4;
    x = kind == 0 ? int8_t{127} : (kind == 1 ? int8_t{-128} : static_cast<int8_t>(random.next()));
  }
  return values;
}

int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

struct Case {
  int64_t batch;
  Ints in;
  int64_t cin;
  int64_t cout;
  int64_t group;
  Ints kernel;
  Ints strides;
  Ints dilations;
  Ints pads;
  bool merged = false;
};

enum class Way : uint8_t { kBytes, kSigned, kBounds, kResidual, kMiddle, kTable, kFloats, kOffset, kRowSums, kHuge };
constexpr Way kWays[] = {Way::kBytes, Way::kSigned, Way::kBounds, Way::kResidual, Way::kMiddle,
                         Way::kTable, Way::kFloats, Way::kOffset, Way::kRowSums,  Way::kHuge};

std::vector<int8_t> pack_depthwise(const Case& c, const std::vector<int8_t>& w, int64_t lines, int64_t columns) {
  std::vector<int8_t> out(static_cast<size_t>(up(c.cout, 64) * up(lines, 4) * columns));
  for (int64_t ch = 0; ch < c.cout; ++ch) {
    for (int64_t l = 0; l < lines; ++l) {
      for (int64_t k = 0; k < columns; ++k) {
        const int64_t block = ch / 64 * (up(lines, 4) / 4) * columns * 256 + (l / 4 * columns + k) * 256;
        const int64_t at = block + ch % 16 / 4 * 64 + ch % 64 / 16 * 16 + ch % 4 * 4 + l % 4;
        out[static_cast<size_t>(at)] = w[static_cast<size_t>((ch * lines + l) * columns + k)];
      }
    }
  }
  return out;
}

std::vector<int8_t> pack(const Case& c, const std::vector<int8_t>& w, const Window& window) {
  const int64_t taps = window.taps();
  if (c.group > 1 && c.group == c.cin && c.group == c.cout) {
    return pack_depthwise(c, w, taps / window.kernel[2], window.kernel[2]);
  }
  const int64_t cin = c.cin / c.group;
  const int64_t cout = c.cout / c.group;
  const int64_t segments = c.merged ? taps / window.kernel[2] : taps;
  const int64_t depth = c.merged ? window.kernel[2] * cin : cin;
  const int64_t panel = segments * up(depth, 4) * 16;
  std::vector<int8_t> out(static_cast<size_t>(c.group * up(cout, 16) / 16 * panel));
  for (int64_t o = 0; o < c.cout; ++o) {
    for (int64_t i = 0; i < cin; ++i) {
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t k = t * cin + i;  // channels fastest
        const int64_t s = k / depth;
        const int64_t d = k % depth;
        const int64_t n = o % cout;
        const int64_t at =
            (o / cout * (up(cout, 16) / 16) + n / 16) * panel + s * up(depth, 4) * 16 + d / 4 * 64 + n % 16 * 4 + d % 4;
        out[static_cast<size_t>(at)] = w[static_cast<size_t>((o * cin + i) * taps + t)];
      }
    }
  }
  return out;
}

struct Operands {
  std::vector<int32_t> start;
  std::vector<float> scale;
  std::vector<float> offset;
  std::vector<uint8_t> residual;
  std::vector<uint8_t> table;
  std::vector<int32_t> factors;
  int8::Finish finish{};
};

Operands make_operands(Random& random, Way way, int64_t cout, int64_t elements, int64_t depth, Attrs& attrs) {
  Operands o;
  const auto real = [&](const char* name, double value, float& field) {
    attrs.set(name, value);
    field = static_cast<float>(value);
  };
  const float usual = 1.0F / (200.0F * static_cast<float>(depth));
  for (int64_t i = 0; i < cout; ++i) {
    o.start.push_back(static_cast<int32_t>(random.below(20000)) - 10000);
    o.scale.push_back(usual * random.uniform(0.5F, 4.0F) * (way == Way::kHuge ? 1e9F : 1.0F));
    if (way == Way::kOffset) o.offset.push_back(random.uniform(-20, 20));
    if (way == Way::kRowSums) o.factors.push_back(static_cast<int32_t>(random.below(100)) - 50);
  }
  int8::Finish& f = o.finish;
  f.out = way == Way::kFloats ? DType::kF32 : (way == Way::kSigned ? DType::kI8 : DType::kU8);
  if (f.out == DType::kF32) return o;
  const float least = f.out == DType::kU8 ? 0.0F : -128.0F;
  real("zero", least + 100, f.zero);
  f.low = least - f.zero;
  f.high = f.low + 255;
  if (way == Way::kBounds) {
    real("low", 0, f.low);
    real("high", 60, f.high);
  }
  if (way == Way::kResidual || way == Way::kMiddle) {
    for (int64_t i = 0; i < elements; ++i) o.residual.push_back(static_cast<uint8_t>(random.next()));
    f.residual = DType::kU8;
    real("residual_scale", 0.173, f.residual_scale);
    real("residual_zero", 31, f.residual_zero);
    real("out_scale", 0.371, f.out_scale);
  }
  if (way == Way::kMiddle) {
    real("mid_scale", 0.217, f.mid_scale);
    real("mid_low", 0, f.mid_low);
    real("mid_high", 255, f.mid_high);
  }
  if (way == Way::kTable) {
    for (int i = 0; i < 256; ++i) o.table.push_back(static_cast<uint8_t>(i * 7 + 3));
    f.table = o.table.data();
  }
  return o;
}

// What comes out, for every element, as the bytes of Y.
std::vector<std::byte> expected(const Operands& o, const std::vector<int32_t>& sums,
                                const std::vector<int32_t>& row_sums, int64_t cout) {
  std::vector<std::byte> out;
  for (size_t i = 0; i < sums.size(); ++i) {
    const size_t c = i % static_cast<size_t>(cout);
    const int32_t sum = o.factors.empty() ? sums[i] : sums[i] + o.factors[c] * row_sums[i / static_cast<size_t>(cout)];
    const auto number = static_cast<float>(sum);
    const float x = o.offset.empty() ? number * o.scale[c] : std::fma(number, o.scale[c], o.offset[c]);
    if (o.finish.out == DType::kF32) {
      const auto raw = std::bit_cast<std::array<std::byte, 4>>(x);
      out.insert(out.end(), raw.begin(), raw.end());
    } else {
      const uint8_t* residual = o.residual.empty() ? nullptr : &o.residual[i];
      out.push_back(std::byte{int8::reference::byte_of(o.finish, x, residual)});
    }
  }
  return out;
}

void check_conv(const Case& c, Way way, bool flip) {
  const bool depthwise = c.group > 1 && c.group == c.cin && c.group == c.cout;
  if (way == Way::kRowSums && (depthwise || c.group > 1)) return;
  Attrs attrs;
  attrs.set("kernel_shape", c.kernel);
  attrs.set("strides", c.strides);
  attrs.set("dilations", c.dilations);
  attrs.set("pads", c.pads);
  attrs.set("group", c.group);
  attrs.set("cin", c.cin);
  attrs.set("cout", c.cout);
  attrs.set("merged", int64_t{c.merged});
  attrs.set("x_zero", int64_t{77});
  int8::reference::Problem p;
  p.batch = c.batch;
  p.cin = c.cin;
  p.cout = c.cout;
  p.group = c.group;
  p.window = parse_window(attrs, "test");
  p.zero = 77;
  p.flip = flip;
  const size_t rank = c.in.size();
  Ints x_shape = {c.batch};
  Ints y_shape = {c.batch};
  for (size_t i = 0; i < rank; ++i) {
    const size_t axis = 3 - rank + i;
    const int64_t room = c.in[i] + p.window.begin[axis] + p.window.end[axis] - p.window.extent(axis);
    p.in[axis] = c.in[i];
    p.out[axis] = room < 0 ? 0 : room / p.window.stride[axis] + 1;
    x_shape.push_back(p.in[axis]);
    y_shape.push_back(p.out[axis]);
  }
  x_shape.push_back(c.cin);
  y_shape.push_back(c.cout);
  Random random(static_cast<uint64_t>(c.in[0] * 1000 + c.cin * 10 + c.cout));
  const int64_t cin = c.cin / c.group;
  const auto x = bytes(random, c.batch * volume(p.in) * c.cin);
  const auto w = weights(random, c.cout * cin * p.window.taps());
  const int64_t elements = c.batch * volume(p.out) * c.cout;
  const Operands o = make_operands(random, way, c.cout, elements, cin * p.window.taps(), attrs);
  std::vector<int32_t> row_sums;
  if (!o.factors.empty()) {
    auto one = p;
    one.cout = 1;
    row_sums = int8::reference::sums(one, x, std::vector<int8_t>(static_cast<size_t>(cin * p.window.taps()), 1), {});
  }
  const auto want = expected(o, int8::reference::sums(p, x, w, o.start), row_sums, c.cout);
  const auto packed = pack(c, w, p.window);
  const auto given = [&](DType type, const auto& values) {
    return values.empty() ? Operand{} : make_operand(type, {static_cast<int64_t>(values.size())}, values);
  };
  const std::vector<Operand> inputs = {make_operand(flip ? DType::kI8 : DType::kU8, x_shape, x),
                                       given(DType::kI8, packed),
                                       given(DType::kI32, o.start),
                                       given(DType::kF32, o.scale),
                                       given(DType::kF32, o.offset),
                                       o.residual.empty() ? Operand{} : make_operand(DType::kU8, y_shape, o.residual),
                                       given(DType::kU8, o.table),
                                       given(DType::kI32, o.factors)};
  for (int threads = 1; threads <= 3; ++threads) {
    std::vector<Operand> outputs = {{o.finish.out, y_shape, {}}};
    run_step("conv_int8", attrs, inputs, outputs, threads, threads == 2 ? Guard::kBefore : Guard::kAfter);
    if (outputs[0].bytes != want) {
      std::printf("in %ld.. cin %ld cout %ld group %ld kernel %ld.. stride %ld.. way %d flip %d threads %d\n",
                  long(c.in[0]), long(c.cin), long(c.cout), long(c.group), long(c.kernel[0]), long(c.strides[0]),
                  int(way), int(flip), threads);
    }
    CHECK(outputs[0].bytes == want);
  }
}

void check_all(const Case& c) {
  for (Way way : kWays) {
    for (bool flip : {false, true}) check_conv(c, way, flip);
  }
}

void test_dense() {
  check_all({2, {5, 7}, 12, 33, 1, {1, 1}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
  check_all({1, {9, 8}, 9, 64, 1, {1, 1}, {2, 3}, {1, 1}, {0, 0, 0, 0}});
  check_all({1, {6, 9}, 64, 96, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}});
  check_all({1, {9, 11}, 3, 37, 1, {3, 3}, {2, 2}, {1, 1}, {0, 1, 1, 0}, true});
  check_all({1, {15, 15}, 3, 32, 1, {7, 7}, {2, 2}, {1, 1}, {3, 3, 3, 3}, true});
  check_all({1, {12, 13}, 5, 16, 1, {3, 2}, {1, 2}, {2, 3}, {2, 3, 2, 3}});
  check_all({2, {25}, 5, 20, 1, {4}, {1}, {1}, {2, 1}, true});
  check_all({1, {4, 5, 6}, 6, 19, 1, {3, 2, 3}, {1, 2, 1}, {1, 1, 1}, {1, 0, 1, 1, 1, 1}, true});
  check_all({1, {2, 3}, 4, 8, 1, {2, 2}, {1, 1}, {1, 1}, {4, 5, 6, 3}});
  check_all({1, {7, 8}, 12, 18, 3, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}});
  check_all({1, {7, 8}, 10, 30, 5, {1, 1}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
}

void test_depthwise() {
  for (int64_t channels : {3, 16, 64, 70, 130}) {
    check_all({1, {5, 9}, channels, channels, channels, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}});
    check_all({1, {6, 8}, channels, channels, channels, {3, 3}, {2, 2}, {1, 1}, {0, 1, 1, 0}});
  }
  check_all({2, {9, 9}, 20, 20, 20, {5, 5}, {1, 1}, {1, 1}, {2, 2, 2, 2}});
  check_all({1, {9, 9}, 20, 20, 20, {5, 5}, {2, 2}, {1, 1}, {2, 2, 2, 2}});
  check_all({1, {9, 9}, 20, 20, 20, {2, 4}, {1, 3}, {1, 2}, {1, 0, 1, 3}});
  check_all({1, {9}, 8, 8, 8, {3}, {1}, {1}, {1, 1}});
}

// Sums at the edge of what pairs of 16 bits hold, as far as 32 bits go.
void test_extremes() {
  check_conv({1, {1, 3}, 4096, 48, 1, {1, 1}, {1, 1}, {1, 1}, {0, 0, 0, 0}}, Way::kFloats, false);
  check_conv({1, {2, 20}, 512, 40, 1, {1, 1}, {1, 1}, {1, 1}, {0, 0, 0, 0}}, Way::kBytes, true);
}

void check_int4(int64_t rows, int64_t k, int64_t n, int64_t block) {
  Attrs attrs;
  attrs.set("k", k);
  attrs.set("n", n);
  attrs.set("block", block);
  Random random(static_cast<uint64_t>(rows + k + n));
  const int64_t padded = up(n, 16);
  const int64_t blocks = (k + block - 1) / block;
  const auto x = random.floats(rows * k);
  const auto codes = bytes(random, padded * k / 2);
  const auto scale = random.floats(padded * blocks, 0.5F, 1.0F);
  const auto zero = random.floats(padded * blocks, 0.0F, 15.0F);
  const auto bias = random.floats(padded);
  std::vector<double> want;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      double sum = static_cast<double>(bias[static_cast<size_t>(c)]);
      for (int64_t i = 0; i < k; ++i) {
        const uint8_t pair = codes[static_cast<size_t>((c / 16 * (k / 2) + i / 2) * 16 + c % 16)];
        const auto at = static_cast<size_t>((c / 16 * blocks + i / block) * 16 + c % 16);
        const double code = (i % 2 == 0 ? pair & 15 : pair >> 4) - static_cast<double>(zero[at]);
        sum += static_cast<double>(x[static_cast<size_t>(r * k + i)]) * code * static_cast<double>(scale[at]);
      }
      want.push_back(sum);
    }
  }
  const auto line = [](const std::vector<float>& values) { return f32({static_cast<int64_t>(values.size())}, values); };
  const Operand packed = make_operand(DType::kU8, {static_cast<int64_t>(codes.size())}, codes);
  const auto got =
      run_everywhere("gemm_int4", attrs, {f32({rows, k}, x), packed, line(scale), line(zero), line(bias)}, {rows, n});
  CHECK(relative_error(got, want) <= kTolerance);
}

void test_int4() {
  for (int64_t rows : {1, 3, 4, 9}) {
    check_int4(rows, 64, 40, 32);
    check_int4(rows, 70, 16, 16);
    check_int4(rows, 2, 7, 128);
  }
}

}  // namespace

int main() {
  test_int4();
  test_dense();
  test_depthwise();
  test_extremes();
  set_tile_registers(&tile_registers_emulated);  // as where there is AMX
  test_dense();
  test_extremes();
}
