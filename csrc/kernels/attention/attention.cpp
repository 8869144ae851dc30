// Step kernel `attention`: softmax(scale Q K^T + mask) V without ever holding all scores.
//
// A task is a block of query rows of the heads that share a key head. It goes through the keys block by
// block and keeps, for each row, the maximum and the sum so far (Milakov and Gimelshein, "Online
// normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022).
//
// Q, K, V and Y are [batch, heads, length, size]; or, each by itself, [batch, length, features], where a run of
// features holds all heads (`heads` or `key_heads` times `size` or `value_size`, from `q_begin`, `k_begin` or
// `v_begin` on, `q_step`, `k_step` or `v_step` apart): what projections write, one for all three too.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention/head_view.h"
#include "kernels/attention/softmax.h"
#include "kernels/dense/operands.h"
#include "kernels/gemm/driver.h"
#include "runtime/cpu.h"

namespace graphopt {

#define GRAPHOPT_ATTENTION_KERNELS(level, suffix) extern const AttentionKernels attention_kernels_##suffix;
#include "kernels/attention/kernels.inc"
#undef GRAPHOPT_ATTENTION_KERNELS

namespace {

constexpr int64_t kKeys = 256;              // of a block: its scores, keys and values stay in L2
constexpr int64_t kTasks = 16;              // that a step is cut into at least, down to
constexpr int64_t kFewRows = 24;            // rows a task
constexpr int64_t kRows = 96;               // of a task, so that packing a block of keys is a small part of the work
constexpr int64_t kWorthAThread = 100'000;  // multiply-adds
constexpr float kInfinity = std::numeric_limits<float>::infinity();

const AttentionKernels& attention_kernels() {
  static const AttentionKernels& kernels = []() -> const AttentionKernels& {
    switch (cpu_isa()) {
#define GRAPHOPT_ATTENTION_KERNELS(level, suffix) \
  case Isa::level:                                \
    return attention_kernels_##suffix;
#include "kernels/attention/kernels.inc"
#undef GRAPHOPT_ATTENTION_KERNELS
    }
    return attention_kernels_portable;
  }();
  return kernels;
}

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Pairs of bfloat16 that hold n numbers.
int64_t half_of(int64_t n) { return (n + 1) / 2; }

struct AttentionShape {
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t key_heads = 0;
  int64_t queries = 0;
  int64_t keys = 0;
  int64_t size = 0;  // of a query and a key
  int64_t value_size = 0;
  bool wide = false;  // values lie further apart than they are long
  bool bf16 = false;  // products on bfloat16 pairs

  // Query heads of a key head, and rows that share it: its query heads' queries, head by head.
  [[nodiscard]] int64_t share() const { return heads / key_heads; }
  [[nodiscard]] int64_t rows() const { return share() * queries; }
  [[nodiscard]] int64_t block_keys() const { return std::min(round_up(keys, kPanel), kKeys); }
  // Rows of a task. Not a matter of how many threads there are, and so neither are the results.
  [[nodiscard]] int64_t block_rows() const {
    const int64_t most = std::clamp(batch * key_heads * rows() / kTasks, kFewRows, kRows);
    const int64_t blocks = (rows() + most - 1) / most;
    return std::max<int64_t>((rows() + blocks - 1) / std::max<int64_t>(blocks, 1), 1);
  }
  // So few rows that keys are read in place, row by row: packing them would take longer.
  [[nodiscard]] bool direct() const { return rows() <= 2; }
  // Every tile of rows reads a block of values: rows far apart would share few lines of the cache.
  [[nodiscard]] bool copies_values() const { return wide && !direct() && !pairs(); }
  // Rounding pays where several rows share what is rounded.
  [[nodiscard]] bool pairs() const { return bf16 && !direct(); }
};

struct Views {
  HeadView q, k, v, y;
};

// Offsets of consecutive rows of several heads, `rows` of each.
struct RowSteps {
  int64_t first = 0;
  int64_t rows = 1;
  int64_t head = 0;
  int64_t row = 0;

