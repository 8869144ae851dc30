// The vectorised parts of the recurrent layers, one table of functions an instruction-set level.
//
// Weights, biases and gate values are laid out in panels of 16 hidden units: panel (u, g) holds gate g of
// units [16 u, 16 u + 16), and the panels of one u follow each other. Units past the hidden size are
// zero in weights and biases; what is computed for them is never read.
#pragma once

#include <stdint.h>

namespace graphopt::recurrent {

inline constexpr int64_t kUnits = 16;

enum class Function : uint8_t {
  kSigmoid,
  kTanh,
  kRelu,
  kAffine,
  kLeakyRelu,
  kThresholdedRelu,
  kScaledTanh,
  kHardSigmoid,
  kElu,
  kSoftsign,
  kSoftplus,
};

struct Activation {
  Function function;
  float alpha;
  float beta;
};

// rows[r][column .. column + 16) for count panels, panel j at column + j * column_step:
//   out = (bias or out) + sum_k x[r][k] * packed[j * panel_step + k * 16 ..]
struct PanelProduct {
  const float* const* x;
  float* const* out;
  int64_t rows;
  int64_t depth;
  const float* packed;
  int64_t panel_step;
  const float* bias;  // indexed as a row of `out`, or null to add to `out`
  int64_t column;
  int64_t column_step;
  int64_t count;
};

// out[r][0 .. lanes) = (bias or out) + sum_k x[r][k] * w[lane * depth + k], lanes <= 16: no packing.
struct RowProduct {
  const float* const* x;
  float* const* out;
  int64_t rows;
  int64_t depth;
  const float* w;
  const float* bias;  // indexed as `out`, or null to add to `out`
  int64_t column;
  int64_t lanes;
};

// One panel of 16 units of one batch row. `clip` is not negative, infinite for none; as in onnxruntime it bounds
// what f and g are applied to, not the cell state under h.
struct LstmCell {
  const float* gates;     // 4 panels: input, output, forget, cell
  const float* peephole;  // 3 panels: input, output, forget; or null
  float* c;               // previous cell state in, new one out
  float* h;               // new hidden state
  Activation f, g, hidden;
  float clip;
  bool couple;  // forget gate = 1 - input gate
};

struct GruCell {
  float* gates;         // 3 panels: update, reset, hidden. The first function leaves z and r activated
  const float* linear;  // h R_h^T + Rb_h when the linear transform comes before the reset, else null
  const float* previous;
  float* h;      // new hidden state (second function)
  float* reset;  // r * previous (first function, when `linear` is null)
  Activation f, g;
  float clip;
};

struct RnnCell {
  const float* gates;  // 1 panel
  float* h;
  Activation f;
  float clip;
};

struct Kernels {
  void (*pack)(const float* w, int64_t lanes, int64_t depth, float* packed);
  void (*panel_product)(const PanelProduct& job);
  void (*row_product)(const RowProduct& job);
  void (*lstm_cell)(const LstmCell& cell);
  void (*gru_gates)(const GruCell& cell);
  void (*gru_output)(const GruCell& cell);
  void (*rnn_cell)(const RnnCell& cell);
};

#define GRAPHOPT_RECURRENT(isa, table) extern const Kernels table;
#include "kernels/recurrent/kernels.inc"
#undef GRAPHOPT_RECURRENT

}  // namespace graphopt::recurrent
