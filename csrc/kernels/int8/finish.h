// How a step finishes its sums: parsed once from the attributes, completed by the operands of a run.
#pragma once

#include "graphopt/kernel.h"
#include "kernels/dense/epilogue.h"
#include "kernels/int8/tile.h"

namespace graphopt::int8 {

// Operands of a step behind X and W, each for all columns: the sums' first values (i32), scales (f32), then
// optional ones: offsets (f32), a residual like Y, a table of 256 bytes, factors of the sums of rows (i32).
struct Columns {
  const int32_t* start = nullptr;
  const float* scale = nullptr;
  const float* offset = nullptr;
  const void* residual = nullptr;
  const uint8_t* table = nullptr;
  const int32_t* row_factors = nullptr;
};

// Attributes of a step:
//   zero                             of Y of bytes
//   low, high                        bounds of its numbers without the zero point; default: those of the type
//   out_scale, residual_scale, residual_zero, and mid_scale, mid_low, mid_high
//                                    with a residual of bytes, see Finish
//   activation, alpha, beta, residual_after
//                                    of Y of floats, see Epilogue; of Y of bytes with `out_scale` and no
//                                    residual: of the numbers that are then quantized
class FinishPlan {
 public:
  explicit FinishPlan(const Attrs& attrs);

  // For one run. Throws Error on operands of other types or sizes; `columns` of them are read.
  [[nodiscard]] Finish complete(const char* step, std::span<const Tensor> inputs, const Tensor& y, int64_t columns,
                                Columns& found) const;
  [[nodiscard]] const Epilogue& epilogue() const { return epilogue_; }
  // An activation that is no clamp stands between the sums and Y.
  [[nodiscard]] bool activates() const { return !epilogue_.is_clamp(); }

 private:
  Epilogue epilogue_;
  Finish finish_{};
  bool bounded_;
};

// Bytes of a step's operand X, as the micro-kernels read them.
bool is_signed_byte(const char* step, const Tensor& x);

}  // namespace graphopt::int8
