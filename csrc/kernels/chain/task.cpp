#include "kernels/chain/task.h"

#include <algorithm>

#include "kernels/conv/depthwise_run.h"

namespace graphopt {
namespace {

// The rows of the first product: positions of X or windows of it, whose results go to a ring of lines.
class RingRows {
 public:
  ConvRows windows;
  const float* x = nullptr;
  int64_t channels = 0;
  bool plain = false;
  int64_t first = 0;  // row of the first position
  int64_t columns = 0;
  int64_t ring = 0;
  int64_t line_floats = 0;
  int64_t position_floats = 0;
  int64_t padding = 0;  // positions in front of a line
  int64_t slot = 0;     // of the ring, where the first line goes

  void fill(int64_t row, int64_t count, const float** table, int64_t* c_rows, float*& spare) {
    if (!plain) windows.fill(first + row, count, table, c_rows, spare);
    if (row != next_row_) {
      at_ = (slot + row / columns) % ring;
      column_ = row % columns;
    } else if (row == 0) {
      at_ = slot;
    }
    next_row_ = row + count;
    const float* from = x + (first + row) * channels;
    for (int64_t done = 0; done < count;) {
      const int64_t run = std::min(count - done, columns - column_);
      const int64_t offset = at_ * line_floats + (padding + column_) * position_floats;
      for (int64_t r = 0; r < run; ++r) c_rows[done + r] = offset + r * position_floats;
      if (plain) {
        for (int64_t r = 0; r < run; ++r) table[done + r] = from + r * channels;
        from += run * channels;
      }
      done += run;
      column_ += run;
      if (column_ < columns) continue;
      column_ = 0;
      if (++at_ == ring) at_ = 0;
    }
  }

