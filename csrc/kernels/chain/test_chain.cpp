// conv_chain against its convolutions one after the other: all forms, strides, paddings, both ways of
// cutting, channels around the vector and the slice.
#include "kernels/conv/pack.h"
#include "kernels/conv/reference.h"
#include "kernels/gemm/pack.h"
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

using Ints = std::vector<int64_t>;
using Floats = std::vector<float>;

struct Window2d {
  Ints kernel{1, 1};
  Ints strides{1, 1};
  Ints dilations{1, 1};
  Ints pads{0, 0, 0, 0};
};

struct Case {
  int64_t batch;
  Ints in;
  int64_t cin;
  int64_t channels;
  int64_t cout;
  Window2d depthwise;
  bool expands = true;
  bool projects = true;
  Window2d expand{};
  std::vector<std::string> activations{"relu", "clip", "none"};
  int residual = 0;  // 1 before the activation, 2 after it
  bool bias = true;
};

void set_window(Attrs& attrs, const std::string& prefix, const Window2d& w) {
  attrs.set(prefix + "kernel_shape", w.kernel);
  attrs.set(prefix + "strides", w.strides);
  attrs.set(prefix + "dilations", w.dilations);
  attrs.set(prefix + "pads", w.pads);
}

Epilogue epilogue(const std::string& activation, bool residual_after) {
  Attrs attrs;
  attrs.set("activation", activation);
  attrs.set("alpha", -0.5);
  attrs.set("beta", 0.75);
  attrs.set("residual_after", int64_t{residual_after});
  return parse_epilogue(attrs);
}

// One convolution of the chain by the reference, its weights packed, its result the next one's input.
class Stage {
 public:
  Stage(Random& random, bool bias) : random_(random), bias_(bias) {}

  void run(const Case& c, const Window2d& w, int64_t cout, int64_t group, const std::string& activation) {
    Attrs attrs;
    set_window(attrs, "", w);
    const Window window = parse_window(attrs, "test");
    reference::ConvProblem p{c.batch, {1, height, width}, {1, 1, 1}, channels, cout, group, window};
    for (size_t axis = 1; axis < 3; ++axis) {
      const int64_t room = p.in[axis] + window.begin[axis] + window.end[axis] - window.extent(axis);
      p.out[axis] = room < 0 ? 0 : room / window.stride[axis] + 1;
    }
    const int64_t per_group = channels / group;
    const Floats weights = random_.floats(cout * per_group * window.taps(), -0.5F, 0.5F);
    Floats packed(packed_conv_size(cout, per_group, window.taps(), group));
    pack_conv(weights.data(), cout, per_group, window.taps(), group, packed.data());
    const Floats bias = bias_ ? random_.floats(cout) : Floats{};
    height = p.out[1];
    width = p.out[2];
    channels = cout;
    Floats added;
    if (last && c.residual > 0) added = random_.floats(c.batch * height * width * channels);
    const auto y = reference::conv(p, values, weights, bias, added, epilogue(activation, last && c.residual == 2));
    result = y;
    values.assign(y.begin(), y.end());
    operands.push_back(f32({static_cast<int64_t>(packed.size())}, packed));
    operands.push_back(bias_ ? f32({cout}, bias) : Operand{});
    if (!added.empty()) residual = f32({c.batch, height, width, channels}, added);
  }

  void skip() { operands.insert(operands.end(), 2, Operand{}); }

  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
  bool last = false;
  Floats values;
  std::vector<double> result;
  std::vector<Operand> operands;
  Operand residual;

 private:
  Random& random_;
  bool bias_;
};

