// conv against the reference: kernel sizes, strides, dilations, padding, groups, depthwise, 1-d to 3-d.
#include "kernels/conv/pack.h"
#include "kernels/conv/reference.h"
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

using Ints = std::vector<int64_t>;

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
  std::string activation = "none";
  int residual = 0;  // 1 before the activation, 2 after it
};

int64_t product(const Ints& values) {
  int64_t result = 1;
  for (int64_t v : values) result *= v;
  return result;
}

void check_conv(const Case& c) {
  Attrs attrs;
  attrs.set("kernel_shape", c.kernel);
  attrs.set("strides", c.strides);
  attrs.set("dilations", c.dilations);
  attrs.set("pads", c.pads);
  attrs.set("group", c.group);
  attrs.set("cin", c.cin);
  attrs.set("cout", c.cout);
  attrs.set("activation", c.activation);
  attrs.set("residual_after", int64_t{c.residual == 2});
  const Window window = parse_window(attrs, "test");
  reference::ConvProblem p{c.batch, {1, 1, 1}, {1, 1, 1}, c.cin, c.cout, c.group, window};
  const size_t rank = c.in.size();
  Ints x_shape = {c.batch};
  Ints y_shape = {c.batch};
  for (size_t i = 0; i < rank; ++i) {
    const size_t axis = 3 - rank + i;
    const int64_t room = c.in[i] + window.begin[axis] + window.end[axis] - window.extent(axis);
    p.in[axis] = c.in[i];
    p.out[axis] = room < 0 ? 0 : room / window.stride[axis] + 1;
    x_shape.push_back(p.in[axis]);
    y_shape.push_back(p.out[axis]);
  }
  x_shape.push_back(c.cin);
  y_shape.push_back(c.cout);
  Random random(static_cast<uint64_t>(product(x_shape) + c.cout));
  const auto x = random.floats(product(x_shape));
  const int64_t cin = c.cin / c.group;
  const auto w = random.floats(c.cout * cin * window.taps());
  std::vector<float> packed(packed_conv_size(c.cout, cin, window.taps(), c.group));
  pack_conv(w.data(), c.cout, cin, window.taps(), c.group, packed.data());
  const auto bias = random.floats(c.cout);
  const auto residual = c.residual > 0 ? random.floats(product(y_shape)) : std::vector<float>{};
  const std::vector<Operand> inputs = {f32(x_shape, x), f32({static_cast<int64_t>(packed.size())}, packed),
                                       f32({c.cout}, bias), c.residual > 0 ? f32(y_shape, residual) : Operand{}};
  const auto got = run_everywhere("conv", attrs, inputs, y_shape);
  const double error = relative_error(got, reference::conv(p, x, w, bias, residual, parse_epilogue(attrs)));
  if (error > kTolerance) {
    std::printf("in %ld.. cin %ld cout %ld group %ld kernel %ld.. stride %ld..: %g\n", long(c.in[0]), long(c.cin),
                long(c.cout), long(c.group), long(c.kernel[0]), long(c.strides[0]), error);
  }
  CHECK(error <= kTolerance);
}