 private:
  // Where the last rows ended, from which the next ones go on.
  int64_t next_row_ = 0;
  int64_t at_ = 0;  // slot
  int64_t column_ = 0;
};

template <class T>
T* part(void* scratch, size_t offset) {
  return reinterpret_cast<T*>(static_cast<std::byte*>(scratch) + offset);
}

}  // namespace

ChainTask::ChainTask(const Chain& chain, const ChainGeometry& geometry, const ChainCut& cut,
                     const ChainOperands& operands, void* scratch)
    : chain_(chain),
      g_(geometry),
      cut_(cut),
      operands_(operands),
      expand_shape_(expand_shape(chain, geometry, cut)),
      project_shape_(project_shape(chain, geometry, cut)),
      expand_blocking_(gemm_blocking(expand_shape_)),
      project_blocking_(gemm_blocking(project_shape_)) {
  const ChainScratch parts = chain_scratch(chain, geometry, cut);
  expanded_ = part<float>(scratch, parts.expanded);
  outputs_ = part<float>(scratch, parts.outputs);
  lines_ = part<const void*>(scratch, parts.lines);
  taps_ = part<int64_t>(scratch, parts.taps);
  line_begin_ = part<int64_t>(scratch, parts.line_begin);
  products_ = part<void>(scratch, parts.products);
}

void ChainTask::run(int64_t image, Range lines, Range slices) {
  const Window& w = chain_.depthwise;
  if (chain_.expands) clear_padding(slices.end - slices.begin);
  int64_t ready = 0;  // lines of the expanded tensor before this one are in the ring, or needed no more
  for (int64_t line = lines.begin; line < lines.end; line += cut_.group) {
    const Range group{line, std::min(line + cut_.group, lines.end)};
    const int64_t end = std::min(g_.lines_in, (group.end - 1) * w.stride[1] - w.begin[1] + w.extent(1));
    const int64_t begin = std::max({ready, group.begin * w.stride[1] - w.begin[1], int64_t{0}});
    for (int64_t i = slices.begin; i < slices.end; ++i) {
      const Range channels = chain_slice(chain_, cut_, i);
      float* expanded = expanded_ + (i - slices.begin) * slice_floats();
      if (chain_.expands && begin < end) expand(image, {begin, end}, expanded, channels);
      find_lines(image, group, chain_.expands ? expanded : operands_.x + channels.begin);
      depthwise(image, group, channels);
    }
    ready = std::max(begin, end);
    if (chain_.projects && cut_.by_bands) project(image, group);
  }
}

// The columns in front of and behind the lines of the ring.
void ChainTask::clear_padding(int64_t slices) const {
  const int64_t step = cut_.slice_channels;
  const int64_t before = chain_.depthwise.begin[2] * step;
  const int64_t after = chain_.depthwise.end[2] * step;
  for (int64_t i = 0; i < slices * cut_.ring; ++i) {
    float* line = expanded_ + i * line_floats();
    std::fill_n(line, before, 0.0F);
    std::fill_n(line + before + g_.columns_in * step, after, 0.0F);
  }
}

void ChainTask::expand(int64_t image, Range lines, float* to, Range channels) {
  GemmShape shape = expand_shape_;
  shape.m = (lines.end - lines.begin) * g_.columns_in;
  shape.n = channels.end - channels.begin;
  GemmOperands operands;
  operands.b_panel = shape.k() * kPanel;
  operands.b = operands_.expand_weights + channels.begin / kPanel * operands.b_panel;
  operands.c = to;
  if (operands_.expand_bias != nullptr) operands.bias = operands_.expand_bias + channels.begin;
  RingRows rows;
  rows.windows.geometry = &g_.expand;
  rows.windows.x = operands_.x;
  rows.windows.zeros = operands_.zeros;
  rows.x = operands_.x;
  rows.channels = chain_.cin;
  rows.plain = g_.plain;
  rows.first = (image * g_.lines_in + lines.begin) * g_.columns_in;
  rows.slot = lines.begin % cut_.ring;
  rows.columns = g_.columns_in;
  rows.ring = cut_.ring;
  rows.line_floats = line_floats();
  rows.position_floats = cut_.slice_channels;
  rows.padding = chain_.depthwise.begin[2];
  GemmTask<RingRows> task(shape, expand_blocking_, operands, chain_.expand_epilogue, rows, products_);
  task.run({0, shape.m}, {0, shape.panels()});
}

// What the depthwise kernel sees of the ring, or of X, for some lines of outputs. `from` is where the first
// line begins.
void ChainTask::find_lines(int64_t image, Range lines, const float* from) {
  const Window& w = chain_.depthwise;
  int64_t count = 0;
  line_begin_[0] = 0;
  for (int64_t line = lines.begin; line < lines.end; ++line) {
    for (int64_t j = 0; j < w.kernel[1]; ++j) {
      const int64_t h = line * w.stride[1] - w.begin[1] + j * w.dilation[1];
      if (h < 0 || h >= g_.lines_in) continue;
      lines_[count] = chain_.expands ? from + h % cut_.ring * line_floats()
                                     : from + (image * g_.lines_in + h) * g_.columns_in * chain_.channels;
      taps_[count++] = j * w.kernel[2] * kPanel;
    }
    line_begin_[line - lines.begin + 1] = count;
  }
}

void ChainTask::depthwise(int64_t image, Range lines, Range channels) {
  const Window& w = chain_.depthwise;
  const Epilogue& epilogue = chain_.depthwise_epilogue;
  const int64_t first = (image * g_.lines + lines.begin) * g_.columns;  // position
  const float* residual = nullptr;
  float* y = nullptr;
  DepthwiseLines l{};
  if (!chain_.projects) {
    l.y_position = chain_.cout;
    y = operands_.y + first * l.y_position + channels.begin;
    if (operands_.residual != nullptr) residual = operands_.residual + first * l.y_position + channels.begin;
  } else {
    l.y_position = project_step(chain_);
    y = (cut_.by_bands ? outputs_ : operands_.outputs + first * l.y_position) + channels.begin;
  }
  const bool add_later = !epilogue.is_clamp() && epilogue.residual_after;
  l.y = y;
  l.count = lines.end - lines.begin;
  l.line_begin = line_begin_;
  l.lines = lines_;
  l.taps = taps_;
  l.y_step = g_.columns * l.y_position;
  l.columns_in = chain_.expands ? cut_.width : g_.columns_in;
  l.x_position = chain_.expands ? cut_.slice_channels : chain_.channels;
  l.panel = w.taps() * kPanel;
  l.weights = operands_.depthwise_weights + channels.begin / kPanel * l.panel;
  if (operands_.depthwise_bias != nullptr) l.bias = operands_.depthwise_bias + channels.begin;
  l.residual = add_later ? nullptr : residual;
  l.columns = g_.columns;
  l.channel_end = channels.end - channels.begin;
  l.group_size = 1;
  l.kernel = w.kernel[2];
  l.stride = w.stride[2];
  l.dilation = w.dilation[2];
  l.begin = chain_.expands ? 0 : w.begin[2];
  l.low = epilogue.low();
  l.high = epilogue.high();
  l.residual_after = epilogue.residual_after;
  run_depthwise_lines(l);
  if (!epilogue.is_clamp()) {
    activate_positions(epilogue, y, add_later ? residual : nullptr, l.y_position, l.count * l.columns, l.channel_end);
  }
}

void ChainTask::project(int64_t image, Range lines) {
  GemmShape shape = project_shape_;
  shape.m = (lines.end - lines.begin) * g_.columns;
  const int64_t offset = (image * g_.lines + lines.begin) * g_.columns * chain_.cout;
  GemmOperands operands;
  operands.b_panel = shape.k() * kPanel;
  operands.b = operands_.project_weights;
  operands.c = operands_.y + offset;
  operands.bias = operands_.project_bias;
  if (operands_.residual != nullptr) operands.residual = operands_.residual + offset;
  DenseRows rows{outputs_, project_step(chain_), chain_.cout};
  GemmTask<DenseRows> task(shape, project_blocking_, operands, chain_.project_epilogue, rows, products_);
  task.run({0, shape.m}, {0, shape.panels()});
}

}  // namespace graphopt
