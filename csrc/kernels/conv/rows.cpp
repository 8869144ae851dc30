#include "kernels/conv/rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/gemm/tile.h"

namespace graphopt {
namespace {

bool inside(int64_t at, int64_t size) { return at >= 0 && at < size; }

// Whether a window that begins at `at` lies in the input entirely.
bool covers(const ConvGeometry& g, const Dims3& at) {
  for (size_t axis = 0; axis < 3; ++axis) {
    if (at[axis] < 0 || at[axis] + g.window.extent(axis) > g.in[axis]) return false;
  }
  return true;
}

// A copy of the inputs of one merged segment, with zeros for the padding.
const float* assemble(const ConvGeometry& g, const float* line, int64_t begin, float*& spare) {
  float* copy = spare;
  const int64_t taps = g.window.kernel[2];
  spare += taps * g.window_channels;
  const int64_t left = std::clamp<int64_t>(-begin, 0, taps);
  const int64_t right = std::clamp<int64_t>(g.in[2] - begin, left, taps);
  float* to = std::fill_n(copy, left * g.window_channels, 0.0F);
  if (right > left) {
    const auto bytes = static_cast<size_t>((right - left) * g.window_channels) * sizeof(float);
    std::memcpy(to, line + (begin + left) * g.channels, bytes);
  }
  std::fill_n(to + (right - left) * g.window_channels, (taps - right) * g.window_channels, 0.0F);
  return copy;
}

}  // namespace

void ConvRows::fill(int64_t row, int64_t count, const float** table, int64_t* c_rows, float*& spare) const {
  const ConvGeometry& g = *geometry;
  const Window& w = g.window;
  const int64_t line = g.in[2] * g.channels;
  const int64_t plane = g.in[1] * line;
  const int64_t columns = g.merged ? 1 : w.kernel[2];
  const int64_t d_step = w.dilation[0] * plane;
  const int64_t h_step = w.dilation[1] * line;
  const int64_t w_step = w.dilation[2] * g.channels;
  Position position(row, g.out);
  for (int64_t r = 0; r < count; ++r, position.next(g.out)) {
    c_rows[r] = (row + r) * g.out_channels;
    const Dims3 at = {position.at[0] * w.stride[0] - w.begin[0], position.at[1] * w.stride[1] - w.begin[1],
                      position.at[2] * w.stride[2] - w.begin[2]};
    const float* image = x + position.batch * g.in[0] * plane;
    const float** slot = table + r;
    if (covers(g, at)) {
      const float* first = image + at[0] * plane + at[1] * line + at[2] * g.channels;
      for (int64_t i = 0; i < w.kernel[0]; ++i) {
        for (int64_t j = 0; j < w.kernel[1]; ++j) {
          const float* p = first + i * d_step + j * h_step;
          for (int64_t k = 0; k < columns; ++k, slot += kTableRows, p += w_step) *slot = p;
        }
      }
      continue;
    }
    for (int64_t i = 0; i < w.kernel[0]; ++i) {
      const int64_t d = at[0] + i * w.dilation[0];
      for (int64_t j = 0; j < w.kernel[1]; ++j) {
        const int64_t h = at[1] + j * w.dilation[1];
        const bool present = inside(d, g.in[0]) && inside(h, g.in[1]);
        const float* from = present ? image + d * plane + h * line : nullptr;
        if (g.merged) {
          const bool whole = at[2] >= 0 && at[2] + w.kernel[2] <= g.in[2];
          *slot = !present ? zeros : whole ? from + at[2] * g.channels : assemble(g, from, at[2], spare);
          slot += kTableRows;
          continue;
        }
        for (int64_t k = 0; k < columns; ++k, slot += kTableRows) {
          const int64_t v = at[2] + k * w.dilation[2];
          *slot = present && inside(v, g.in[2]) ? from + v * g.channels : zeros;
        }
      }
    }
  }
}

void ConvTransposeRows::fill(int64_t row, int64_t count, const float** table, int64_t* c_rows,
                             float*& /*spare*/) const {
  const ConvGeometry& g = *geometry;
  const Dims3& stride = g.window.stride;
  const int64_t line = g.in[2] * g.channels;
  const int64_t plane = g.in[1] * line;
  Position position(row, phase->count);
  for (int64_t r = 0; r < count; ++r, position.next(phase->count)) {
    const Dims3& at = position.at;
    int64_t y = position.batch;
    for (size_t axis = 0; axis < 3; ++axis) y = y * g.out[axis] + at[axis] * stride[axis] + phase->phase[axis];
    c_rows[r] = y * g.out_channels;
    const float* image = x + position.batch * g.in[0] * plane;
    const float** slot = table + r;
    for (const Dims3& offset : phase->offsets) {
      const int64_t d = at[0] + offset[0];
      const int64_t h = at[1] + offset[1];
      const int64_t v = at[2] + offset[2];
      const bool present = inside(d, g.in[0]) && inside(h, g.in[1]) && inside(v, g.in[2]);
      *slot = present ? image + d * plane + h * line + v * g.channels : zeros;
      slot += kTableRows;
    }
  }
}

}  // namespace graphopt
