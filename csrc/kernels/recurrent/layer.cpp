#include "kernels/recurrent/layer.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/support/operands.h"
#include "runtime/cpu.h"

namespace graphopt::recurrent {

namespace {

// Rows (time steps x batch) from which repacking the weights costs less than it saves.
constexpr int64_t kRowsWorthPacking = 8;
// Input products are computed for as many steps as fit here, so that they are still in cache when used.
constexpr int64_t kChunkBytes = int64_t{1} << 20;
constexpr int64_t kTileRows = 48;
constexpr int64_t kTilePanels = 16;

size_t take(size_t& bytes, int64_t count, size_t size) {
  constexpr size_t kLine = 64;
  const size_t at = bytes;
  bytes += (static_cast<size_t>(count) * size + kLine - 1) / kLine * kLine;
  return at;
}

std::vector<const Kernels*> tables_for_this_machine() {
  std::vector<const Kernels*> tables;
#define GRAPHOPT_RECURRENT(isa, table) \
  if (cpu_isa() >= Isa::isa) tables.push_back(&(table));
#include "kernels/recurrent/kernels.inc"
#undef GRAPHOPT_RECURRENT
  return tables;
}

// One run: the pieces of scratch memory by name and the loops over time, batch and units.
class Layer {
 public:
  Layer(const Settings& settings, const Sizes& sizes, const Operands<float>& ops, const Kernels& table,
        std::byte* memory, const Parallel& parallel)
      : settings_(settings),
        sizes_(sizes),
        ops_(ops),
        table_(table),
        parallel_(parallel),
        scratch_(plan_scratch(settings, sizes)),
        places_{sizes, settings.batch_first},
        memory_(memory) {}

  void run() {
    fill_constants();
    fill_states();
    if (scratch_.pack) pack_weights();
    for (int64_t begin = 0; begin < sizes_.steps; begin += scratch_.chunk) {
      const int64_t end = std::min(begin + scratch_.chunk, sizes_.steps);
      input_products(begin, end);
      for (int64_t s = begin; s < end; ++s) advance(s, s - begin);
    }
    finish();
  }

 private:
  float* floats(size_t at) const { return reinterpret_cast<float*>(memory_ + at); }
  int64_t length(int64_t n) const { return ops_.lengths != nullptr ? ops_.lengths[n] : sizes_.steps; }
  int64_t state_row(int d, int64_t n) const { return (d * sizes_.batch + n) * scratch_.state_width; }
  // The hidden state before (parity of s) and after step s.
  float* h_row(int64_t s, int d, int64_t n) const {
    return floats(scratch_.h) + (s & 1) * sizes_.directions * sizes_.batch * scratch_.state_width + state_row(d, n);
  }
  float* c_row(int d, int64_t n) const { return floats(scratch_.c) + state_row(d, n); }
  float* extra_row(int d, int64_t n) const { return floats(scratch_.extra) + state_row(d, n); }
  float* gate_row(int d, int64_t slot, int64_t n) const {
    return floats(scratch_.gates) + ((d * scratch_.chunk + slot) * sizes_.batch + n) * scratch_.width;
  }
  const float* bias(int d) const { return floats(scratch_.bias) + d * scratch_.width; }
  const float* linear_bias(int d) const { return floats(scratch_.linear_bias) + d * scratch_.state_width; }
  int64_t lanes(int64_t unit) const { return std::min(kUnits, sizes_.hidden - unit * kUnits); }
  bool linear() const { return settings_.cell == Cell::kGru && settings_.linear_before_reset; }

  // Biases and peepholes in panels, zero past the hidden size.
  void fill_constants() {
    std::memset(floats(scratch_.bias), 0, scratch_.gates - scratch_.bias);
    const int gates = sizes_.gates;
    for (int d = 0; d < sizes_.directions; ++d) {
      for (int64_t j = 0; j < sizes_.hidden; ++j) {
        const int64_t unit = j / kUnits;
        const int64_t lane = j % kUnits;
        for (int g = 0; ops_.b != nullptr && g < gates; ++g) {
          const float wb = ops_.b[(d * 2 * gates + g) * sizes_.hidden + j];
          const float rb = ops_.b[((d * 2 + 1) * gates + g) * sizes_.hidden + j];
          const bool apart = linear() && g == 2;
          floats(scratch_.bias)[d * scratch_.width + (unit * gates + g) * kUnits + lane] = apart ? wb : wb + rb;
          if (apart) floats(scratch_.linear_bias)[d * scratch_.state_width + j] = rb;
        }
        for (int g = 0; ops_.p != nullptr && g < 3; ++g) {
          floats(scratch_.peephole)[d * 3 * scratch_.state_width + (unit * 3 + g) * kUnits + lane] =
              ops_.p[(d * 3 + g) * sizes_.hidden + j];
        }
      }
    }
  }