  [[nodiscard]] int64_t at(int64_t r) const { return (first + r) / rows * head + (first + r) % rows * row; }
};

struct AttentionOptions {
  float scale;
  float softcap;
  bool causal;
  int64_t causal_offset;  // position of query 0 among the keys
  int64_t left_window;    // keys before (after) the query's own position that count; -1: all
  int64_t right_window;
  bool zero_masked_rows;  // a row without any key is 0, not NaN
  bool zero_nan_rows;     // so is a row whose weights are NaN for any other reason
  bool replace;           // a bool mask makes scores `fill`, rather than adding -inf
  float fill;
};

// Scratch memory of a worker, as offsets in floats.
struct AttentionScratch {
  int64_t values;
  int64_t queries;  // rounded to pairs
  int64_t scores;
  int64_t maximum;
  int64_t sum;
  int64_t floats;

  AttentionScratch(const AttentionShape& s, int64_t rows) {
    int64_t at = s.direct() ? 0 : s.block_keys() * round_up(s.size, 2);  // packed keys first
    values = at;
    at += s.copies_values() ? s.block_keys() * s.value_size : 0;
    at += s.pairs() ? half_of(s.block_keys()) * round_up(s.value_size, kPanel) : 0;
    queries = at;
    at += s.pairs() ? rows * half_of(s.size) : 0;
    scores = at;
    at += rows * s.block_keys();
    maximum = at;
    at += rows;
    sum = at;
    at += rows;
    floats = round_up(at, 16) + 16;
  }
};

// C = alpha A B, or C += A B, for a few rows and few enough columns to need no blocking.
struct SmallProduct {
  const float* a;
  RowSteps a_steps;
  int64_t rows;
  int64_t depth;
  const float* b;
  int64_t b_step;
  int64_t b_panel;
  bool direct;
  float* c;
  RowSteps c_steps;
  int64_t columns;
  float alpha;
  bool accumulate;
  TileScope* pairs = nullptr;  // A and B hold bfloat16 pairs, `depth` counts them

  void run() const {
    const GemmKernels& kernels = gemm_kernels();
    const TileRegisters* registers = pairs == nullptr ? nullptr : pairs->registers();
    int64_t panels = tile_panels(kernels, rows, (columns + kPanel - 1) / kPanel, depth, direct);
    int64_t most = kernels.max_rows[panels - 1];
    if (registers != nullptr) {
      panels = rows <= kFewTileRows ? kFewTilePanels : kTilePanels;
      most = rows <= kFewTileRows ? kFewTileRows : kTileRows;
    }
    const int64_t tiles = (rows + most - 1) / most;
    const float* table[kTileRows];
    int64_t c_rows[kTileRows];
    Tile tile{};
    tile.a_block = kTableRows;
    tile.a_rows = table;
    tile.c_rows = c_rows;
    tile.segments = 1;
    tile.depth = depth;
    tile.b_step = b_step;
    tile.b_panel = b_panel;
    tile.alpha = alpha;
    tile.low = -kInfinity;
    tile.high = kInfinity;
    tile.accumulate = accumulate;
    tile.finish = !accumulate;
    for (int64_t i = 0; i < tiles; ++i) {
      const Range part = part_of(rows, tiles, i);
      for (int64_t r = part.begin; r < part.end; ++r) {
        table[r - part.begin] = a + a_steps.at(r);
        c_rows[r - part.begin] = c_steps.at(r);
      }
      for (int64_t column = 0; column < columns; column += panels * kPanel) {
        const int64_t some = std::min(panels, (columns - column + kPanel - 1) / kPanel);
        tile.b = b + column / kPanel * b_panel;
        tile.ahead = tile.b;
        tile.c = c + column;
        tile.columns = std::min(panels * kPanel, columns - column);
        if (registers != nullptr) {
          registers->pairs(tile, static_cast<int>(part.end - part.begin), static_cast<int>(some), pairs->state());
          continue;
        }
        const auto& packed = pairs == nullptr ? kernels.packed : kernels.pairs;
        const auto& variants = direct ? kernels.direct : packed;
        variants[some - 1][part.end - part.begin - 1](tile);
      }
    }
  }
};

// A mask of any shape that broadcasts to [batch, heads, queries, keys].
struct MaskView {
  const float* added = nullptr;
  const uint8_t* keep = nullptr;
  std::array<int64_t, 4> steps{};

