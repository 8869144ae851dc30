// conv_winograd against the reference: sizes around the tile, channels around the panel, padding, both
// ways of sharing the work out.
#include "kernels/conv/pack.h"
#include "kernels/conv/reference.h"
#include "kernels/winograd/pack.h"
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

using Ints = std::vector<int64_t>;

struct Case {
  int64_t batch;
  int64_t height;
  int64_t width;
  int64_t cin;
  int64_t cout;
  Ints pads = {1, 1, 1, 1};
  std::string activation = "none";
  int residual = 0;  // 1 before the activation, 2 after it
};

Attrs make_attrs(const Case& c) {
  Attrs attrs;
  attrs.set("kernel_shape", Ints{3, 3});
  attrs.set("pads", c.pads);
  attrs.set("cin", c.cin);
  attrs.set("cout", c.cout);
  attrs.set("activation", c.activation);
  attrs.set("residual_after", int64_t{c.residual == 2});
  return attrs;
}

struct Problem {
  Attrs attrs;
  Ints y_shape;
  std::vector<float> x;
  std::vector<float> w;
  std::vector<float> bias;
  std::vector<float> residual;
  std::vector<Operand> inputs;

  explicit Problem(const Case& c) : attrs(make_attrs(c)) {
    y_shape = {c.batch, c.height + c.pads[0] + c.pads[2] - 2, c.width + c.pads[1] + c.pads[3] - 2, c.cout};
    Random random(static_cast<uint64_t>(c.height * c.width + c.cin + c.cout));
    const Ints x_shape = {c.batch, c.height, c.width, c.cin};
    x = random.floats(c.batch * c.height * c.width * c.cin);
    w = random.floats(c.cout * c.cin * 9);
    bias = random.floats(c.cout);
    if (c.residual > 0) residual = random.floats(y_shape[0] * y_shape[1] * y_shape[2] * y_shape[3]);
    std::vector<float> packed(packed_winograd_size(c.cout, c.cin));
    pack_winograd(w.data(), c.cout, c.cin, packed.data());
    inputs = {f32(x_shape, x), f32({static_cast<int64_t>(packed.size())}, packed), f32({c.cout}, bias),
              c.residual > 0 ? f32(y_shape, residual) : Operand{}};
  }
};

void check_winograd(const Case& c) {
  const Problem problem(c);
  const Window window = parse_window(problem.attrs, "test");
  const Dims3 out{1, problem.y_shape[1], problem.y_shape[2]};
  const reference::ConvProblem p{c.batch, {1, c.height, c.width}, out, c.cin, c.cout, 1, window};
  const auto got = run_everywhere("conv_winograd", problem.attrs, problem.inputs, problem.y_shape);
  const auto want =
      reference::conv(p, problem.x, problem.w, problem.bias, problem.residual, parse_epilogue(problem.attrs));
  CHECK(relative_error(got, want) <= kTolerance);
}

// Large problems beside the direct kernel, which is tested by itself.
void check_beside_conv(const Case& c) {
  Problem problem(c);
  const auto got = run_everywhere("conv_winograd", problem.attrs, problem.inputs, problem.y_shape);
  std::vector<float> packed(packed_conv_size(c.cout, c.cin, 9, 1));
  pack_conv(problem.w.data(), c.cout, c.cin, 9, 1, packed.data());
  problem.inputs[1] = f32({static_cast<int64_t>(packed.size())}, packed);
  const auto want = run_everywhere("conv", problem.attrs, problem.inputs, problem.y_shape);
  CHECK(relative_error(got, {want.begin(), want.end()}) <= kTolerance);
}

void test_sizes() {
  for (int64_t size : {1, 2, 3, 4, 5, 7, 8, 9}) check_winograd({1, size, 10 - size, 5, 6, {1, 1, 1, 1}, "relu", 1});
  for (int64_t cin : {1, 3, 15, 16, 17, 35}) {
    for (int64_t cout : {1, 8, 16, 37}) check_winograd({2, 6, 5, cin, cout, {1, 1, 1, 1}, "clip", 2});
  }
  check_winograd({1, 7, 9, 12, 20, {0, 0, 0, 0}, "silu", 2});
  check_winograd({1, 7, 9, 12, 20, {2, 0, 1, 3}, "gelu", 1});
  check_winograd({1, 2, 2, 12, 20, {5, 6, 4, 5}});  // whole tiles in the padding
  check_winograd({3, 5, 5, 33, 16, {1, 1, 1, 1}, "none", 1});
}

void test_blocks() {
  check_beside_conv({1, 61, 58, 20, 24, {1, 1, 1, 1}, "relu", 1});    // several blocks a thread
  check_beside_conv({1, 30, 30, 300, 40, {1, 1, 1, 1}, "relu", 1});   // one tile of rows is all that fits
  check_beside_conv({1, 13, 13, 128, 176, {1, 1, 1, 1}, "silu", 2});  // heavy weights: all threads together
  check_beside_conv({1, 40, 41, 40, 560, {1, 1, 1, 1}, "none", 1});   // and in several blocks
  check_beside_conv({2, 9, 9, 1700, 16, {1, 1, 1, 1}, "relu", 0});    // channels in several blocks
}

void test_empty() {
  check_winograd({0, 5, 5, 4, 8});
  check_winograd({1, 2, 3, 4, 8, {0, 0, 0, 0}});  // no window fits
}

void test_errors() {
  const Case c{1, 5, 5, 4, 6};
  Attrs attrs = make_attrs(c);
  attrs.set("strides", Ints{2, 2});
  CHECK_THROWS(find_kernel("conv_winograd")(attrs), "only 3 x 3 windows");
  attrs = make_attrs(c);
  attrs.set("cin", int64_t{0});
  CHECK_THROWS(find_kernel("conv_winograd")(attrs), "out of range");
  const Problem problem(c);
  std::vector<Operand> outputs = {{DType::kF32, {1, 4, 5, 6}, {}}};
  CHECK_THROWS(run_step("conv_winograd", problem.attrs, problem.inputs, outputs, 1, Guard::kAfter),
               "wrong spatial size");
  std::vector<Operand> inputs = problem.inputs;
  inputs[1] = f32({36}, std::vector<float>(36));
  outputs = {{DType::kF32, problem.y_shape, {}}};
  CHECK_THROWS(run_step("conv_winograd", problem.attrs, inputs, outputs, 1, Guard::kAfter), "isn't packed");
}

}  // namespace

int main() {
  test_sizes();
  test_blocks();
  test_empty();
  test_errors();
  return 0;
}
