// Products of 8-bit integers, exact in 32 bits.
//
// Both operands become i16 with their zero points subtracted. The left one is stored by rows, two
// neighbouring depths a pair; the right one by panels of 16 columns, a pair of depths together, which is
// what a multiply-add of i16 pairs reads. Panels are filled on the fly from whatever the columns are.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/convert/dispatch.h"
#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt::convert {

constexpr int64_t pairs_of(int64_t depth) { return (depth + 1) / 2; }

// Rows whose sums are held at a time.
inline constexpr int64_t kIntRows = 256;

// Scratch memory of one worker: a panel and the sums of a block of rows.
struct IntScratch {
  int16_t* panel;
  int32_t* sums;

  static size_t bytes(int64_t depth) {
    return static_cast<size_t>(pairs_of(depth)) * kIntColumns * 2 * sizeof(int16_t) +
           static_cast<size_t>(kIntRows * kIntColumns) * sizeof(int32_t);
  }
  explicit IntScratch(std::byte* memory)
      : panel(reinterpret_cast<int16_t*>(memory + static_cast<size_t>(kIntRows * kIntColumns) * sizeof(int32_t))),
        sums(reinterpret_cast<int32_t*>(memory)) {}
};

// The left operand: `rows` rows of 2 * pairs_of(depth) values.
struct IntRows {
  const int16_t* values;
  int64_t rows;
  int64_t depth;
};

// Where value `k` of column `c` is in a panel.
constexpr int64_t panel_place(int64_t k, int64_t c) { return (k / 2 * kIntColumns + c) * 2 + (k & 1); }

// One panel against all rows; emit(row, sums of 16 columns) for each.
template <class Emit>
void multiply_panel(const IntRows& a, const IntScratch& scratch, Emit&& emit) {
  const int64_t pairs = pairs_of(a.depth);
  for (int64_t row = 0; row < a.rows; row += kIntRows) {
    const int64_t count = std::min(kIntRows, a.rows - row);
    kernels().int_panel(
        {a.values + row * 2 * pairs, 2 * pairs, count, scratch.panel, pairs, scratch.sums, kIntColumns});
    for (int64_t r = 0; r < count; ++r) emit(row + r, scratch.sums + r * kIntColumns);
  }
}

// round(sum * factor) + zero, bounded to an 8-bit type.
template <class T>
inline T requantize(int32_t sum, float factor, int32_t zero) {
  const float q = std::nearbyint(static_cast<float>(sum) * factor);
  const float low = static_cast<float>(std::numeric_limits<T>::min());
  const float high = static_cast<float>(std::numeric_limits<T>::max());
  const float shifted = q + static_cast<float>(zero);
  return static_cast<T>(shifted > low ? std::min(shifted, high) : low);
}

// A zero point or scale for each row or column: of everything, of each one, or of each one of a batch.
class PerLine {
 public:
  PerLine(const Tensor& values, int64_t lines, int64_t batches, const char* what) : values_(values), lines_(lines) {
    // Throws on a type that has no numbers: later calls come from bodies, which must not.
    if (values.present() && values.numel() > 0) (void)support::real_at(values, 0);
    if (!values.present() || values.numel() == 1) {
      kind_ = Kind::kOne;
    } else if (values.numel() == lines) {
      kind_ = Kind::kLine;
    } else if (values.numel() == lines * batches) {
      kind_ = Kind::kBatch;
    } else {
      support::fail(std::string(what) + " has shape " + support::shape_text(values) + ", which fits neither one nor " +
                    std::to_string(lines) + " values");
    }
  }
  [[nodiscard]] int64_t index(int64_t batch, int64_t line) const {
    return kind_ == Kind::kOne ? 0 : (kind_ == Kind::kLine ? line : batch * lines_ + line);
  }
  [[nodiscard]] int32_t integer(int64_t batch, int64_t line) const {
    return values_.present() ? static_cast<int32_t>(support::real_at(values_, index(batch, line))) : 0;
  }
  [[nodiscard]] float real(int64_t batch, int64_t line) const {
    return values_.present() ? static_cast<float>(support::real_at(values_, index(batch, line))) : 1.0F;
  }

 private:
  enum class Kind : uint8_t { kOne, kLine, kBatch };
  Tensor values_;
  int64_t lines_;
  Kind kind_;
};

// f(Tag<uint8_t>{}) or f(Tag<int8_t>{}).
template <class F>
decltype(auto) visit_byte(DType dtype, const char* what, F&& f) {
  switch (dtype) {
    case DType::kU8:
      return f(support::Tag<uint8_t>{});
    case DType::kI8:
      return f(support::Tag<int8_t>{});
    default:
      support::fail(std::string(what) + " has element type " + support::dtype_name(dtype) + ", expected u8 or i8");
  }
}

}  // namespace graphopt::convert