  [[nodiscard]] int64_t at(int64_t b, int64_t h, int64_t s, int64_t t) const {
    return b * steps[0] + h * steps[1] + s * steps[2] + t * steps[3];
  }
};

class AttentionRun {
 public:
  AttentionRun(const AttentionShape& shape, const Views& views, const AttentionOptions& options, const MaskView& mask,
               const float* q, const float* k, const float* v, float* y)
      : s_(shape), views_(views), options_(options), mask_(mask), q_(q), k_(k), v_(v), y_(y) {}

  // Rows [begin, end) of the head-th (over all batches) key head.
  void run(int64_t head, int64_t begin, int64_t end, int64_t most_rows, float* scratch, TileScope& tiles) const {
    const AttentionScratch parts(s_, most_rows);
    float* packed = scratch;
    float* scores = scratch + parts.scores;
    float* maximum = scratch + parts.maximum;
    float* sum = scratch + parts.sum;
    const int64_t rows = end - begin;
    const int64_t batch = head / s_.key_heads;
    const int64_t key_head = head % s_.key_heads;
    const float* q = q_ + views_.q.at(batch, key_head * s_.share(), 0);
    const float* k = k_ + views_.k.at(batch, key_head, 0);
    const float* v = v_ + views_.v.at(batch, key_head, 0);
    float* y = y_ + views_.y.at(batch, key_head * s_.share(), 0);
    RowSteps q_steps{begin, s_.queries, views_.q.head, views_.q.row};
    if (s_.pairs()) {
      float* rounded = scratch + parts.queries;
      const int64_t step = half_of(s_.size);
      for (int64_t r = 0; r < rows; ++r) {
        gemm_kernels().round(q + q_steps.at(r), 0, 1, s_.size, reinterpret_cast<uint32_t*>(rounded + r * step), 0);
      }
      q = rounded;
      q_steps = {0, rows, 0, step};
    }
    const RowSteps y_steps{begin, s_.queries, views_.y.head, views_.y.row};
    const RowSteps score_steps{0, rows, 0, s_.block_keys()};
    std::fill_n(maximum, rows, -kInfinity);
    std::fill_n(sum, rows, 0.0F);
    for (int64_t r = 0; r < rows; ++r) std::fill_n(y + y_steps.at(r), s_.value_size, 0.0F);
    const Range all = keys_of_rows(begin, end);
    for (int64_t key = all.begin / kKeys * kKeys; key < all.end; key += kKeys) {
      const int64_t count = std::min(s_.block_keys(), all.end - key);
      const int64_t step = s_.block_keys();
      score(q, q_steps, rows, k + key * views_.k.row, count, packed, scores, score_steps, tiles);
      for (int64_t r = 0; r < rows; ++r) {
        SoftmaxRow row = softmax_row(head, begin + r, key, count);
        row.scores = scores + r * step;
        row.maximum = maximum[r];
        row.sum = sum[r];
        attention_kernels().softmax(row);
        maximum[r] = row.maximum;
        sum[r] = row.sum;
        if (row.correction != 1) attention_kernels().scale(y + y_steps.at(r), s_.value_size, row.correction);
      }
      const float* values = v + key * views_.v.row;
      int64_t value_step = views_.v.row;
      if (s_.pairs()) {
        for (int64_t r = 0; r < rows; ++r) {
          float* row = scores + r * step;
          gemm_kernels().round(row, 0, 1, count, reinterpret_cast<uint32_t*>(row), 0);
        }
        const int64_t depth = half_of(count);
        float* pairs = scratch + parts.values;
        gemm_kernels().pack_pairs(values, value_step, count, s_.value_size, reinterpret_cast<uint32_t*>(pairs),
                                  depth * kPanel);
        SmallProduct{scores, score_steps, rows,    depth,         pairs, kPanel, depth * kPanel,
                     false,  y,           y_steps, s_.value_size, 1,     true,   &tiles}
            .run();
        continue;
      }
      if (s_.copies_values()) {
        for (int64_t t = 0; t < count; ++t) {
          std::copy_n(values + t * value_step, s_.value_size, scratch + parts.values + t * s_.value_size);
        }
        values = scratch + parts.values;
        value_step = s_.value_size;
      }
      SmallProduct{scores, score_steps, rows,    count,         values, value_step, kPanel,
                   true,   y,           y_steps, s_.value_size, 1,      true}
          .run();
    }
    for (int64_t r = 0; r < rows; ++r) finish_row(y + y_steps.at(r), sum[r]);
  }

