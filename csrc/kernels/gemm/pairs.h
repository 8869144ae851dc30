// Rounding an operand to bfloat16 pairs before a product.
#pragma once

#include <cstdint>

#include "graphopt/kernel.h"

namespace graphopt {

// Pairs that hold `columns` numbers, and floats from a row of them to the next: rows begin in different
// sets of the cache.
inline int64_t pairs_of(int64_t columns) { return (columns + 1) / 2; }
inline int64_t pairs_step(int64_t columns) { return (pairs_of(columns) + 15) / 16 * 16 + 16; }
inline size_t pairs_bytes(int64_t rows, int64_t columns) {
  return static_cast<size_t>(rows) * static_cast<size_t>(pairs_step(columns)) * sizeof(float);
}

// A dense matrix as pairs in `workspace`, pairs_bytes() long; returns its first row.
const float* round_to_pairs(const float* in, int64_t rows, int64_t columns, void* workspace, const Parallel& parallel);

// Whether a tensor holds bfloat16 numbers. Throws unless it does, and an even number a row, or it holds float32 or is
// absent.
bool is_half(const char* step, const Tensor& tensor);

// Throws unless W is of the type that the step reads: float32, or uint32 for pairs.
void require_weights(const char* step, const Tensor& w, bool pairs);

}  // namespace graphopt
