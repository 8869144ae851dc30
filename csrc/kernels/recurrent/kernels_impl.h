// The bodies behind kernels.h, compiled once a level. Included by the kernels_<isa>.cpp files only.
#include "kernels/recurrent/kernels.h"
#include "kernels/support/simd.h"

namespace graphopt::recurrent {
namespace {

static_assert(kPanel == kUnits);

// packed[k * 16 + lane] = w[lane][k], zero past `lanes`.
void pack(const float* w, int64_t lanes, int64_t depth, float* packed) {
  int64_t k = 0;
  for (; k + Vec::kLanes <= depth; k += Vec::kLanes) {
    for (int64_t base = 0; base < kUnits; base += Vec::kLanes) {
      Vec square[Vec::kLanes];
      for (int l = 0; l < Vec::kLanes; ++l) {
        square[l] = base + l < lanes ? load(w + (base + l) * depth + k) : splat(0.0F);
      }
      transpose(square);
      for (int l = 0; l < Vec::kLanes; ++l) store(packed + (k + l) * kUnits + base, square[l]);
    }
  }
  for (; k < depth; ++k) {
    for (int64_t lane = 0; lane < kUnits; ++lane) {
      packed[k * kUnits + lane] = lane < lanes ? w[lane * depth + k] : 0.0F;
    }
  }
}

template <int kRows, int kPanels>
inline void product_tile(const PanelProduct& job, int64_t row, int64_t panel) {
  Vec sums[kRows][kPanels][kVecsInPanel];
  for (int j = 0; j < kPanels; ++j) {
    const int64_t column = job.column + (panel + j) * job.column_step;
    for (int r = 0; r < kRows; ++r) {
      const float* start = (job.bias != nullptr ? job.bias : job.out[row + r]) + column;
      for (int v = 0; v < kVecsInPanel; ++v) sums[r][j][v] = load(start + v * Vec::kLanes);
    }
  }
  const float* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = job.x[row + r];
  const float* packed = job.packed + panel * job.panel_step;
  for (int64_t k = 0; k < job.depth; ++k) {
    Vec b[kPanels][kVecsInPanel];
    for (int j = 0; j < kPanels; ++j) {
      for (int v = 0; v < kVecsInPanel; ++v) {
        b[j][v] = load(packed + j * job.panel_step + k * kUnits + v * Vec::kLanes);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const Vec a = splat(x[r][k]);
      for (int j = 0; j < kPanels; ++j) {
        for (int v = 0; v < kVecsInPanel; ++v) sums[r][j][v] = fma(a, b[j][v], sums[r][j][v]);
      }
    }
  }
  for (int j = 0; j < kPanels; ++j) {
    const int64_t column = job.column + (panel + j) * job.column_step;
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVecsInPanel; ++v) store(job.out[row + r] + column + v * Vec::kLanes, sums[r][j][v]);
    }
  }
}

// The rows of `kPanels` panels, kRows at a time and what remains one tile.
template <int kRows, int kPanels>
inline void product_rows(const PanelProduct& job, int64_t row, int64_t panel) {
  for (; row + kRows <= job.rows; row += kRows) product_tile<kRows, kPanels>(job, row, panel);
  if constexpr (kRows > 1) {
    if (row < job.rows) product_rows<kRows - 1, kPanels>(job, row, panel);
  }
}

// Tiles are as large as the registers allow: accumulators, one row of the panels and one broadcast.
constexpr int kWideRows = kVecsInPanel == 1 ? 6 : 1;
constexpr int kMiddleRows = kVecsInPanel == 1 ? 6 : (kVecsInPanel == 2 ? 3 : 1);
constexpr int kNarrowRows = kVecsInPanel == 4 ? 2 : 6;

void panel_product(const PanelProduct& job) {
  int64_t panel = 0;
  if (kVecsInPanel == 1 || (kVecsInPanel == 2 && job.rows == 1)) {
    for (; panel + 4 <= job.count; panel += 4) product_rows<kWideRows, 4>(job, 0, panel);
  }
  if (kVecsInPanel < 4 || job.rows == 1) {
    for (; panel + 2 <= job.count; panel += 2) product_rows<kMiddleRows, 2>(job, 0, panel);
  }
  for (; panel < job.count; ++panel) product_rows<kNarrowRows, 1>(job, 0, panel);
}

// Dot products of kRows <= kLanes weight rows with one x: no packing, but a reduction at the end.
template <int kRows>
inline Vec dot_rows(const float* w, const float* x, int64_t depth) {
  Vec sums[Vec::kLanes];
  for (Vec& sum : sums) sum = splat(0.0F);
  int64_t k = 0;
  for (; k + Vec::kLanes <= depth; k += Vec::kLanes) {
    const Vec a = load(x + k);
    for (int r = 0; r < kRows; ++r) sums[r] = fma(a, load(w + r * depth + k), sums[r]);
  }
  if (k < depth) {
    const int rest = static_cast<int>(depth - k);
    const Vec a = load_first(x + k, rest);
    for (int r = 0; r < kRows; ++r) sums[r] = fma(a, load_first(w + r * depth + k, rest), sums[r]);
  }
  return sums_of(sums);
}

void row_product(const RowProduct& job) {
  for (int64_t r = 0; r < job.rows; ++r) {
    float* out = job.out[r] + job.column;
    const float* start = job.bias != nullptr ? job.bias + job.column : out;
    int64_t lane = 0;
    for (; lane + Vec::kLanes <= job.lanes; lane += Vec::kLanes) {
      const Vec dots = dot_rows<Vec::kLanes>(job.w + lane * job.depth, job.x[r], job.depth);
      store(out + lane, add(load(start + lane), dots));
    }
    for (; lane < job.lanes; ++lane) {
      float dots[Vec::kLanes];
      store(dots, dot_rows<1>(job.w + lane * job.depth, job.x[r], job.depth));
      out[lane] = start[lane] + dots[0];
    }
    for (; lane < kUnits; ++lane) out[lane] = 0.0F;
  }
}

inline Vec map_lanes(Vec x, float (*function)(float)) {
  float lanes[Vec::kLanes];
  store(lanes, x);
  for (float& lane : lanes) lane = function(lane);
  return load(lanes);
}

// log(1 + e^x) without overflow: max(x, 0) + log1p(e^-|x|).
float softplus(float x) {
  const float positive = x > 0.0F ? x : 0.0F;
  return x != x ? x : positive + __builtin_log1pf(__builtin_expf(x > 0.0F ? -x : x));
}

inline Vec apply(const Activation& activation, Vec x) {
  const Vec zero = splat(0.0F);
  const Vec alpha = splat(activation.alpha);
  const Vec beta = splat(activation.beta);
  switch (activation.function) {
    case Function::kSigmoid:
      return sigmoid(x);
    case Function::kTanh:
      return tanh(x);
    case Function::kRelu:
      return max(zero, x);
    case Function::kAffine:
      return fma(alpha, x, beta);
    case Function::kLeakyRelu:
      return select_less(x, zero, mul(alpha, x), x);
    case Function::kThresholdedRelu:
      return select_less(x, alpha, zero, x);
    case Function::kScaledTanh:
      return mul(alpha, tanh(mul(beta, x)));
    case Function::kHardSigmoid:
      return min(splat(1.0F), max(zero, fma(alpha, x, beta)));
    case Function::kElu:
      return select_less(x, zero, mul(alpha, expm1_negative(min(zero, x))), x);
    case Function::kSoftsign:
      return div(x, add(splat(1.0F), abs(x)));
    case Function::kSoftplus:
      return map_lanes(x, softplus);
  }
  return x;
}

inline Vec clipped(Vec x, float clip) { return min(splat(clip), max(splat(-clip), x)); }

void lstm_cell(const LstmCell& cell) {
  for (int v = 0; v < kVecsInPanel; ++v) {
    const int64_t at = v * Vec::kLanes;
    const Vec previous = load(cell.c + at);
    Vec input = load(cell.gates + at);
    Vec output = load(cell.gates + kUnits + at);
    Vec forget = load(cell.gates + 2 * kUnits + at);
    const Vec candidate = load(cell.gates + 3 * kUnits + at);
    if (cell.peephole != nullptr) {
      input = fma(load(cell.peephole + at), previous, input);
      forget = fma(load(cell.peephole + 2 * kUnits + at), previous, forget);
    }
    input = apply(cell.f, clipped(input, cell.clip));
    forget = cell.couple ? sub(splat(1.0F), input) : apply(cell.f, clipped(forget, cell.clip));
    const Vec fresh = mul(input, apply(cell.g, clipped(candidate, cell.clip)));
    const Vec c = fma(forget, previous, fresh);
    if (cell.peephole != nullptr) output = fma(load(cell.peephole + kUnits + at), c, output);
    output = apply(cell.f, clipped(output, cell.clip));
    store(cell.c + at, c);
    store(cell.h + at, mul(output, apply(cell.hidden, c)));
  }
}

void gru_gates(const GruCell& cell) {
  for (int v = 0; v < kVecsInPanel; ++v) {
    const int64_t at = v * Vec::kLanes;
    const Vec reset = apply(cell.f, clipped(load(cell.gates + kUnits + at), cell.clip));
    store(cell.gates + at, apply(cell.f, clipped(load(cell.gates + at), cell.clip)));
    store(cell.gates + kUnits + at, reset);
    if (cell.linear == nullptr) store(cell.reset + at, mul(reset, load(cell.previous + at)));
  }
}

void gru_output(const GruCell& cell) {
  for (int v = 0; v < kVecsInPanel; ++v) {
    const int64_t at = v * Vec::kLanes;
    Vec candidate = load(cell.gates + 2 * kUnits + at);
    if (cell.linear != nullptr) candidate = fma(load(cell.gates + kUnits + at), load(cell.linear + at), candidate);
    candidate = apply(cell.g, clipped(candidate, cell.clip));
    const Vec update = load(cell.gates + at);
    // (1 - z) h~ + z h
    store(cell.h + at, fma(update, load(cell.previous + at), mul(sub(splat(1.0F), update), candidate)));
  }
}

void rnn_cell(const RnnCell& cell) {
  for (int v = 0; v < kVecsInPanel; ++v) {
    const int64_t at = v * Vec::kLanes;
    store(cell.h + at, apply(cell.f, clipped(load(cell.gates + at), cell.clip)));
  }
}

}  // namespace
}  // namespace graphopt::recurrent

#define GRAPHOPT_RECURRENT_TABLE(table)                                                                 \
  namespace graphopt::recurrent {                                                                       \
  const Kernels table = {pack, panel_product, row_product, lstm_cell, gru_gates, gru_output, rnn_cell}; \
  }
