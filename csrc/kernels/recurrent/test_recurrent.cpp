// Every table of functions against the scalar reference in double, and the steps between guard pages.
#include <cmath>
#include <vector>

#include "kernels/recurrent/layer.h"
#include "kernels/recurrent/reference.h"
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::recurrent;
using namespace graphopt::test;

namespace {

struct Case {
  int64_t steps, batch, input, hidden;
  int directions;
  bool lengths;
};

struct Layer {
  std::vector<float> x, w, r, b, h0, c0, p;
  std::vector<int32_t> lengths;
};

Layer make_layer(const Case& c, int gates, Random& random) {
  const int64_t d = c.directions;
  Layer layer;
  const float scale = 0.7F / std::sqrt(static_cast<float>(c.hidden));  // keeps rounding errors from growing
  layer.x = random.floats(c.steps * c.batch * c.input);
  layer.w = random.floats(d * gates * c.hidden * c.input);
  layer.r = random.floats(d * gates * c.hidden * c.hidden, -scale, scale);
  layer.b = random.floats(d * 2 * gates * c.hidden);
  layer.h0 = random.floats(d * c.batch * c.hidden);
  layer.c0 = random.floats(d * c.batch * c.hidden);
  layer.p = random.floats(d * 3 * c.hidden);
  for (int64_t n = 0; n < c.batch; ++n) layer.lengths.push_back(static_cast<int32_t>(random.below(c.steps + 1)));
  return layer;
}

template <class T>
struct Wide {
  std::vector<T> x, w, r, b, h0, c0, p, y, y_h, y_c;

  Wide(const Layer& layer, const Case& c)
      : x(layer.x.begin(), layer.x.end()),
        w(layer.w.begin(), layer.w.end()),
        r(layer.r.begin(), layer.r.end()),
        b(layer.b.begin(), layer.b.end()),
        h0(layer.h0.begin(), layer.h0.end()),
        c0(layer.c0.begin(), layer.c0.end()),
        p(layer.p.begin(), layer.p.end()),
        y(static_cast<size_t>(c.steps * c.directions * c.batch * c.hidden), T{7}),
        y_h(h0.size(), T{7}),
        y_c(h0.size(), T{7}) {}

  Operands<T> operands(Cell cell, const int32_t* lengths) {
    const bool lstm = cell == Cell::kLstm;
    return {x.data(),
            w.data(),
            r.data(),
            b.data(),
            h0.data(),
            lstm ? c0.data() : nullptr,
            lstm ? p.data() : nullptr,
            lengths,
            y.data(),
            y_h.data(),
            lstm ? y_c.data() : nullptr};
  }
};

void compare(const std::vector<float>& got, const std::vector<double>& want) {
  for (size_t i = 0; i < got.size(); ++i) CHECK(std::abs(static_cast<double>(got[i]) - want[i]) < 1e-5);
}

void check_tables(Cell cell, const Case& c, bool linear, Random& random) {
  Attrs attrs;
  attrs.set("direction", std::string(c.directions == 2 ? "bidirectional" : "reverse"));
  attrs.set("linear_before_reset", int64_t{linear ? 1 : 0});
  const Settings settings = parse_settings(attrs, cell);
  const Sizes sizes{c.steps, c.batch, c.input, c.hidden, c.directions, gate_count(cell)};
  const Layer layer = make_layer(c, sizes.gates, random);
  const int32_t* lengths = c.lengths ? layer.lengths.data() : nullptr;
  Wide<double> wide(layer, c);
  run_reference(settings, sizes, wide.operands(cell, lengths));
  for (const Kernels* table : runnable_kernels()) {
    Wide<float> narrow(layer, c);
    const GuardedBuffer memory(plan_scratch(settings, sizes).bytes, Guard::kAfter, 64);
    run_layer(settings, sizes, narrow.operands(cell, lengths), *table, static_cast<std::byte*>(memory.data()),
              Serial());
    compare(narrow.y, wide.y);
    compare(narrow.y_h, wide.y_h);
    if (cell == Cell::kLstm) compare(narrow.y_c, wide.y_c);
  }
}

void check_steps(const std::string& name, int gates, const Case& c, Random& random) {
  const Layer layer = make_layer(c, gates, random);
  const int64_t d = c.directions;
  Attrs attrs;
  attrs.set("direction", std::string(d == 2 ? "bidirectional" : "forward"));
  std::vector<Operand> inputs = {
      f32({c.steps, c.batch, c.input}, layer.x),           f32({d, gates * c.hidden, c.input}, layer.w),
      f32({d, gates * c.hidden, c.hidden}, layer.r),       f32({d, 2 * gates * c.hidden}, layer.b),
      make_operand(DType::kI32, {c.batch}, layer.lengths), f32({d, c.batch, c.hidden}, layer.h0)};
  if (gates == 4) {
    inputs.push_back(f32({d, c.batch, c.hidden}, layer.c0));
    inputs.push_back(f32({d, 3 * c.hidden}, layer.p));
  }
  for (float value : run_everywhere(name, attrs, inputs, {c.steps, d, c.batch, c.hidden})) CHECK(std::isfinite(value));
}

}  // namespace

int main() {
  Random random(1);
  std::vector<Case> cases;
  // Hidden sizes around a panel, depths around a vector, rows around the tiles and the packing threshold.
  for (int64_t hidden : {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65}) {
    cases.push_back({2, 2, 5, hidden, 1, false});
    cases.push_back({11, 3, 19, hidden, 2, true});
  }
  for (int64_t input : {1, 4, 8, 15, 16, 17, 33}) cases.push_back({3, 1, input, 18, 1, false});
  for (int64_t batch : {1, 2, 4, 6, 7, 12, 13, 50}) cases.push_back({2, batch, 6, 20, 2, true});
  for (const Case& c : cases) {
    for (Cell cell : {Cell::kRnn, Cell::kGru, Cell::kLstm}) {
      check_tables(cell, c, false, random);
      if (cell == Cell::kGru) check_tables(cell, c, true, random);
    }
    if (c.hidden % 3 == 0) {
      check_steps("lstm", 4, c, random);
      check_steps("gru", 3, c, random);
      check_steps("rnn", 1, c, random);
    }
  }
  return 0;
}
