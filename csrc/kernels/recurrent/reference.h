// The recurrent layers as ONNX writes them, one scalar at a time: the kernel of f64, the oracle of the rest.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/recurrent/problem.h"

namespace graphopt::recurrent {

template <class T>
T reference_activation(const Activation& activation, T x) {
  const T alpha = activation.alpha;
  const T beta = activation.beta;
  switch (activation.function) {
    case Function::kSigmoid:
      return T{1} / (T{1} + std::exp(-x));
    case Function::kTanh:
      return std::tanh(x);
    case Function::kRelu:
      return x < T{0} ? T{0} : x;
    case Function::kAffine:
      return alpha * x + beta;
    case Function::kLeakyRelu:
      return x < T{0} ? alpha * x : x;
    case Function::kThresholdedRelu:
      return x < alpha ? T{0} : x;
    case Function::kScaledTanh:
      return alpha * std::tanh(beta * x);
    case Function::kHardSigmoid:
      return std::min(std::max(alpha * x + beta, T{0}), T{1});
    case Function::kElu:
      return x < T{0} ? alpha * std::expm1(x) : x;
    case Function::kSoftsign:
      return x / (T{1} + std::abs(x));
    case Function::kSoftplus:
      return std::max(x, T{0}) + std::log1p(std::exp(-std::abs(x)));
  }
  return x;
}

// One direction of one batch row.
template <class T>
class ReferenceSequence {
 public:
  ReferenceSequence(const Settings& settings, const Sizes& sizes, const Operands<T>& ops, int direction, int64_t row)
      : settings_(settings), sizes_(sizes), ops_(ops), places_{sizes, settings.batch_first}, d_(direction), n_(row) {}

  void run() {
    const auto hidden = static_cast<size_t>(sizes_.hidden);
    const int64_t state = places_.state(d_, n_);
    h_.assign(hidden, T{0});
    c_.assign(hidden, T{0});
    if (ops_.h0 != nullptr) std::copy_n(ops_.h0 + state, sizes_.hidden, h_.begin());
    if (ops_.c0 != nullptr) std::copy_n(ops_.c0 + state, sizes_.hidden, c_.begin());
    const int64_t length = ops_.lengths != nullptr ? ops_.lengths[n_] : sizes_.steps;
    for (int64_t s = 0; s < length; ++s) {
      const int64_t step = settings_.backwards(d_) ? length - 1 - s : s;
      advance(ops_.x + places_.x(step, n_));
      if (ops_.y != nullptr) std::copy_n(h_.begin(), hidden, ops_.y + places_.y(step, d_, n_));
    }
    for (int64_t step = length; ops_.y != nullptr && step < sizes_.steps; ++step) {
      std::fill_n(ops_.y + places_.y(step, d_, n_), hidden, T{0});
    }
    if (ops_.y_h != nullptr) std::copy_n(h_.begin(), hidden, ops_.y_h + state);
    if (ops_.y_c != nullptr) std::copy_n(c_.begin(), hidden, ops_.y_c + state);
  }

 private:
  // Bias `half` (0: of W, 1: of R) of gate g, unit j.
  T bias(int half, int64_t g, int64_t j) const {
    if (ops_.b == nullptr) return T{0};
    return ops_.b[((d_ * 2 + half) * sizes_.gates + g) * sizes_.hidden + j];
  }
  T input_part(const T* x, int64_t g, int64_t j) const {
    const T* w = ops_.w + ((d_ * sizes_.gates + g) * sizes_.hidden + j) * sizes_.input;
    T sum = bias(0, g, j);
    for (int64_t k = 0; k < sizes_.input; ++k) sum += w[k] * x[k];
    return sum;
  }
  T recurrent_part(const std::vector<T>& h, int64_t g, int64_t j) const {
    const T* r = ops_.r + ((d_ * sizes_.gates + g) * sizes_.hidden + j) * sizes_.hidden;
    T sum = bias(1, g, j);
    for (int64_t k = 0; k < sizes_.hidden; ++k) sum += r[k] * h[static_cast<size_t>(k)];
    return sum;
  }
  T activate(int index, T x) const {
    // The cell state under h is not clipped: see kernels.h.
    const T clip = index == 2 ? std::numeric_limits<T>::infinity() : T{settings_.clip};
    return reference_activation<T>(settings_.activations[static_cast<size_t>(d_)][static_cast<size_t>(index)],
                                   std::min(std::max(x, -clip), clip));
  }
  T peephole(int gate, int64_t j) const {
    return ops_.p == nullptr ? T{0} : ops_.p[(d_ * 3 + gate) * sizes_.hidden + j];
  }

  void advance(const T* x) {
    const std::vector<T> previous = h_;
    std::vector<T> reset(previous.size());
    std::vector<T> update(previous.size());
    if (settings_.cell == Cell::kGru) {
      for (int64_t j = 0; j < sizes_.hidden; ++j) {
        const auto at = static_cast<size_t>(j);
        update[at] = activate(0, input_part(x, 0, j) + recurrent_part(previous, 0, j));
        reset[at] = activate(0, input_part(x, 1, j) + recurrent_part(previous, 1, j));
      }
    }
    std::vector<T> gated = reset;
    for (size_t i = 0; i < gated.size(); ++i) gated[i] *= previous[i];
    for (int64_t j = 0; j < sizes_.hidden; ++j) {
      const auto at = static_cast<size_t>(j);
      switch (settings_.cell) {
        case Cell::kRnn:
          h_[at] = activate(0, input_part(x, 0, j) + recurrent_part(previous, 0, j));
          break;
        case Cell::kGru: {
          const T inner =
              settings_.linear_before_reset ? reset[at] * recurrent_part(previous, 2, j) : recurrent_part(gated, 2, j);
          const T candidate = activate(1, input_part(x, 2, j) + inner);
          h_[at] = (T{1} - update[at]) * candidate + update[at] * previous[at];
          break;
        }
        case Cell::kLstm:
          lstm(x, previous, j);
          break;
      }
    }
  }

  void lstm(const T* x, const std::vector<T>& previous, int64_t j) {
    const auto at = static_cast<size_t>(j);
    auto gate = [&](int g) { return input_part(x, g, j) + recurrent_part(previous, g, j); };
    const T input = activate(0, gate(0) + peephole(0, j) * c_[at]);
    const T forget = settings_.couple ? T{1} - input : activate(0, gate(2) + peephole(2, j) * c_[at]);
    c_[at] = forget * c_[at] + input * activate(1, gate(3));
    h_[at] = activate(0, gate(1) + peephole(1, j) * c_[at]) * activate(2, c_[at]);
  }

  const Settings& settings_;
  const Sizes& sizes_;
  const Operands<T>& ops_;
  Places places_;
  int64_t d_;
  int64_t n_;
  std::vector<T> h_;
  std::vector<T> c_;
};

template <class T>
void run_reference(const Settings& settings, const Sizes& sizes, const Operands<T>& ops) {
  for (int d = 0; d < sizes.directions; ++d) {
    for (int64_t n = 0; n < sizes.batch; ++n) ReferenceSequence<T>(settings, sizes, ops, d, n).run();
  }
}

}  // namespace graphopt::recurrent
