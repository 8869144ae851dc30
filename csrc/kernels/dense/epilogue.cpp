#include "kernels/dense/epilogue.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace graphopt {
namespace {

constexpr std::pair<std::string_view, Activation> kNames[] = {
    {"none", Activation::kNone},           {"relu", Activation::kRelu},
    {"clip", Activation::kClip},           {"leaky_relu", Activation::kLeakyRelu},
    {"sigmoid", Activation::kSigmoid},     {"silu", Activation::kSilu},
    {"tanh", Activation::kTanh},           {"hardsigmoid", Activation::kHardSigmoid},
    {"hardswish", Activation::kHardSwish}, {"gelu", Activation::kGelu},
    {"gelu_tanh", Activation::kGeluTanh},  {"elu", Activation::kElu},
    {"mish", Activation::kMish},           {"softplus", Activation::kSoftplus},
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double softplus(double x) { return (x > 0 ? x : 0) + std::log1p(std::exp(-std::abs(x))); }
// Bounds that let NaN through.
double clamp(double x, double low, double high) {
  if (x < low) x = low;
  return x > high ? high : x;
}

}  // namespace

Epilogue parse_epilogue(const Attrs& attrs) {
  const std::string name = attrs.s("activation", "none");
  const auto* it =
      std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& row) { return row.first == name; });
  if (it == std::end(kNames)) throw Error("unknown activation '" + name + "'");
  Epilogue epilogue;
  epilogue.activation = it->second;
  epilogue.alpha = static_cast<float>(attrs.f("alpha", 0));
  epilogue.beta = static_cast<float>(attrs.f("beta", 0));
  epilogue.residual_after = attrs.i("residual_after", 0) != 0;
  return epilogue;
}

double apply_activation(const Epilogue& epilogue, double x) {
  const double alpha = epilogue.alpha;
  const double beta = epilogue.beta;
  switch (epilogue.activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x < 0 ? 0 : x;
    case Activation::kClip:
      return clamp(x, alpha, beta);
    case Activation::kLeakyRelu:
      return x < 0 ? alpha * x : x;
    case Activation::kSigmoid:
      return sigmoid(x);
    case Activation::kSilu:
      return x * sigmoid(x);
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kHardSigmoid:
      return clamp(alpha * x + beta, 0, 1);
    case Activation::kHardSwish:
      return x * clamp(x / 6 + 0.5, 0, 1);
    case Activation::kGelu:
    case Activation::kGeluRough:
      return 0.5 * x * (1 + std::erf(x * 0.70710678118654752440));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case Activation::kElu:
      return x < 0 ? alpha * std::expm1(x) : x;
    case Activation::kMish:
      return x * std::tanh(softplus(x));
    case Activation::kSoftplus:
      return softplus(x);
  }
  return x;
}

}  // namespace graphopt
