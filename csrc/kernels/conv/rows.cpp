#include "kernels/conv/rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/gemm/tile.h"

namespace graphopt {
namespace {

bool inside(int64_t at, int64_t size) { return at >= 0 && at < size; }

// Pointers for a run of rows whose inputs lie in one line: row r reads position first + r * stride, or
// zeros where that is no position of the line.
template <class T>
void fill_run(const T** slots, int64_t count, const T* line, int64_t first, int64_t stride, int64_t size,
              int64_t channels, const T* zeros) {
  int64_t begin = 0;
  int64_t end = count;
  if (first < 0) begin = std::min(count, (stride - 1 - first) / stride);
  if (first + (count - 1) * stride >= size) end = first >= size ? 0 : (size - first + stride - 1) / stride;
  end = std::max(begin, end);
  for (int64_t r = 0; r < begin; ++r) slots[r] = zeros;
  for (int64_t r = begin; r < end; ++r) slots[r] = line + (first + r * stride) * channels;
  for (int64_t r = end; r < count; ++r) slots[r] = zeros;
}

}  // namespace

template <class T>
void WindowRows<T>::fill(int64_t row, int64_t count, const T** table, int64_t* c_rows, T*& spare) {
  const ConvGeometry& g = *geometry;
  if (row != next_row) cursor = Position(row, g.out);
  next_row = row + count;
  for (int64_t r = 0; r < count; ++r) c_rows[r] = (row + r) * g.out_channels;
  for (int64_t done = 0; done < count;) {  // lines of outputs
    const int64_t run = std::min(count - done, g.out[2] - cursor.at[2]);
    fill_line(run, table + done, spare);
    done += run;
    cursor.skip(run, g.out);
  }
}

// Rows for `run` outputs of one line, from the cursor on.
template <class T>
void WindowRows<T>::fill_line(int64_t run, const T** slots, T*& spare) const {
  const ConvGeometry& g = *geometry;
  const Window& w = g.window;
  const int64_t line = g.in[2] * g.channels;
  const int64_t first = cursor.at[2] * w.stride[2] - w.begin[2];
  const int64_t columns = g.merged ? 1 : w.kernel[2];
  for (int64_t i = 0; i < w.kernel[0]; ++i) {
    const int64_t d = cursor.at[0] * w.stride[0] - w.begin[0] + i * w.dilation[0];
    for (int64_t j = 0; j < w.kernel[1]; ++j) {
      const int64_t h = cursor.at[1] * w.stride[1] - w.begin[1] + j * w.dilation[1];
      if (!inside(d, g.in[0]) || !inside(h, g.in[1])) {
        for (int64_t k = 0; k < columns; ++k, slots += kTableRows) std::fill_n(slots, run, zeros);
        continue;
      }
      const T* from = x + ((cursor.batch * g.in[0] + d) * g.in[1] + h) * line;
      if (g.merged) {
        fill_merged(run, slots, from, first, spare);
        slots += kTableRows;
        continue;
      }
      for (int64_t k = 0; k < columns; ++k, slots += kTableRows) {
        fill_run(slots, run, from, first + k * w.dilation[2], w.stride[2], g.in[2], g.channels, zeros);
      }
    }
  }
}

template <class T>
void WindowRows<T>::fill_merged(int64_t run, const T** slots, const T* line, int64_t first, T*& spare) const {
  const ConvGeometry& g = *geometry;
  const int64_t last = g.in[2] - g.window.kernel[2];
  const int64_t stride = g.window.stride[2];
  int64_t r = 0;
  for (; r < run && first < 0; ++r, first += stride) slots[r] = assemble(line, first, spare);
  // Rows whose inputs all lie in the line.
  const int64_t inside = first > last ? 0 : std::min(run - r, (last - first) / stride + 1);
  if (inside > 0) {
    const T* from = line + first * g.channels;
    const int64_t step = stride * g.channels;
    for (int64_t i = 0; i < inside; ++i) slots[r + i] = from + i * step;
  }
  r += inside;
  for (first += inside * stride; r < run; ++r, first += stride) slots[r] = assemble(line, first, spare);
}

// A copy of the inputs of one merged segment, padding included.
template <class T>
const T* WindowRows<T>::assemble(const T* line, int64_t begin, T*& spare) const {
  const ConvGeometry& g = *geometry;
  T* copy = spare;
  const int64_t taps = g.window.kernel[2];
  spare += taps * g.window_channels;
  const int64_t left = std::clamp<int64_t>(-begin, 0, taps);
  const int64_t right = std::clamp<int64_t>(g.in[2] - begin, left, taps);
  T* to = std::copy_n(zeros, left * g.window_channels, copy);
  if (right > left) {
    const auto bytes = static_cast<size_t>((right - left) * g.window_channels) * sizeof(T);
    std::memcpy(to, line + (begin + left) * g.channels, bytes);
  }
  std::copy_n(zeros, (taps - right) * g.window_channels, to + (right - left) * g.window_channels);
  return copy;
}

template struct WindowRows<float>;
template struct WindowRows<uint8_t>;

void ConvTransposeRows::fill(int64_t row, int64_t count, const float** table, int64_t* c_rows, float*& /*spare*/) {
  const ConvGeometry& g = *geometry;
  if (row != next_row) cursor = Position(row, phase->count);
  next_row = row + count;
  for (int64_t done = 0; done < count;) {  // lines of outputs
    const int64_t run = std::min(count - done, phase->count[2] - cursor.at[2]);
    int64_t y = cursor.batch;
    for (size_t axis = 0; axis < 3; ++axis) {
      y = y * g.out[axis] + cursor.at[axis] * g.window.stride[axis] + phase->phase[axis];
    }
    for (int64_t r = 0; r < run; ++r) c_rows[done + r] = (y + r * g.window.stride[2]) * g.out_channels;
    const float** slots = table + done;
    for (const Dims3& offset : phase->offsets) {
      const int64_t d = cursor.at[0] + offset[0];
      const int64_t h = cursor.at[1] + offset[1];
      if (inside(d, g.in[0]) && inside(h, g.in[1])) {
        const float* line = x + ((cursor.batch * g.in[0] + d) * g.in[1] + h) * g.in[2] * g.channels;
        fill_run(slots, run, line, cursor.at[2] + offset[2], 1, g.in[2], g.channels, zeros);
      } else {
        std::fill_n(slots, run, zeros);
      }
      slots += kTableRows;
    }
    done += run;
    cursor.skip(run, phase->count);
  }
}

}  // namespace graphopt