 private:
  // Keys that the query at a position may see.
  [[nodiscard]] Range keys_of(int64_t query) const {
    const int64_t own = query + options_.causal_offset;
    Range range{0, s_.keys};
    if (options_.causal) range.end = std::min(range.end, own + 1);
    if (options_.right_window >= 0) range.end = std::min(range.end, own + options_.right_window + 1);
    if (options_.left_window >= 0) range.begin = std::max(range.begin, own - options_.left_window);
    range.end = std::max<int64_t>(range.end, 0);
    return range;
  }
  [[nodiscard]] Range keys_of_rows(int64_t begin, int64_t end) const {
    Range all{s_.keys, 0};
    for (int64_t r = begin; r < end; ++r) {
      const Range one = keys_of(r % s_.queries);
      all = {std::min(all.begin, one.begin), std::max(all.end, one.end)};
    }
    return all;
  }

  [[nodiscard]] SoftmaxRow softmax_row(int64_t head, int64_t r, int64_t key, int64_t count) const {
    SoftmaxRow row{};
    const Range keys = keys_of(r % s_.queries);
    row.count = count;
    row.begin = std::clamp<int64_t>(keys.begin - key, 0, count);
    row.end = std::clamp<int64_t>(keys.end - key, row.begin, count);
    row.softcap = options_.softcap;
    const int64_t batch = head / s_.key_heads;
    const int64_t query_head = head % s_.key_heads * s_.share() + r / s_.queries;
    const int64_t at = mask_.at(batch, query_head, r % s_.queries, key);
    row.mask = mask_.added == nullptr ? nullptr : mask_.added + at;
    row.keep = mask_.keep == nullptr ? nullptr : mask_.keep + at;
    row.mask_step = mask_.steps[3];
    row.replace = options_.replace;
    row.fill = options_.fill;
    return row;
  }

  // scores = scale q k^T
  void score(const float* q, const RowSteps& q_steps, int64_t rows, const float* k, int64_t count, float* packed,
             float* scores, const RowSteps& score_steps, TileScope& tiles) const {
    if (s_.direct()) {
      for (int64_t r = 0; r < rows; ++r) {
        float* row = scores + score_steps.at(r);
        gemm_kernels().dot(k, views_.k.row, count, q + q_steps.at(r), s_.size, row);
        attention_kernels().scale(row, count, options_.scale);
      }
      return;
    }
    if (s_.pairs()) {
      const int64_t depth = half_of(s_.size);
      float* rounded = packed + s_.block_keys() * depth;
      gemm_kernels().round(k, views_.k.row, count, s_.size, reinterpret_cast<uint32_t*>(rounded), depth);
      pack_keys(rounded, depth, depth, count, packed);
      SmallProduct{q,     q_steps, rows,        depth, packed,         kPanel, depth * kPanel,
                   false, scores,  score_steps, count, options_.scale, false,  &tiles}
          .run();
      return;
    }
    pack_keys(k, views_.k.row, s_.size, count, packed);
    SmallProduct{q,     q_steps, rows,        s_.size, packed,         kPanel, s_.size * kPanel,
                 false, scores,  score_steps, count,   options_.scale, false}
        .run();
  }

