#include "kernels/recurrent/problem.h"

#include <algorithm>
#include <cctype>
#include <limits>

#include "kernels/support/operands.h"

namespace graphopt::recurrent {

using support::fail;
using support::require;
using support::require_rank;
using support::require_shape;

namespace {

struct FunctionRow {
  const char* name;
  Function function;
  int parameters;  // 0: none, 1: alpha, 2: alpha and beta
  float alpha;     // defaults
  float beta;
};

constexpr FunctionRow kFunctions[] = {
    {"sigmoid", Function::kSigmoid, 0, 0.0F, 0.0F},
    {"tanh", Function::kTanh, 0, 0.0F, 0.0F},
    {"relu", Function::kRelu, 0, 0.0F, 0.0F},
    {"affine", Function::kAffine, 2, 1.0F, 0.0F},
    {"leakyrelu", Function::kLeakyRelu, 1, 0.01F, 0.0F},
    {"thresholdedrelu", Function::kThresholdedRelu, 1, 1.0F, 0.0F},
    {"scaledtanh", Function::kScaledTanh, 2, 1.0F, 1.0F},
    {"hardsigmoid", Function::kHardSigmoid, 2, 0.2F, 0.5F},
    {"elu", Function::kElu, 1, 1.0F, 0.0F},
    {"softsign", Function::kSoftsign, 0, 0.0F, 0.0F},
    {"softplus", Function::kSoftplus, 0, 0.0F, 0.0F},
};

const FunctionRow& function_row(const std::string& name) {
  std::string lower = name;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const FunctionRow& row : kFunctions) {
    if (lower == row.name) return row;
  }
  fail("activation '" + name + "' is not one that recurrent layers have");
}

// alpha and beta are consumed in the order of the functions, by the functions that have them.
void parse_activations(const Attrs& attrs, Settings& settings) {
  static const std::vector<std::string> kDefaults[] = {{"Tanh"}, {"Sigmoid", "Tanh"}, {"Sigmoid", "Tanh", "Tanh"}};
  const auto count = static_cast<size_t>(activation_count(settings.cell));
  const std::vector<std::string>& defaults = kDefaults[static_cast<size_t>(settings.cell)];
  std::vector<std::string> names;
  if (attrs.has("activations")) names = attrs.strings("activations");
  const std::vector<double> alphas =
      attrs.has("activation_alpha") ? attrs.reals("activation_alpha") : std::vector<double>{};
  const std::vector<double> betas =
      attrs.has("activation_beta") ? attrs.reals("activation_beta") : std::vector<double>{};
  const size_t wanted = count * static_cast<size_t>(settings.directions);
  if (names.empty()) {
    for (size_t i = 0; i < wanted; ++i) names.push_back(defaults[i % count]);
  }
  if (names.size() != wanted) {
    fail("attribute 'activations' has " + std::to_string(names.size()) + " entries, expected " +
         std::to_string(wanted));
  }
  size_t alpha = 0;
  size_t beta = 0;
  for (size_t i = 0; i < wanted; ++i) {
    const FunctionRow& row = function_row(names[i]);
    Activation& activation = settings.activations[i / count][i % count];
    activation = {row.function, row.alpha, row.beta};
    if (row.parameters > 0 && alpha < alphas.size()) activation.alpha = static_cast<float>(alphas[alpha++]);
    if (row.parameters > 1 && beta < betas.size()) activation.beta = static_cast<float>(betas[beta++]);
  }
}

}  // namespace