void check_chain(const Case& c) {
  Attrs attrs;
  set_window(attrs, "", c.depthwise);
  if (c.expands) set_window(attrs, "expand_", c.expand);
  attrs.set("cin", c.cin);
  attrs.set("channels", c.channels);
  attrs.set("cout", c.projects ? c.cout : c.channels);
  attrs.set("projects", int64_t{c.projects});
  attrs.set("activations", c.activations);
  attrs.set("alphas", std::vector<double>(3, -0.5));
  attrs.set("betas", std::vector<double>(3, 0.75));
  attrs.set("residual_after", int64_t{c.residual == 2});
  Random random(static_cast<uint64_t>(c.in[0] * 1000 + c.in[1] * 100 + c.channels));
  Stage stage(random, c.bias);
  stage.height = c.in[0];
  stage.width = c.in[1];
  stage.channels = c.cin;
  stage.values = random.floats(c.batch * c.in[0] * c.in[1] * c.cin);
  const Ints x_shape = {c.batch, c.in[0], c.in[1], c.cin};
  stage.operands.push_back(f32(x_shape, stage.values));
  c.expands ? stage.run(c, c.expand, c.channels, 1, c.activations[0]) : stage.skip();
  stage.last = !c.projects;
  stage.run(c, c.depthwise, c.channels, c.channels, c.activations[1]);
  stage.last = true;
  c.projects ? stage.run(c, {}, c.cout, 1, c.activations[2]) : stage.skip();
  stage.operands.push_back(stage.residual);
  const auto got =
      run_everywhere("conv_chain", attrs, stage.operands, {c.batch, stage.height, stage.width, stage.channels});
  const double error = relative_error(got, stage.result);
  if (error > kTolerance) {
    std::printf("%ldx%ldx%ldx%ld channels %ld cout %ld kernel %ld stride %ld: %g\n", long(c.batch), long(c.in[0]),
                long(c.in[1]), long(c.cin), long(c.channels), long(c.cout), long(c.depthwise.kernel[0]),
                long(c.depthwise.strides[0]), error);
  }
  CHECK(error <= kTolerance);
}

Window2d same(int64_t kernel, int64_t stride) {
  const int64_t pad = kernel / 2;
  return {{kernel, kernel}, {stride, stride}, {1, 1}, {pad, pad, pad, pad}};
}

void test_forms() {
  for (int64_t channels : {2, 15, 16, 17, 32, 33, 63, 64, 65, 130}) {
    for (int64_t kernel : {3, 5}) {
      for (int64_t stride : {1, 2}) {
        const int residual = static_cast<int>(channels % 3);
        check_chain(
            {1, {9, 15}, 12, channels, 19, same(kernel, stride), true, true, {}, {"relu", "clip", "none"}, residual});
        check_chain({1,
                     {9, 15},
                     channels,
                     channels,
                     19,
                     same(kernel, stride),
                     false,
                     true,
                     {},
                     {"none", "relu", "relu"},
                     residual});
        check_chain(
            {1, {9, 15}, 12, channels, 0, same(kernel, stride), true, false, {}, {"relu", "relu", "none"}, residual});
      }
    }
  }
}

void test_windows() {
  for (int64_t batch : {1, 2, 3}) {
    // no padding, padding on one side, more of it than the window is long, an even window, dilation
    check_chain({batch, {9, 15}, 8, 40, 24, {{3, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}}});
    check_chain({batch, {9, 16}, 8, 40, 24, {{3, 3}, {2, 2}, {1, 1}, {0, 0, 1, 1}}});
    check_chain({batch, {10, 7}, 8, 40, 24, {{3, 3}, {2, 2}, {1, 1}, {1, 0, 0, 1}}});
    check_chain({batch, {4, 5}, 8, 24, 24, {{3, 3}, {1, 1}, {1, 1}, {4, 5, 3, 4}}});
    check_chain({batch, {12, 17}, 8, 24, 24, {{2, 4}, {1, 3}, {1, 1}, {1, 0, 0, 3}}});
    check_chain({batch, {12, 17}, 8, 24, 24, {{3, 3}, {1, 1}, {2, 3}, {2, 3, 2, 3}}});
    check_chain({batch, {12, 17}, 8, 24, 24, {{2, 2}, {5, 4}, {1, 1}, {0, 0, 0, 0}}});
    check_chain({batch, {1, 40}, 8, 24, 24, {{1, 3}, {1, 1}, {1, 1}, {0, 1, 0, 1}}});
    check_chain({batch, {40, 1}, 8, 24, 24, same(3, 1)});
    check_chain({batch, {1, 1}, 8, 24, 24, same(5, 2)});
    // a first convolution that is more than a product
    check_chain({batch, {17, 23}, 3, 32, 16, same(3, 1), true, true, same(3, 2)});
    check_chain({batch, {17, 23}, 34, 20, 16, same(3, 2), true, true, same(3, 1)});
    check_chain({batch, {17, 23}, 5, 20, 16, same(3, 1), true, true, {{1, 1}, {2, 1}, {1, 1}, {0, 0, 1, 0}}});
    check_chain({batch, {11, 70}, 6, 20, 16, same(5, 1), true, false, {{2, 3}, {1, 1}, {1, 2}, {0, 1, 1, 2}}});
  }
}

