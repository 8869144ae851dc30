// conv_transpose against the reference: strides, dilations, padding, output padding, groups, 1-d to 3-d.
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
  Ints extra;
  std::string activation = "none";
  int residual = 0;  // 1 before the activation, 2 after it
};

int64_t product(const Ints& values) {
  int64_t result = 1;
  for (int64_t v : values) result *= v;
  return result;
}

void check_case(const Case& c) {
  Attrs attrs;
  attrs.set("kernel_shape", c.kernel);
  attrs.set("strides", c.strides);
  attrs.set("dilations", c.dilations);
  attrs.set("pads", c.pads);
  attrs.set("output_padding", c.extra);
  attrs.set("group", c.group);
  attrs.set("cin", c.cin);
  attrs.set("cout", c.cout);
  attrs.set("activation", c.activation);
  attrs.set("residual_after", int64_t{c.residual == 2});
  const Window window = parse_window(attrs, "test");
  reference::ConvProblem p{c.batch, {1, 1, 1}, {1, 1, 1}, c.cin, c.cout, c.group, window};
  Ints x_shape = {c.batch};
  Ints y_shape = {c.batch};
  for (size_t i = 0; i < c.in.size(); ++i) {
    const size_t axis = 3 - c.in.size() + i;
    p.in[axis] = c.in[i];
    p.out[axis] = std::max<int64_t>(0, (c.in[i] - 1) * window.stride[axis] + window.extent(axis) + c.extra[i] -
                                           window.begin[axis] - window.end[axis]);
    x_shape.push_back(p.in[axis]);
    y_shape.push_back(p.out[axis]);
  }
  x_shape.push_back(c.cin);
  y_shape.push_back(c.cout);
  Random random(static_cast<uint64_t>(product(x_shape) + c.cout));
  const auto x = random.floats(product(x_shape));
  const int64_t cout = c.cout / c.group;
  const auto w = random.floats(c.cin * cout * window.taps());
  std::vector<float> packed(packed_conv_transpose_size(c.cin, cout, window.taps(), c.group));
  pack_conv_transpose(w.data(), c.cin, cout, window.taps(), c.group, packed.data());
  const auto bias = random.floats(c.cout);
  const auto residual = c.residual > 0 ? random.floats(product(y_shape)) : std::vector<float>{};
  const std::vector<Operand> inputs = {f32(x_shape, x), f32({static_cast<int64_t>(packed.size())}, packed),
                                       f32({c.cout}, bias), c.residual > 0 ? f32(y_shape, residual) : Operand{}};
  const auto got = run_everywhere("conv_transpose", attrs, inputs, y_shape);
  const double error = relative_error(got, reference::conv_transpose(p, x, w, bias, residual, parse_epilogue(attrs)));
  if (error > kTolerance)
    std::printf("cin %ld cout %ld group %ld: %g\n", long(c.cin), long(c.cout), long(c.group), error);
  CHECK(error <= kTolerance);
}

}  // namespace

int main() {
  for (int64_t cin : {1, 5, 40}) {
    for (int64_t cout : {1, 16, 19, 70}) {
      check_case({1, {5, 6}, cin, cout, 1, {2, 2}, {2, 2}, {1, 1}, {0, 0, 0, 0}, {0, 0}, "relu", 1});
      check_case({2, {5, 6}, cin, cout, 1, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, {1, 1}, "silu", 2});
      check_case({1, {5, 6}, cin, cout, 1, {4, 4}, {2, 3}, {1, 1}, {1, 0, 1, 2}, {0, 2}});
      check_case({1, {5, 6}, cin, cout, 1, {3, 3}, {1, 1}, {2, 1}, {1, 1, 1, 1}, {0, 0}, "gelu", 1});
    }
  }
  // strides beyond the kernel leave outputs that nothing is summed into
  check_case({1, {4, 3}, 6, 10, 1, {1, 2}, {3, 4}, {1, 1}, {0, 0, 0, 0}, {2, 1}, "sigmoid", 1});
  check_case({1, {4, 3}, 6, 10, 1, {3, 3}, {2, 2}, {3, 2}, {2, 1, 0, 3}, {1, 0}});
  check_case({2, {17}, 7, 9, 1, {5}, {3}, {1}, {2, 1}, {1}, "none", 1});
  check_case({1, {3, 4, 2}, 5, 18, 1, {2, 3, 2}, {2, 1, 2}, {1, 1, 1}, {0, 1, 0, 1, 1, 0}, {0, 0, 1}});
  check_case({1, {5, 4}, 12, 20, 2, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, {0, 0}, "relu", 2});
  check_case({1, {5, 4}, 8, 8, 8, {4, 4}, {2, 2}, {1, 1}, {1, 1, 1, 1}, {0, 0}});
  check_case({1, {5, 4}, 700, 33, 1, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, {0, 0}, "relu", 1});  // K in blocks
  check_case({1, {2, 3}, 1600, 20, 1, {2, 2}, {1, 1}, {1, 1}, {0, 0, 0, 0}, {0, 0}});
  check_case({0, {5, 4}, 4, 8, 1, {3, 3}, {2, 2}, {1, 1}, {0, 0, 0, 0}, {0, 0}});
  check_case({1, {5, 4}, 0, 8, 1, {3, 3}, {2, 2}, {1, 1}, {0, 0, 0, 0}, {0, 0}});
  check_case({1, {1, 1}, 3, 8, 1, {2, 2}, {1, 1}, {1, 1}, {1, 1, 1, 1}, {0, 0}});  // padding takes all
  return 0;
}