  void fill_states() {
    const auto bytes = static_cast<size_t>(sizes_.hidden) * sizeof(float);
    for (int d = 0; d < sizes_.directions; ++d) {
      for (int64_t n = 0; n < sizes_.batch; ++n) {
        const int64_t at = places_.state(d, n);
        const auto fill = [&](float* row, const float* initial) {
          std::memset(row, 0, static_cast<size_t>(scratch_.state_width) * sizeof(float));
          if (initial != nullptr) std::memcpy(row, initial + at, bytes);
        };
        fill(h_row(0, d, n), ops_.h0);
        fill(c_row(d, n), ops_.c0);
      }
    }
  }

  void pack_weights() {
    const int64_t panels = scratch_.units * sizes_.gates;
    const int64_t cost = kUnits * (sizes_.input + sizes_.hidden);
    parallel_.for_range(sizes_.directions * panels, support::grain_for(cost), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t d = i / panels;
        const int64_t unit = i % panels / sizes_.gates;
        const int64_t row = (d * sizes_.gates + i % sizes_.gates) * sizes_.hidden + unit * kUnits;
        table_.pack(ops_.w + row * sizes_.input, lanes(unit), sizes_.input,
                    floats(scratch_.packed_w) + i * kUnits * sizes_.input);
        table_.pack(ops_.r + row * sizes_.hidden, lanes(unit), sizes_.hidden,
                    floats(scratch_.packed_r) + i * kUnits * sizes_.hidden);
      }
    });
  }