void test_epilogues() {
  for (int residual : {0, 1, 2}) {
    for (const char* activation : {"none", "relu", "clip", "hardswish", "silu"}) {
      const std::vector<std::string> all(3, activation);
      check_chain({1, {8, 8}, 8, 40, 24, same(3, 1), true, true, {}, all, residual, false});
      check_chain({1, {8, 8}, 8, 40, 24, same(3, 1), true, false, {}, all, residual});
      check_chain({1, {8, 8}, 40, 40, 24, same(3, 2), false, true, {}, all, residual, false});
    }
  }
}

// Expanded tensors that no core's cache holds are cut into bands of lines.
void test_bands() {
  for (int64_t batch : {1, 3}) {
    check_chain({batch, {90, 91}, 4, 66, 24, same(3, 1)});
    check_chain({batch, {90, 91}, 4, 66, 24, same(5, 2), true, true, {}, {"hardswish", "hardswish", "none"}, 1});
    check_chain({batch, {90, 91}, 4, 66, 0, same(3, 2), true, false});
  }
  check_chain({1, {30, 7}, 130, 130, 24, same(3, 1), false});
  check_chain({3, {50, 20}, 37, 37, 24, same(5, 2), false, true, {}, {"none", "hardswish", "relu"}, 2});
  check_chain({1, {200, 190}, 3, 64, 16, same(3, 1), true, true, same(3, 2)});
  // several blocks of K in the last product, rows that collide in the cache
  check_chain({1, {4, 5}, 4, 1600, 24, same(3, 1)});
  check_chain({1, {6, 7}, 4, 1024, 40, same(3, 1), true, true, {}, {"relu", "relu", "none"}, 1});
  check_chain({1, {6, 7}, 1024, 1024, 40, same(3, 1), false});
}

void test_empty() {
  check_chain({0, {5, 5}, 4, 24, 8, same(3, 1)});
  check_chain({1, {2, 2}, 4, 24, 8, {{3, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}}});  // no window fits
  check_chain({1, {2, 2}, 4, 24, 8, same(3, 1), true, true, {{3, 3}, {1, 1}, {1, 1}, {0, 0, 0, 0}}});
}

void test_errors() {
  const auto make = [](int64_t cin, int64_t channels, bool projects, const Ints& pads, size_t stages) {
    Attrs attrs;
    attrs.set("cin", cin);
    attrs.set("channels", channels);
    attrs.set("cout", int64_t{8});
    attrs.set("projects", int64_t{projects});
    attrs.set("kernel_shape", Ints{3, 3});
    attrs.set("pads", pads);
    attrs.set("activations", std::vector<std::string>(stages, "none"));
    attrs.set("alphas", std::vector<double>(stages));
    attrs.set("betas", std::vector<double>(stages));
    return find_kernel("conv_chain")(attrs);
  };
  CHECK_THROWS(make(4, 8, true, {1, 1, 1, 1}, 3), "don't fit");
  CHECK_THROWS(make(8, 8, false, {1, 1, 1, 1}, 3), "is no chain");
  CHECK_THROWS(make(8, 8, true, {1, -1, 1, 1}, 3), "negative padding");
  CHECK_THROWS(make(8, 8, true, {1, 1, 1, 1}, 2), "must hold three values");
  Attrs attrs;
  attrs.set("cin", int64_t{8});
  attrs.set("channels", int64_t{8});
  attrs.set("cout", int64_t{8});
  attrs.set("projects", int64_t{1});
  attrs.set("kernel_shape", Ints{3, 3});
  attrs.set("activations", std::vector<std::string>(3, "none"));
  attrs.set("alphas", std::vector<double>(3));
  attrs.set("betas", std::vector<double>(3));
  const auto run = [&](const Ints& y, int64_t weights, int64_t bias) {
    std::vector<Operand> outputs = {{DType::kF32, y, {}}};
    const std::vector<Operand> inputs = {f32({1, 5, 5, 8}, Floats(200)),
                                         Operand{},
                                         Operand{},
                                         f32({weights}, Floats(size_t(weights))),
                                         f32({bias}, Floats(size_t(bias))),
                                         f32({128}, Floats(128))};
    run_step("conv_chain", attrs, inputs, outputs, 1, Guard::kAfter);
  };
  CHECK_THROWS(run({1, 4, 3, 8}, 144, 8), "wrong spatial size");
  CHECK_THROWS(run({1, 3, 3, 8}, 100, 8), "aren't packed");
  CHECK_THROWS(run({1, 3, 3, 8}, 144, 7), "wrong size");
  CHECK_THROWS(run({1, 3, 3, 9}, 144, 8), "must be [N, H, W, C]");
}

}  // namespace

int main() {
  test_forms();
  test_windows();
  test_epilogues();
  test_bands();
  test_empty();
  test_errors();
  return 0;
}
