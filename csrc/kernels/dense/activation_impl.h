// Applies an activation to a tile in memory. Included after one simd_*.h and vmath.h.
#pragma once

#include <cstdint>

#include "kernels/dense/activation.h"

namespace graphopt {
namespace {

struct ActivationArgs {
  float* c;
  const float* residual;  // added afterwards; may be null
  const int64_t* rows;    // offset of each row, for both
  int64_t row_count;
  int64_t columns;
  float alpha;
  float beta;
};

template <class F>
void map_tile(const ActivationArgs& args, F&& f) {
  for (int64_t r = 0; r < args.row_count; ++r) {
    float* c = args.c + args.rows[r];
    const float* residual = args.residual == nullptr ? nullptr : args.residual + args.rows[r];
    for (int64_t j = 0; j < args.columns; j += Simd::kLanes) {
      const int64_t lanes = args.columns - j;
      Simd::F x = f(Simd::load_n(c + j, lanes));
      if (residual != nullptr) x = Simd::add(x, Simd::load_n(residual + j, lanes));
      Simd::store_n(c + j, x, lanes);
    }
  }
}

void activate_tile(Activation activation, const ActivationArgs& args) {
  using V = VMath;
  using F = Simd::F;
  const F alpha = V::set1(args.alpha);
  const F beta = V::set1(args.beta);
  const F one = V::set1(1.0F);
  switch (activation) {
    case Activation::kNone:
    case Activation::kRelu:
    case Activation::kClip:
      break;  // the tile kernel clamps
    case Activation::kLeakyRelu:
      map_tile(args, [&](F x) { return V::select(V::lt(x, V::zero()), V::mul(alpha, x), x); });
      break;
    case Activation::kSigmoid:
      map_tile(args, [](F x) { return V::sigmoid(x); });
      break;
    case Activation::kSilu:
      map_tile(args, [](F x) { return V::mul(x, V::sigmoid(x)); });
      break;
    case Activation::kTanh:
      map_tile(args, [](F x) { return V::tanh(x); });
      break;
    case Activation::kHardSigmoid:
      map_tile(args, [&](F x) { return V::min(one, V::max(V::zero(), V::fma(alpha, x, beta))); });
      break;
    case Activation::kHardSwish:
      map_tile(args, [&](F x) {
        const F gate = V::fma(x, V::set1(1.0F / 6.0F), V::set1(0.5F));
        return V::mul(x, V::min(one, V::max(V::zero(), gate)));
      });
      break;
    case Activation::kGelu:
      map_tile(args, [](F x) { return V::gelu(x); });
      break;
    case Activation::kGeluRough:
      map_tile(args, [](F x) { return V::gelu_rough(x); });
      break;
    case Activation::kGeluTanh:
      map_tile(args, [](F x) { return V::gelu_tanh(x); });
      break;
    case Activation::kElu:
      map_tile(args, [&](F x) { return V::select(V::lt(x, V::zero()), V::mul(alpha, V::expm1_negative(x)), x); });
      break;
    case Activation::kMish:
      map_tile(args, [](F x) { return V::mish(x); });
      break;
    case Activation::kSoftplus:
      map_tile(args, [](F x) { return V::softplus(x); });
      break;
  }
}

}  // namespace
}  // namespace graphopt