  // `count` keys of `size` floats, or pairs, as panels.
  static void pack_keys(const float* k, int64_t step, int64_t size, int64_t count, float* packed) {
    for (int64_t j = 0; j < count; j += kPanel, packed += size * kPanel) {
      gemm_kernels().transpose(k + j * step, step, std::min<int64_t>(kPanel, count - j), size, packed, kPanel, kPanel);
    }
  }

  void finish_row(float* y, float sum) const {
    if (sum == 0 && (s_.keys == 0 || options_.zero_masked_rows)) return;  // y is zero
    if (options_.zero_nan_rows && !(sum > 0)) {
      std::fill_n(y, s_.value_size, 0.0F);
      return;
    }
    attention_kernels().divide(y, s_.value_size, sum);
  }

  const AttentionShape& s_;
  const Views& views_;
  const AttentionOptions& options_;
  const MaskView& mask_;
  const float* q_;
  const float* k_;
  const float* v_;
  float* y_;
};

class AttentionKernel final : public Kernel {
 public:
  explicit AttentionKernel(const Attrs& attrs)
      : has_scale_(attrs.has("scale")),
        options_{static_cast<float>(attrs.f("scale", 0)),
                 static_cast<float>(attrs.f("softcap", 0)),
                 attrs.i("causal", 0) != 0,
                 attrs.i("causal_offset", 0),
                 attrs.i("left_window", -1),
                 attrs.i("right_window", -1),
                 attrs.i("zero_masked_rows", 0) != 0,
                 attrs.i("zero_nan_rows", 0) != 0,
                 attrs.i("replace", 0) != 0,
                 static_cast<float>(attrs.f("fill", -std::numeric_limits<double>::infinity()))},
        heads_(attrs.i("heads", 0)),
        key_heads_(attrs.i("key_heads", 0)),
        size_(attrs.i("size", 0)),
        value_size_(attrs.i("value_size", 0)),
        begins_{attrs.i("q_begin", 0), attrs.i("k_begin", 0), attrs.i("v_begin", 0)},
        bf16_(attrs.i("bf16", 0) != 0),
        steps_{attrs.i("q_step", size_), attrs.i("k_step", size_), attrs.i("v_step", value_size_)} {}

  [[nodiscard]] size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> /*outputs*/,
                                       int threads) const override {
    const AttentionShape shape = this->shape(operand(inputs, 0), operand(inputs, 1), operand(inputs, 2));
    return scratch_bytes(shape) * static_cast<size_t>(threads);
  }