Settings parse_settings(const Attrs& attrs, Cell cell) {
  Settings settings{};
  settings.cell = cell;
  const std::string direction = attrs.s("direction", "forward");
  if (direction != "forward" && direction != "reverse" && direction != "bidirectional") {
    fail("attribute 'direction' is '" + direction + "', expected forward, reverse or bidirectional");
  }
  settings.directions = direction == "bidirectional" ? 2 : 1;
  settings.reverse = direction == "reverse";
  const int64_t layout = attrs.i("layout", 0);
  require(layout == 0 || layout == 1, "attribute 'layout' is neither 0 nor 1");
  settings.batch_first = layout == 1;
  settings.couple = attrs.i("input_forget", 0) != 0;
  settings.linear_before_reset = attrs.i("linear_before_reset", 0) != 0;
  settings.hidden_size = attrs.i("hidden_size", 0);
  require(settings.hidden_size >= 0, "attribute 'hidden_size' is negative");
  settings.clip = std::numeric_limits<float>::infinity();
  if (attrs.has("clip")) {
    settings.clip = static_cast<float>(attrs.f("clip"));
    require(settings.clip >= 0.0F, "attribute 'clip' is negative");
    // The definition has no "off" value; exporters write 0 for it.
    if (settings.clip == 0.0F) settings.clip = std::numeric_limits<float>::infinity();
  }
  parse_activations(attrs, settings);
  return settings;
}

Sizes check_sizes(const Settings& settings, std::span<const Tensor> inputs, std::span<const Tensor> outputs) {
  const Tensor& x = support::operand(inputs, 0, "X");
  const Tensor& w = support::operand(inputs, 1, "W");
  const Tensor& r = support::operand(inputs, 2, "R");
  require_rank(x, 3, "X");
  require_rank(w, 3, "W");
  require_rank(r, 3, "R");
  Sizes sizes{};
  sizes.directions = settings.directions;
  sizes.gates = gate_count(settings.cell);
  sizes.steps = x.dim(settings.batch_first ? 1 : 0);
  sizes.batch = x.dim(settings.batch_first ? 0 : 1);
  sizes.input = x.dim(2);
  sizes.hidden = r.dim(2);
  if (settings.hidden_size != 0 && settings.hidden_size != sizes.hidden) {
    fail("R has " + std::to_string(sizes.hidden) + " hidden units, attribute 'hidden_size' says " +
         std::to_string(settings.hidden_size));
  }
  const int64_t d = sizes.directions;
  const int64_t h = sizes.hidden;
  const int64_t rows = sizes.gates * h;
  require_shape(w, {d, rows, sizes.input}, "W");
  require_shape(r, {d, rows, h}, "R");
  const std::array<int64_t, 3> state =
      settings.batch_first ? std::array{sizes.batch, d, h} : std::array{d, sizes.batch, h};
  auto check = [&](std::span<const Tensor> list, size_t index, std::span<const int64_t> shape, const char* what) {
    if (index >= list.size() || !list[index].present()) return;
    require_shape(list[index], shape, what);
    support::require_dtype(list[index], x.dtype, what);
  };
  support::require_dtype(w, x.dtype, "W");
  support::require_dtype(r, x.dtype, "R");
  check(inputs, 3, std::array{d, 2 * rows}, "B");
  if (inputs.size() > 4 && inputs[4].present()) {
    support::require_dtype(inputs[4], DType::kI32, "sequence_lens");
    require_shape(inputs[4], {sizes.batch}, "sequence_lens");
  }
  check(inputs, 5, state, "initial_h");
  check(inputs, 6, state, "initial_c");
  check(inputs, 7, std::array{d, 3 * h}, "P");
  check(outputs, 0,
        settings.batch_first ? std::array{sizes.batch, sizes.steps, d, h} : std::array{sizes.steps, d, sizes.batch, h},
        "Y");
  check(outputs, 1, state, "Y_h");
  check(outputs, 2, state, "Y_c");
  return sizes;
}

void check_lengths(const Sizes& sizes, const int32_t* lengths) {
  if (lengths == nullptr) return;
  for (int64_t n = 0; n < sizes.batch; ++n) {
    if (lengths[n] < 0 || lengths[n] > sizes.steps) {
      fail("sequence_lens[" + std::to_string(n) + "] is " + std::to_string(lengths[n]) + ", expected 0 to " +
           std::to_string(sizes.steps));
    }
  }
}

}  // namespace graphopt::recurrent