  // gates = bias + X W^T for steps [begin, end) of the rows that have not ended.
  void input_products(int64_t begin, int64_t end) {
    const int64_t rows_most = sizes_.directions * scratch_.chunk * sizes_.batch;
    const auto** x_rows = reinterpret_cast<const float**>(memory_ + scratch_.rows);
    auto** out_rows = reinterpret_cast<float**>(memory_ + scratch_.rows) + rows_most;
    int64_t counts[2] = {0, 0};
    for (int d = 0; d < sizes_.directions; ++d) {
      const int64_t base = d * scratch_.chunk * sizes_.batch;
      for (int64_t s = begin; s < end; ++s) {
        for (int64_t n = 0; n < sizes_.batch; ++n) {
          if (s >= length(n)) continue;
          const int64_t step = settings_.backwards(d) ? length(n) - 1 - s : s;
          x_rows[base + counts[d]] = ops_.x + places_.x(step, n);
          out_rows[base + counts[d]++] = gate_row(d, s - begin, n);
        }
      }
    }
    const int64_t tile_rows = scratch_.pack ? kTileRows : std::max<int64_t>(1, std::max(counts[0], counts[1]));
    const int64_t tile_units = scratch_.pack ? std::max<int64_t>(1, kTilePanels / sizes_.gates) : 1;
    const int64_t row_tiles = (std::max(counts[0], counts[1]) + tile_rows - 1) / tile_rows;
    const int64_t unit_tiles = (scratch_.units + tile_units - 1) / tile_units;
    const int64_t cost = tile_rows * tile_units * sizes_.gates * kUnits * sizes_.input / 16;
    auto body = [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        // Row tiles are innermost: the panels of a unit tile stay in cache over them.
        const auto d = static_cast<int>(i / (row_tiles * unit_tiles));
        const int64_t unit = i / row_tiles % unit_tiles * tile_units;
        const int64_t row = i % row_tiles * tile_rows;
        const int64_t base = d * scratch_.chunk * sizes_.batch + row;
        const int64_t rows = std::min(tile_rows, counts[d] - row);
        if (rows <= 0) continue;
        product({x_rows + base, out_rows + base, rows, true}, d, unit, std::min(unit + tile_units, scratch_.units), 0,
                sizes_.gates);
      }
    };
    parallel_.for_range(sizes_.directions * row_tiles * unit_tiles, support::grain_for(cost), body);
  }

  struct Rows {
    const float* const* x;
    float* const* out;
    int64_t count;
    bool of_input;  // X W^T from the bias on, else h R^T added to what is there
  };

  // Gates [gate, gate_end) of units [unit, unit_end), added into rows of gates.
  void product(const Rows& rows, int d, int64_t unit, int64_t unit_end, int gate, int gate_end) const {
    const int64_t depth = rows.of_input ? sizes_.input : sizes_.hidden;
    const float* start = rows.of_input ? bias(d) : nullptr;
    const int gates = sizes_.gates;
    if (!scratch_.pack) {
      const float* w = (rows.of_input ? ops_.w : ops_.r) + d * gates * sizes_.hidden * depth;
      for (int64_t u = unit; u < unit_end; ++u) {
        for (int g = gate; g < gate_end; ++g) {
          table_.row_product({rows.x, rows.out, rows.count, depth, w + (g * sizes_.hidden + u * kUnits) * depth, start,
                              (u * gates + g) * kUnits, lanes(u)});
        }
      }
      return;
    }
    const int64_t panel = kUnits * depth;
    const float* packed =
        floats(rows.of_input ? scratch_.packed_w : scratch_.packed_r) + (d * scratch_.units + unit) * gates * panel;
    const int64_t column = unit * gates * kUnits;
    if (gate == 0 && gate_end == gates) {
      table_.panel_product(
          {rows.x, rows.out, rows.count, depth, packed, panel, start, column, kUnits, (unit_end - unit) * gates});
      return;
    }
    for (int g = gate; g < gate_end; ++g) {
      table_.panel_product({rows.x, rows.out, rows.count, depth, packed + g * panel, gates * panel, start,
                            column + g * kUnits, gates * kUnits, unit_end - unit});
    }
  }

  // extra = Rb_h + h R_h^T (GRU with the linear transform before the reset).
  void linear_product(const float* const* h, float* const* out, int64_t rows, int d, int64_t unit,
                      int64_t unit_end) const {
    const int64_t depth = sizes_.hidden;
    if (!scratch_.pack) {
      const float* w = ops_.r + (d * 3 + 2) * depth * depth;
      for (int64_t u = unit; u < unit_end; ++u) {
        table_.row_product({h, out, rows, depth, w + u * kUnits * depth, linear_bias(d), u * kUnits, lanes(u)});
      }
      return;
    }
    const int64_t panel = kUnits * depth;
    const float* packed = floats(scratch_.packed_r) + ((d * scratch_.units + unit) * 3 + 2) * panel;
    table_.panel_product(
        {h, out, rows, depth, packed, 3 * panel, linear_bias(d), unit * kUnits, kUnits, unit_end - unit});
  }

  // The rows that step s touches: batch indices and pointers, a direction after the other.
  struct Step {
    int64_t s;
    int64_t active;         // rows of a direction
    const int64_t* batch;   // their batch indices
    const float* const* h;  // previous states
    float* const* gates;
    float* const* extra;
  };

  Step list_rows(int64_t s, int64_t slot) const {
    const int64_t most = sizes_.directions * sizes_.batch;
    // Behind the two arrays that input_products() uses.
    auto* batch =
        reinterpret_cast<int64_t*>(memory_ + scratch_.rows) + 2 * sizes_.directions * scratch_.chunk * sizes_.batch;
    auto** h = reinterpret_cast<const float**>(batch + most);
    auto** gates = reinterpret_cast<float**>(batch + 2 * most);
    auto** extra = reinterpret_cast<float**>(batch + 3 * most);
    int64_t active = 0;
    for (int64_t n = 0; n < sizes_.batch; ++n) {
      if (s >= length(n)) continue;
      batch[active++] = n;
    }
    for (int d = 0; d < sizes_.directions; ++d) {
      for (int64_t i = 0; i < active; ++i) {
        const int64_t at = d * active + i;
        h[at] = h_row(s, d, batch[i]);
        gates[at] = gate_row(d, slot, batch[i]);
        extra[at] = extra_row(d, batch[i]);
      }
    }
    return {s, active, batch, h, gates, extra};
  }

  template <class Body>
  void for_units(int64_t rows, Body body) const {
    const int64_t cost = rows * kUnits * sizes_.gates * sizes_.hidden / 16;
    parallel_.for_range(sizes_.directions * scratch_.units, support::grain_for(cost),
                        [&](int64_t begin, int64_t end, int) {
                          while (begin < end) {
                            const auto d = static_cast<int>(begin / scratch_.units);
                            const int64_t unit = begin % scratch_.units;
                            const int64_t unit_end = std::min(scratch_.units, unit + end - begin);
                            body(d, unit, unit_end);
                            begin += unit_end - unit;
                          }
                        });
  }

  void advance(int64_t s, int64_t slot) const {
    const Step step = list_rows(s, slot);
    if (step.active == 0) return;
    switch (settings_.cell) {
      case Cell::kLstm:
        for_units(step.active, [&](int d, int64_t unit, int64_t unit_end) { lstm(step, d, unit, unit_end); });
        break;
      case Cell::kRnn:
        for_units(step.active, [&](int d, int64_t unit, int64_t unit_end) { rnn(step, d, unit, unit_end); });
        break;
      case Cell::kGru:
        for_units(step.active, [&](int d, int64_t unit, int64_t unit_end) { gru_gates(step, d, unit, unit_end); });
        // The hidden gate needs the reset state of every unit.
        for_units(step.active, [&](int d, int64_t unit, int64_t unit_end) { gru_output(step, d, unit, unit_end); });
        break;
    }
  }

  Rows recurrent_rows(const Step& step, int d) const {
    return {step.h + d * step.active, step.gates + d * step.active, step.active, false};
  }

  void write_y(const Step& step, int d, int64_t i, int64_t unit, const float* h) const {
    if (ops_.y == nullptr) return;
    const int64_t n = step.batch[i];
    const int64_t time = settings_.backwards(d) ? length(n) - 1 - step.s : step.s;
    std::memcpy(ops_.y + places_.y(time, d, n) + unit * kUnits, h, static_cast<size_t>(lanes(unit)) * sizeof(float));
  }

  void lstm(const Step& step, int d, int64_t unit, int64_t unit_end) const {
    product(recurrent_rows(step, d), d, unit, unit_end, 0, 4);
    const auto& functions = settings_.activations[static_cast<size_t>(d)];
    const float* peephole = floats(scratch_.peephole) + d * 3 * scratch_.state_width;
    for (int64_t i = 0; i < step.active; ++i) {
      const float* gates = step.gates[d * step.active + i];
      float* c = c_row(d, step.batch[i]);
      float* h = h_row(step.s + 1, d, step.batch[i]);
      for (int64_t u = unit; u < unit_end; ++u) {
        table_.lstm_cell({gates + u * 4 * kUnits, ops_.p != nullptr ? peephole + u * 3 * kUnits : nullptr,
                          c + u * kUnits, h + u * kUnits, functions[0], functions[1], functions[2], settings_.clip,
                          settings_.couple});
        write_y(step, d, i, u, h + u * kUnits);
      }
    }
  }

  void rnn(const Step& step, int d, int64_t unit, int64_t unit_end) const {
    product(recurrent_rows(step, d), d, unit, unit_end, 0, 1);
    for (int64_t i = 0; i < step.active; ++i) {
      float* h = h_row(step.s + 1, d, step.batch[i]);
      for (int64_t u = unit; u < unit_end; ++u) {
        table_.rnn_cell({step.gates[d * step.active + i] + u * kUnits, h + u * kUnits,
                         settings_.activations[static_cast<size_t>(d)][0], settings_.clip});
        write_y(step, d, i, u, h + u * kUnits);
      }
    }
  }

  GruCell gru_cell(const Step& step, int d, int64_t i, int64_t unit) const {
    const int64_t at = d * step.active + i;
    const auto& functions = settings_.activations[static_cast<size_t>(d)];
    float* extra = step.extra[at] + unit * kUnits;
    return {step.gates[at] + unit * 3 * kUnits,
            linear() ? extra : nullptr,
            step.h[at] + unit * kUnits,
            h_row(step.s + 1, d, step.batch[i]) + unit * kUnits,
            extra,
            functions[0],
            functions[1],
            settings_.clip};
  }

  void gru_gates(const Step& step, int d, int64_t unit, int64_t unit_end) const {
    product(recurrent_rows(step, d), d, unit, unit_end, 0, 2);
    for (int64_t i = 0; i < step.active; ++i) {
      for (int64_t u = unit; u < unit_end; ++u) table_.gru_gates(gru_cell(step, d, i, u));
    }
  }

  void gru_output(const Step& step, int d, int64_t unit, int64_t unit_end) const {
    const int64_t first = d * step.active;
    if (linear()) {
      linear_product(step.h + first, step.extra + first, step.active, d, unit, unit_end);
    } else {
      product({step.extra + first, step.gates + first, step.active, false}, d, unit, unit_end, 2, 3);
    }
    for (int64_t i = 0; i < step.active; ++i) {
      for (int64_t u = unit; u < unit_end; ++u) {
        const GruCell cell = gru_cell(step, d, i, u);
        table_.gru_output(cell);
        write_y(step, d, i, u, cell.h);
      }
    }
  }

  // Last states, and zeros behind the end of short sequences.
  void finish() const {
    const auto bytes = static_cast<size_t>(sizes_.hidden) * sizeof(float);
    for (int d = 0; d < sizes_.directions; ++d) {
      for (int64_t n = 0; n < sizes_.batch; ++n) {
        const int64_t at = places_.state(d, n);
        if (ops_.y_h != nullptr) std::memcpy(ops_.y_h + at, h_row(length(n), d, n), bytes);
        if (ops_.y_c != nullptr) std::memcpy(ops_.y_c + at, c_row(d, n), bytes);
        for (int64_t step = length(n); ops_.y != nullptr && step < sizes_.steps; ++step) {
          std::memset(ops_.y + places_.y(step, d, n), 0, bytes);
        }
      }
    }
  }

  const Settings& settings_;
  const Sizes& sizes_;
  const Operands<float>& ops_;
  const Kernels& table_;
  const Parallel& parallel_;
  Scratch scratch_;
  Places places_;
  std::byte* memory_;
};

}  // namespace

