// The shapes, settings and operands of one recurrent layer, checked.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "graphopt/kernel.h"
#include "kernels/recurrent/kernels.h"

namespace graphopt::recurrent {

enum class Cell : uint8_t { kRnn, kGru, kLstm };

constexpr int gate_count(Cell cell) { return cell == Cell::kLstm ? 4 : (cell == Cell::kGru ? 3 : 1); }
constexpr int activation_count(Cell cell) { return cell == Cell::kLstm ? 3 : (cell == Cell::kGru ? 2 : 1); }

// What the attributes say.
struct Settings {
  Cell cell;
  int directions;
  bool reverse;  // of direction 0; direction 1 always runs backwards
  bool batch_first;
  bool couple;               // LSTM input_forget
  bool linear_before_reset;  // GRU
  int64_t hidden_size;       // 0: taken from R
  float clip;                // infinite for none
  std::array<std::array<Activation, 3>, 2> activations;

  [[nodiscard]] bool backwards(int64_t direction) const { return direction == 1 || reverse; }
};

// Throws on attributes that the operator's definition forbids.
Settings parse_settings(const Attrs& attrs, Cell cell);

struct Sizes {
  int64_t steps, batch, input, hidden;
  int directions;
  int gates;
};

// Throws when the shapes do not fit together. Data pointers are not read.
Sizes check_sizes(const Settings& settings, std::span<const Tensor> inputs, std::span<const Tensor> outputs);

// Operands of element type T; absent ones are null.
template <class T>
struct Operands {
  const T *x, *w, *r, *b, *h0, *c0, *p;
  const int32_t* lengths;
  T *y, *y_h, *y_c;
};

// Element `index` of the operand list, by type T.
template <class T>
Operands<T> operands_of(std::span<const Tensor> inputs, std::span<const Tensor> outputs) {
  auto in = [&](size_t i) { return i < inputs.size() && inputs[i].present() ? inputs[i].ptr<const T>() : nullptr; };
  auto out = [&](size_t i) { return i < outputs.size() && outputs[i].present() ? outputs[i].ptr<T>() : nullptr; };
  const bool has_lengths = inputs.size() > 4 && inputs[4].present();
  return {in(0),  in(1),  in(2), in(3), in(5), in(6), in(7), has_lengths ? inputs[4].ptr<const int32_t>() : nullptr,
          out(0), out(1), out(2)};
}

// Throws unless every length is in [0, steps].
void check_lengths(const Sizes& sizes, const int32_t* lengths);

// Where row (step, batch) of X is, row (step, direction, batch) of Y, row (direction, batch) of a state.
struct Places {
  Sizes sizes;
  bool batch_first;

  [[nodiscard]] int64_t x(int64_t step, int64_t n) const {
    return (batch_first ? n * sizes.steps + step : step * sizes.batch + n) * sizes.input;
  }
  [[nodiscard]] int64_t y(int64_t step, int64_t d, int64_t n) const {
    const int64_t row =
        batch_first ? (n * sizes.steps + step) * sizes.directions + d : (step * sizes.directions + d) * sizes.batch + n;
    return row * sizes.hidden;
  }
  [[nodiscard]] int64_t state(int64_t d, int64_t n) const {
    return (batch_first ? n * sizes.directions + d : d * sizes.batch + n) * sizes.hidden;
  }
};

}  // namespace graphopt::recurrent