  void run(KernelArgs& args) const override {
    const Tensor& q = operand(args.inputs, 0);
    const Tensor& k = operand(args.inputs, 1);
    const Tensor& v = operand(args.inputs, 2);
    const Tensor& y = args.outputs[0];
    require_f32("attention", {&q, &k, &v, &y});
    const AttentionShape shape = this->shape(q, k, v);
    if (y.numel() != shape.batch * shape.heads * shape.queries * shape.value_size) {
      throw Error("attention: Y has the wrong size");
    }
    const auto view = [](const Tensor& x, int64_t heads, int64_t size, int64_t begin, int64_t step) {
      return HeadView("attention", x, heads, size, begin, step);
    };
    const Views views{view(q, shape.heads, shape.size, begins_[0], steps_[0]),
                      view(k, shape.key_heads, shape.size, begins_[1], steps_[1]),
                      view(v, shape.key_heads, shape.value_size, begins_[2], steps_[2]),
                      view(y, shape.heads, shape.value_size, 0, shape.value_size)};
    const MaskView mask = view_mask(operand(args.inputs, 3), shape);
    if (y.numel() == 0) return;
    AttentionOptions options = options_;
    if (!has_scale_) options.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.size)));
    const AttentionRun run(shape, views, options, mask, q.ptr<float>(), k.ptr<float>(), v.ptr<float>(), y.ptr<float>());
    const int64_t block = shape.block_rows();
    const int64_t blocks = (shape.rows() + block - 1) / block;
    const size_t bytes = scratch_bytes(shape);
    const int64_t work = block * std::max<int64_t>(shape.keys, 1) * (shape.size + shape.value_size);
    args.parallel.for_range(
        shape.batch * shape.key_heads * blocks, std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(work, 1)),
        [&](int64_t begin, int64_t end, int worker) {
          auto* scratch =
              reinterpret_cast<float*>(static_cast<std::byte*>(args.workspace) + bytes * static_cast<size_t>(worker));
          TileScope tiles(shape.pairs() ? tile_registers(Extension::kAmxBf16) : nullptr);
          for (int64_t i = begin; i < end; ++i) {
            const Range rows = part_of(shape.rows(), blocks, i % blocks);
            run.run(i / blocks, rows.begin, rows.end, block, scratch, tiles);
          }
        });
  }

 private:
  static size_t scratch_bytes(const AttentionShape& shape) {
    return static_cast<size_t>(AttentionScratch(shape, shape.block_rows()).floats) * sizeof(float);
  }

  [[nodiscard]] AttentionShape shape(const Tensor& q, const Tensor& k, const Tensor& v) const {
    for (const Tensor* x : {&q, &k, &v}) {
      if (x->rank != 3 && x->rank != 4) throw Error("attention: Q, K and V must have three or four dimensions");
    }
    const bool flat_q = q.rank == 3;
    const bool flat_k = k.rank == 3;
    const bool flat_v = v.rank == 3;
    AttentionShape s{q.dim(0),  flat_q ? heads_ : q.dim(1), flat_k ? key_heads_ : k.dim(1), q.dim(-2),
                     k.dim(-2), flat_q ? size_ : q.dim(3),  flat_v ? value_size_ : v.dim(3)};
    s.wide = flat_v && v.dim(2) != s.value_size;
    s.bf16 = bf16_;
    if (k.dim(0) != s.batch || v.dim(0) != s.batch || v.dim(-2) != s.keys || (!flat_v && v.dim(1) != s.key_heads) ||
        (flat_k ? size_ : k.dim(3)) != s.size) {
      throw Error("attention: the shapes of Q, K and V don't fit together");
    }
    if (s.key_heads < 1 || s.heads % s.key_heads != 0) throw Error("attention: key heads must divide query heads");
    return s;
  }

  static MaskView view_mask(const Tensor& mask, const AttentionShape& shape) {
    MaskView view;
    if (!mask.present()) return view;
    if (mask.dtype == DType::kBool) {
      view.keep = mask.ptr<uint8_t>();
    } else if (mask.dtype == DType::kF32) {
      view.added = mask.ptr<float>();
    } else {
      throw Error("attention: the mask must be float32 or bool");
    }
    if (mask.rank > 4) throw Error("attention: the mask must have at most four dimensions");
    const std::array<int64_t, 4> sizes = {shape.batch, shape.heads, shape.queries, shape.keys};
    int64_t step = 1;
    for (int axis = 1; axis <= mask.rank; ++axis) {
      const int64_t dim = mask.dim(-axis);
      const auto i = static_cast<size_t>(4 - axis);
      if (dim != 1 && dim != sizes[i]) throw Error("attention: the mask doesn't broadcast to the scores");
      view.steps[i] = dim == 1 ? 0 : step;
      step *= dim;
    }
    return view;
  }

  bool has_scale_;
  AttentionOptions options_;
  // Of operands of three dimensions.
  int64_t heads_;
  int64_t key_heads_;
  int64_t size_;
  int64_t value_size_;
  std::array<int64_t, 3> begins_;
  bool bf16_;                     // products on operands that are rounded to bfloat16; softmax and sums stay float32
  std::array<int64_t, 3> steps_;  // features from a head to the next
};

}  // namespace

std::unique_ptr<Kernel> make_attention(const Attrs& attrs) { return std::make_unique<AttentionKernel>(attrs); }

}  // namespace graphopt