Scratch plan_scratch(const Settings& settings, const Sizes& sizes) {
  Scratch scratch{};
  const int64_t d = sizes.directions;
  scratch.units = (sizes.hidden + kUnits - 1) / kUnits;
  scratch.width = scratch.units * sizes.gates * kUnits;
  scratch.state_width = scratch.units * kUnits;
  scratch.pack = sizes.steps * sizes.batch >= kRowsWorthPacking;
  const int64_t step_bytes =
      std::max<int64_t>(1, d * sizes.batch * scratch.width * static_cast<int64_t>(sizeof(float)));
  scratch.chunk = std::clamp<int64_t>(kChunkBytes / step_bytes, 1, std::max<int64_t>(1, sizes.steps));

  size_t& bytes = scratch.bytes;
  constexpr size_t kFloat = sizeof(float);
  scratch.packed_w = take(bytes, scratch.pack ? d * scratch.width * sizes.input : 0, kFloat);
  scratch.packed_r = take(bytes, scratch.pack ? d * scratch.width * sizes.hidden : 0, kFloat);
  scratch.bias = take(bytes, d * scratch.width, kFloat);
  scratch.linear_bias = take(bytes, d * scratch.state_width, kFloat);
  scratch.peephole = take(bytes, settings.cell == Cell::kLstm ? d * 3 * scratch.state_width : 0, kFloat);
  scratch.gates = take(bytes, d * scratch.chunk * sizes.batch * scratch.width, kFloat);
  scratch.h = take(bytes, 2 * d * sizes.batch * scratch.state_width, kFloat);
  scratch.c = take(bytes, d * sizes.batch * scratch.state_width, kFloat);
  scratch.extra = take(bytes, d * sizes.batch * scratch.state_width, kFloat);
  scratch.rows = take(bytes, 2 * d * scratch.chunk * sizes.batch + 4 * d * sizes.batch, sizeof(int64_t));
  return scratch;
}

std::span<const Kernels* const> runnable_kernels() {
  static const std::vector<const Kernels*> tables = tables_for_this_machine();
  return tables;
}

const Kernels& kernels() { return *runnable_kernels().front(); }

void run_layer(const Settings& settings, const Sizes& sizes, const Operands<float>& ops, const Kernels& table,
               std::byte* memory, const Parallel& parallel) {
  Layer(settings, sizes, ops, table, memory, parallel).run();
}

}  // namespace graphopt::recurrent