void test_dense() {
  // 1 x 1, with and without a stride, rows that collide in the cache
  check_conv({2, {5, 7}, 9, 33, 1, {1, 1}, {1, 1}, {1, 1}, {0, 0, 0, 0}, "relu", 1});
  check_conv({1, {9, 8}, 40, 17, 1, {1, 1}, {2, 3}, {1, 1}, {0, 0, 0, 0}, "relu", 2});
  check_conv({1, {3, 5}, 1024, 144, 1, {1, 1}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
  check_conv({1, {4, 6}, 512, 130, 1, {1, 1}, {2, 2}, {1, 1}, {0, 0, 0, 0}});
  check_conv({1, {4, 6}, 20, 18, 1, {1, 1}, {1, 1}, {1, 1}, {1, 2, 0, 1}, "none", 1});
  // taps by pointer (many channels) and in runs (few)
  for (int64_t cin : {1, 3, 4, 31, 32, 35}) {
    for (int64_t cout : {1, 16, 37}) {
      check_conv({1, {9, 11}, cin, cout, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, "relu", 1});
      check_conv({2, {9, 11}, cin, cout, 1, {3, 3}, {2, 2}, {1, 1}, {0, 1, 1, 0}, "silu", 2});
      check_conv({1, {12, 13}, cin, cout, 1, {5, 2}, {1, 3}, {1, 1}, {2, 0, 2, 1}});
      check_conv({1, {12, 13}, cin, cout, 1, {3, 3}, {1, 2}, {2, 3}, {2, 3, 2, 3}});
    }
  }
  check_conv({1, {30, 30}, 3, 24, 1, {7, 7}, {2, 2}, {1, 1}, {3, 3, 3, 3}, "relu", 0});
  // one and three dimensions; one position; padding larger than the kernel; larger than the input
  check_conv({2, {25}, 5, 20, 1, {4}, {1}, {1}, {2, 1}, "gelu", 1});
  check_conv({1, {25}, 40, 20, 1, {3}, {2}, {4}, {0, 0}});
  check_conv({1, {4, 5, 6}, 6, 19, 1, {3, 2, 3}, {1, 2, 1}, {1, 1, 1}, {1, 0, 1, 1, 1, 1}, "tanh", 2});
  check_conv({1, {4, 5, 6}, 33, 19, 1, {2, 2, 2}, {1, 1, 2}, {2, 1, 1}, {0, 0, 0, 0, 0, 0}});
  check_conv({1, {3, 3}, 8, 8, 1, {3, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
  check_conv({1, {2, 3}, 4, 8, 1, {2, 2}, {1, 1}, {1, 1}, {4, 5, 6, 3}, "none", 1});
  check_conv({1, {2, 2}, 40, 8, 1, {3, 3}, {1, 1}, {1, 1}, {5, 5, 5, 5}});
  // K in several blocks: by taps and within a tap
  check_conv({1, {6, 7}, 256, 40, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, "relu", 1});
  check_conv({1, {3, 4}, 1600, 20, 1, {2, 2}, {1, 1}, {1, 1}, {0, 0, 1, 1}, "gelu", 2});
}

void test_grouped() {
  check_conv({1, {7, 8}, 12, 18, 3, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, "relu", 1});
  check_conv({2, {7, 8}, 64, 64, 2, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, "gelu", 2});
  check_conv({1, {7, 8}, 10, 30, 5, {1, 1}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
  check_conv({1, {7, 8}, 6, 12, 6, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}});  // a channel multiplier
  check_conv({1, {9}, 8, 4, 4, {3}, {1}, {1}, {1, 1}});
  // groups of a few channels, on the depthwise kernels
  for (int64_t size : {2, 4, 8}) {
    for (int64_t group : {2, 3, 8, 9}) {
      const int64_t channels = size * group;
      check_conv({1, {9, 17}, channels, channels, group, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, "relu", 1});
      check_conv({2, {9, 17}, channels, channels, group, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, "silu", 2});
      check_conv({1, {9, 17}, channels, channels, group, {2, 4}, {1, 3}, {1, 2}, {1, 0, 1, 3}});
    }
  }
}

void test_depthwise() {
  for (int64_t channels : {2, 7, 8, 15, 16, 17, 24, 31, 48, 65}) {
    for (int64_t kernel : {1, 2, 3, 5, 7}) {
      for (int64_t stride : {1, 2, 3}) {
        const int64_t pad = kernel / 2;
        check_conv({1,
                    {9, 15},
                    channels,
                    channels,
                    channels,
                    {kernel, kernel},
                    {stride, stride},
                    {1, 1},
                    {pad, pad, pad, pad},
                    stride == 2 ? "clip" : "relu",
                    static_cast<int>(channels % 3)});
      }
    }
    check_conv({1, {12, 40}, channels, channels, channels, {3, 3}, {1, 1}, {2, 3}, {2, 3, 2, 3}, "silu", 1});
    check_conv({2, {1, 70}, channels, channels, channels, {1, 3}, {1, 1}, {1, 1}, {0, 1, 0, 1}, "gelu", 2});
  }
  check_conv({1, {20}, 40, 40, 40, {5}, {1}, {1}, {4, 0}});
  check_conv({1, {3, 6, 7}, 20, 20, 20, {3, 3, 3}, {1, 2, 1}, {1, 1, 1}, {1, 1, 1, 1, 1, 1}, "none", 1});
  check_conv({1, {2, 2}, 20, 20, 20, {3, 3}, {1, 1}, {1, 1}, {4, 4, 4, 4}});
  check_conv({1, {80, 5}, 3, 3, 3, {70, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
}

void test_empty() {
  check_conv({0, {5, 5}, 4, 8, 1, {3, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
  check_conv({1, {2, 2}, 4, 8, 1, {3, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}});  // no window fits
  check_conv({1, {5, 5}, 0, 8, 1, {3, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}});  // nothing to sum
  check_conv({1, {5, 5}, 40, 0, 1, {3, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
  check_conv({0, {5, 5}, 4, 4, 4, {3, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}});
}

void test_errors() {
  Attrs attrs;
  attrs.set("cin", int64_t{4});
  attrs.set("cout", int64_t{6});
  attrs.set("kernel_shape", Ints{3, 3});
  attrs.set("group", int64_t{4});
  CHECK_THROWS(find_kernel("conv")(attrs), "group must divide");
  attrs.set("group", int64_t{1});
  attrs.set("strides", Ints{1});
  CHECK_THROWS(find_kernel("conv")(attrs), "'strides' has the wrong length");
  attrs.set("strides", Ints{1, 0});
  CHECK_THROWS(find_kernel("conv")(attrs), "'strides' is out of range");
  attrs.set("strides", Ints{1, 1});
  std::vector<Operand> outputs = {{DType::kF32, {1, 4, 3, 6}, {}}};
  const std::vector<Operand> inputs = {f32({1, 5, 5, 4}, std::vector<float>(100)), f32({576}, std::vector<float>(576))};
  CHECK_THROWS(run_step("conv", attrs, inputs, outputs, 1, Guard::kAfter), "wrong spatial size");
}

}  // namespace

int main() {
  test_dense();
  test_grouped();
  test_depthwise();
  test_empty();
  test_errors();
  return 0;
}
